// Measures how the warps of a kernel access memory, while cuda_host.cpp runs them in lockstep: what they access together, a device
// serves together, in as few turns as the addresses allow. The compiler calls in for each access, function and basic block of a
// kernel: g++ -fsanitize=thread -fsanitize-coverage=trace-pc, without ThreadSanitizer itself.
//
//   Shared memory has 32 banks of 4 bytes. It serves a warp of up to 4 bytes a lane at once, 16 lanes of 8 bytes, 8 lanes of 16,
//   and takes a turn more for each further word that these want of one bank (CUDA Programming Guide, "Shared Memory").
//   Global memory comes in sectors of 32 bytes. A warp takes all sectors in which it has a byte; the fewest are its bytes side by
//   side.
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "cuda_host.h"

namespace {

using dcnn_host::is_shared;

enum Kind { SHARED_LOAD, SHARED_STORE, GLOBAL_LOAD, GLOBAL_STORE };

struct Access {
    const void* site;
    uintptr_t address;
    unsigned size;
    bool write;
};

// What Python reads: the accesses of warps from one place in the program, what served them, and what could have at best.
struct Count {
    const void* site;
    int kind;
    unsigned long long accesses, lanes, bytes, served, least;
};

std::vector<Access> step[32];  // of each lane, since the warp's threads were last at one place
std::map<std::pair<const void*, int>, Count> counts;

void add_part(const std::vector<std::pair<uintptr_t, unsigned>>& lanes, bool shared, Count& count) {
    if (!shared) {
        std::set<uintptr_t> sectors, bytes;
        for (auto [address, size] : lanes) {
            for (unsigned i = 0; i < size; ++i) {
                bytes.insert(address + i);
                sectors.insert((address + i) / 32);
            }
        }
        count.served += sectors.size();
        count.least += (bytes.size() + 31) / 32;
        return;
    }
    std::set<uintptr_t> words[32];
    for (auto [address, size] : lanes) {
        for (uintptr_t word = address / 4; word <= (address + size - 1) / 4; ++word) words[word % 32].insert(word);
    }
    size_t turns = 0;
    for (const auto& bank : words) turns = std::max(turns, bank.size());
    count.served += turns;
    count.least += 1;
}

// One access of the lanes, which more than 16 bytes a lane make several of.
void add(const std::vector<Access>& accesses, const unsigned (&lane)[32]) {
    const Access& one = accesses.front();
    bool shared = is_shared(reinterpret_cast<const void*>(one.address));
    int kind = (shared ? SHARED_LOAD : GLOBAL_LOAD) + one.write;
    Count& count = counts[{one.site, kind}];
    count.site = one.site;
    count.kind = kind;
    for (unsigned offset = 0; offset < one.size; offset += 16) {
        unsigned size = std::min(16u, one.size - offset);
        unsigned phase = !shared || size <= 4 ? 32 : size <= 8 ? 16 : 8;  // lanes that are served together
        ++count.accesses;
        count.lanes += accesses.size();
        count.bytes += accesses.size() * size;
        for (unsigned first = 0; first < 32; first += phase) {
            std::vector<std::pair<uintptr_t, unsigned>> part;
            for (size_t i = 0; i < accesses.size(); ++i) {
                if (lane[i] / phase * phase == first) part.push_back({accesses[i].address + offset, size});
            }
            if (!part.empty()) add_part(part, shared, count);
        }
    }
}

// The lanes of a step went through the same basic block, so that the first access of one is the first of all.
void end_step() {
    size_t longest = 0;
    for (const auto& accesses : step) longest = std::max(longest, accesses.size());
    for (size_t number = 0; number < longest; ++number) {
        std::map<std::tuple<const void*, unsigned, bool>, std::pair<std::vector<Access>, std::vector<unsigned>>> at;
        for (unsigned lane = 0; lane < 32; ++lane) {
            if (number >= step[lane].size()) continue;
            const Access& access = step[lane][number];
            auto& [accesses, lanes] = at[{access.site, access.size, is_shared(reinterpret_cast<const void*>(access.address))}];
            accesses.push_back(access);
            lanes.push_back(lane);
        }
        for (auto& [_, together] : at) {
            unsigned lanes[32] = {};
            std::copy(together.second.begin(), together.second.end(), lanes);
            add(together.first, lanes);
        }
    }
    for (auto& accesses : step) accesses.clear();
}

// Whether a page belongs to a library: its variables and constants are no arrays.
bool is_of_library(const void* address) {
    static std::unordered_map<uintptr_t, bool> pages;
    auto [page, is_new] = pages.try_emplace(reinterpret_cast<uintptr_t>(address) >> 12);
    Dl_info info;
    if (is_new) page->second = dladdr(address, &info) != 0;
    return page->second;
}

void access(const void* site, const void* address, unsigned size, bool write) {
    if (!dcnn_host::running || dcnn_host::is_of_threads(address) || (!is_shared(address) && is_of_library(address))) return;
    step[dcnn_host::running->rank % 32].push_back({site, reinterpret_cast<uintptr_t>(address), size, write});
}

const dcnn_host::Lockstep watch = {4, end_step};
const bool begun = (dcnn_host::lockstep = &watch, true);

}  // namespace

extern "C" {

void dcnn_accesses_clear() { counts.clear(); }

size_t dcnn_accesses_count() { return counts.size(); }

void dcnn_accesses_read(Count* all) {
    for (const auto& [_, count] : counts) *all++ = count;
}

#define HERE __builtin_return_address(0)

void __sanitizer_cov_trace_pc() {
    if (dcnn_host::running) dcnn_host::enter_basic_block(HERE);
}
void __tsan_init() {}
void __tsan_func_entry(void* from) {
    if (dcnn_host::running) dcnn_host::enter_function(from);
}
void __tsan_func_exit() {
    if (dcnn_host::running) dcnn_host::leave_function();
}
#define WATCH(size)                                                                             \
    void __tsan_read##size(void* address) { access(HERE, address, size, false); }               \
    void __tsan_write##size(void* address) { access(HERE, address, size, true); }               \
    void __tsan_unaligned_read##size(void* address) { access(HERE, address, size, false); }     \
    void __tsan_unaligned_write##size(void* address) { access(HERE, address, size, true); }
WATCH(1)
WATCH(2)
WATCH(4)
WATCH(8)
WATCH(16)
void __tsan_read_range(void* address, size_t size) { access(HERE, address, size, false); }
void __tsan_write_range(void* address, size_t size) { access(HERE, address, size, true); }

}  // extern "C"
