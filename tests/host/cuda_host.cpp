// Runs the blocks of a kernel one after the other on the CPU, and the threads of a block as fibres: see cuda_host.h.
//
// This file is built without sanitizers, the kernels are built with them. To AddressSanitizer it names the stacks it switches
// to. To ThreadSanitizer every fibre is a thread, ordered with the others by CUDA's own barriers alone: so a race is seen in
// whatever order the fibres happen to run, and none is hidden by the locks that barriers of real threads would be made of.
//
// It is a library of its own, so that the shared memory of a kernel is all that is in its library's .bss (plus redzones), and
// can be filled before each block.
#include "cuda_host.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address, size_t size);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);
}

namespace dcnn_host {

dim3 grid, block;
uint3 block_index;
unsigned char* dynamic_shared;
unsigned capability;
ThreadIndex* running;
const Lockstep* lockstep;

namespace {

constexpr size_t STACK = 256 << 10, PAGE = 4096;

struct Fibre {
#ifdef __x86_64__
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    const void* bottom = nullptr;
    size_t size = 0;
    void* fake_stack = nullptr;
    void* tsan = nullptr;
    struct Thread* thread = nullptr;
};

// A warp operation under way: it ends when all lanes of the mask have come.
struct Exchange {
    unsigned mask, arrived;
    int holders;  // lanes that may still read the slots
    const char* file;
    int line;
    Slot slots[32];
};

struct Thread : ThreadIndex {
    Fibre* fibre = nullptr;
    Exchange* held = nullptr;
    bool exited = false;
    struct Pending {
        int group;
        AsyncCopy copy;
    };
    std::vector<Pending> copies;
    int groups = 0;
    const char* file = nullptr;  // where it waits
    int line = 0;
    // In lockstep: whether it may go on, the calls that it is in and its basic block, and how often it has waited in that.
    bool ready = false;
    std::vector<const void*> place;
    unsigned waits = 0;

    bool is_before(const Thread& other) const { return place != other.place ? place < other.place : waits < other.waits; }
};

using Waiting = std::vector<Thread*>;

struct Warp {
    Exchange exchanges[32] = {};
    Waiting waiting;
};

struct Barrier {
    Waiting waiting;
    int arrived = 0, passed = 0, passed_last = 0, arrived_last = 0;
    unsigned turn = 0;
    char order[2];  // what ThreadSanitizer knows the barrier by, every other turn
    const char* file = nullptr;
    int line = 0;
};

std::vector<Thread> threads;
std::vector<Warp> warps;
Barrier barrier;
char block_begins, block_ends;
int live;
void (*kernel)(const Argument*);
const Argument* arguments;
std::mt19937_64 generator;
bool randomised;
char failure[500];
const char *shared_memory, *shared_memory_end;
size_t dynamic_bytes;

Fibre main_fibre;
Fibre *current = &main_fibre, *previous;
std::vector<Fibre*> idle, used;

// Threads that may run: a ring in which each has its place at most once.
struct Queue {
    std::vector<Thread*> room;
    size_t first = 0, count = 0;

    void clear(size_t threads) {
        room.resize(threads);
        first = count = 0;
    }
    void push(Thread* thread) { room[(first + count++) % room.size()] = thread; }
    Thread* pop(size_t place) {
        std::swap(room[first], room[(first + place) % room.size()]);
        Thread* thread = room[first];
        first = (first + 1) % room.size();
        --count;
        return thread;
    }
};
Queue unstarted, woken;

size_t current_warp;
Waiting together;  // threads of a warp at one place, the next last

Thread& self() { return *static_cast<Thread*>(running); }
Warp& warp_of(const Thread& thread) { return warps[thread.rank / 32]; }

void acquire(void* order) {
    if (__tsan_acquire) __tsan_acquire(order);
}
void release(void* order) {
    if (__tsan_release) __tsan_release(order);
}

// The sanitizers watch memset, memcpy and the like, also when this file calls them. It writes redzones between variables, and
// its own lists from every fibre; these have their room from the start, and never move.
void fill(void* begin, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(begin)[i] = 0xff;
}
void copy(void* target, const void* source, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(target)[i] = static_cast<const unsigned char*>(source)[i];
}

#ifdef __x86_64__
// Saves the registers that a call preserves on this stack, and takes them from the other: swapcontext without its system call.
extern "C" void dcnn_switch_stack(void** from, void* to);
asm(R"(
.text
.type dcnn_switch_stack, @function
dcnn_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

void arrive() {
    if (__sanitizer_finish_switch_fiber) {
        __sanitizer_finish_switch_fiber(current->fake_stack, &previous->bottom, &previous->size);
    }
}

void switch_to(Fibre* fibre) {
    if (fibre == current) return;
    previous = current;
    current = fibre;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&previous->fake_stack, fibre->bottom, fibre->size);
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fibre->tsan, 1);  // 1: the switch itself orders nothing
#ifdef __x86_64__
    dcnn_switch_stack(&previous->stack_pointer, fibre->stack_pointer);
#else
    swapcontext(&previous->context, &fibre->context);
#endif
    arrive();
}

// In lockstep, the next of the threads at one place; when all have gone on, of those at the first place of this warp, or the next.
Thread* choose_in_lockstep() {
    for (Queue* queue : {&unstarted, &woken}) {
        while (queue->count) queue->pop(0)->ready = true;
    }
    if (together.empty()) {
        lockstep->end_step();
        for (size_t tried = 0; tried < warps.size() && together.empty(); ++tried) {
            size_t first = (current_warp + tried) % warps.size() * 32, end = std::min(first + 32, threads.size());
            for (size_t rank = end; rank-- > first;) {
                Thread& thread = threads[rank];
                if (!thread.ready) continue;
                if (!together.empty() && thread.is_before(*together.front())) together.clear();
                if (together.empty() || !together.front()->is_before(thread)) together.push_back(&thread);
            }
            if (!together.empty()) current_warp = first / 32;
        }
        for (Thread* thread : together) thread->ready = false;
    }
    if (together.empty()) return nullptr;
    Thread* next = together.back();
    together.pop_back();
    return next;
}

// The next thread to run: one that hasn't begun, or one that was woken. In order, or at random.
Thread* choose() {
    if (lockstep) return choose_in_lockstep();
    size_t count = unstarted.count + woken.count;
    if (!count) return nullptr;
    size_t place = randomised ? generator() % count : 0;
    return place < unstarted.count ? unstarted.pop(place) : woken.pop(place - unstarted.count);
}

void exit_thread();

void fibre_main() {
    arrive();
    for (;;) {
        running = current->thread;
        acquire(&block_begins);
        kernel(arguments);
        release(&block_ends);
        exit_thread();
        Thread* next = choose();
        // A thread that hasn't begun goes on with this stack, unless ThreadSanitizer is to tell the two apart.
        if (next && !next->fibre && !__tsan_create_fiber) {
            next->fibre = current;
            current->thread = next;
            continue;
        }
        (__tsan_create_fiber ? used : idle).push_back(current);
        void resume(Thread*);
        resume(next);
    }
}

Fibre* new_fibre() {
    // Below the stack lies a page that can't be touched.
    char* memory = static_cast<char*>(mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, PAGE, PROT_NONE);
    Fibre* fibre = new Fibre;
    fibre->bottom = memory + PAGE;
    fibre->size = STACK;
    if (__tsan_create_fiber) fibre->tsan = __tsan_create_fiber(0);
#ifdef __x86_64__
    void** top = reinterpret_cast<void**>(memory + PAGE + STACK) - 2;
    *top = reinterpret_cast<void*>(fibre_main);
    fibre->stack_pointer = top - 6;
#else
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = memory + PAGE;
    fibre->context.uc_stack.ss_size = STACK;
    makecontext(&fibre->context, fibre_main, 0);
#endif
    return fibre;
}

Fibre* take_fibre() {
    if (idle.empty()) return new_fibre();
    Fibre* fibre = idle.back();
    idle.pop_back();
    return fibre;
}

// Goes on with a thread. Without one, the block is done, or what is left of it waits for ever: run_block sees which.
void resume(Thread* thread) {
    if (thread && !thread->fibre) {
        thread->fibre = take_fibre();
        thread->fibre->thread = thread;
    }
    running = thread;
    switch_to(thread ? thread->fibre : &main_fibre);
}

// Lets others run until `done`; whoever makes it true calls wake.
template <typename Done>
void wait_until(Waiting& waiting, Done done) {
    Thread* thread = &self();
    while (!done()) {
        waiting.push_back(thread);
        resume(choose());
        running = thread;
    }
}

// In lockstep: lets the others come to where this thread is.
void go_together() {
    if (!lockstep) return;
    Thread* thread = &self();
    ++thread->waits;
    woken.push(thread);
    resume(choose());
    running = thread;
}

void wake(Waiting& waiting) {
    for (Thread* thread : waiting) woken.push(thread);
    waiting.clear();
}

void run_block(const uint3& index) {
    block_index = index;
    live = static_cast<int>(threads.size());
    unstarted.clear(threads.size());
    woken.clear(threads.size());
    together.clear();
    for (Thread& thread : threads) {
        thread.fibre = nullptr;
        thread.exited = false;
        thread.copies.clear();
        thread.place.assign(1, nullptr);
        thread.waits = 0;
        unstarted.push(&thread);
    }
    resume(choose());
    idle.insert(idle.end(), used.begin(), used.end());
    used.clear();
    if (live && !*failure) {
        std::string places;
        const char* file = nullptr;
        int line = 0;
        for (const Thread& thread : threads) {
            if (thread.exited || (thread.file == file && thread.line == line)) continue;
            file = thread.file;
            line = thread.line;
            places += std::string(" ") + file + ":" + std::to_string(line) + " (thread " + std::to_string(thread.rank) + ")";
        }
        std::snprintf(failure, sizeof failure, "threads wait for ever at%s", places.c_str());
    }
    if (!*failure) return;
    acquire(&block_ends);
    // What is left on the stacks of threads that will never go on is forgotten.
    for (Thread& thread : threads) {
        if (thread.fibre && !thread.exited && __asan_unpoison_memory_region) {
            __asan_unpoison_memory_region(thread.fibre->bottom, thread.fibre->size);
        }
    }
}

bool under_way(const Exchange& exchange) { return exchange.holders && exchange.arrived != exchange.mask; }

void let_go(Thread& thread) {
    if (thread.held) --thread.held->holders;
    thread.held = nullptr;
}

void end_barrier() {
    barrier.passed_last = barrier.passed;
    barrier.arrived_last = barrier.arrived;
    barrier.arrived = barrier.passed = 0;
    ++barrier.turn;
    wake(barrier.waiting);
}

// A thread that has returned counts as arrived at every barrier, as on devices from sm_70 on.
void exit_thread() {
    Thread& thread = self();
    thread.exited = true;
    let_go(thread);
    for (auto& open : warp_of(thread).exchanges) {
        if (under_way(open) && open.mask >> thread.rank % 32 & 1) {
            fail("%s:%d: lane %u of mask %#x has returned", open.file, open.line, thread.rank % 32, open.mask);
        }
    }
    --live;
    if (live && barrier.arrived == live) end_barrier();
}

}  // namespace

void fail(const char* format, ...) {
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(failure, sizeof failure, format, values);
    va_end(values);
    release(&block_ends);
    switch_to(&main_fibre);
    std::abort();
}

bool all_passed(int count) { return count == barrier.arrived_last; }

int wait_block(bool predicate, const char* file, int line) {
    Thread& thread = self();
    if (barrier.arrived == 0) {
        barrier.file = file;
        barrier.line = line;
    } else if (barrier.line != line || barrier.file != file) {
        fail("the threads of a block wait at two barriers: %s:%d and %s:%d", barrier.file, barrier.line, file, line);
    }
    thread.file = file;
    thread.line = line;
    ++barrier.arrived;
    barrier.passed += predicate;
    unsigned turn = barrier.turn;
    release(&barrier.order[turn % 2]);
    if (barrier.arrived == live) {
        end_barrier();
    } else {
        wait_until(barrier.waiting, [&] { return barrier.turn != turn; });
    }
    acquire(&barrier.order[turn % 2]);
    int passed = barrier.passed_last;
    go_together();
    return passed;
}

const Slot* exchange(unsigned mask, const void* value, size_t bytes, const char* file, int line) {
    Thread& thread = self();
    Warp& warp = warp_of(thread);
    unsigned lane = thread.rank % 32, first = thread.rank - lane;
    thread.file = file;
    thread.line = line;
    let_go(thread);
    if (!(mask >> lane & 1)) fail("%s:%d: lane %u isn't in its own mask %#x", file, line, lane, mask);
    for (unsigned other = 0; other < 32; ++other) {
        if (mask >> other & 1 && (first + other >= threads.size() || threads[first + other].exited)) {
            fail("%s:%d: mask %#x names lane %u, which has returned or isn't there", file, line, mask, other);
        }
    }
    Exchange *open = nullptr, *free = nullptr;  // each lane holds one at most, so one is free
    for (auto& candidate : warp.exchanges) {
        if (!candidate.holders) free = &candidate;
        // Lanes that went on may wait with a larger mask already; who waits with another mask or elsewhere waits for ever.
        if (under_way(candidate) && candidate.mask == mask && candidate.line == line && candidate.file == file) open = &candidate;
    }
    if (!open) {
        open = free;
        open->mask = mask;
        open->arrived = 0;
        open->file = file;
        open->line = line;
    }
    copy(open->slots[lane].bytes, value, bytes);
    open->arrived |= 1u << lane;
    ++open->holders;
    thread.held = open;
    release(open);
    if (open->arrived == mask) {
        wake(warp.waiting);
    } else {
        wait_until(warp.waiting, [&] { return open->arrived == mask; });
    }
    acquire(open);
    go_together();
    return open->slots;
}

void enter_function(const void* from) {
    self().place.back() = from;
    self().place.push_back(nullptr);
}

void leave_function() { self().place.pop_back(); }

void enter_basic_block(const void* place) {
    self().place.back() = place;
    self().waits = 0;
    go_together();
}

bool is_shared(const void* address) {
    const char* byte = static_cast<const char*>(address);
    const char* dynamic = reinterpret_cast<const char*>(dynamic_shared);
    return (shared_memory <= byte && byte < shared_memory_end) || (dynamic <= byte && byte < dynamic + dynamic_bytes);
}

bool is_of_threads(const void* address) {
    const char* byte = static_cast<const char*>(address);
    auto in = [byte](const void* begin, size_t size) { return static_cast<size_t>(byte - static_cast<const char*>(begin)) < size; };
    return in(current->bottom, current->size) || in(threads.data(), threads.size() * sizeof(Thread)) ||
           in(warps.data(), warps.size() * sizeof(Warp));
}

void async_push(const AsyncCopy& copy) { self().copies.push_back({self().groups, copy}); }

void async_commit() { ++self().groups; }

bool async_pop(int pending_groups, AsyncCopy& copy) {
    Thread& thread = self();
    if (thread.copies.empty() || thread.copies.front().group >= thread.groups - pending_groups) return false;
    copy = thread.copies.front().copy;
    thread.copies.erase(thread.copies.begin());
    return true;
}

namespace {

std::string name(const Type& type) {
    if (type.kind == 'P') return type.element == '?' ? "a pointer" : name({type.element, 0, type.size}) + "*";
    if (type.kind == '?') return std::to_string(type.size) + " bytes";
    if (type.kind == 'b') return "bool";
    const char* base = type.kind == 'i' ? "int" : type.kind == 'u' ? "uint" : "float";
    return base + std::to_string(8 * type.size);
}

bool fits(const Argument& given, const Type& wanted) {
    if (wanted.kind == 'P' && given.type.kind == 'u' && given.type.size == 8) {
        return *static_cast<const unsigned long long*>(given.value) == 0;  // a null pointer
    }
    if (given.type.kind == 'P' && wanted.kind == 'P') {
        return wanted.element == '?' || (given.type.element == wanted.element && given.type.size == wanted.size);
    }
    return given.type.size == wanted.size && (given.type.kind == wanted.kind || (wanted.kind == '?' && given.type.kind != 'P'));
}

void check(const Launch& launch, const Type* parameters, unsigned count) {
    if (launch.count != count) {
        std::snprintf(failure, sizeof failure, "the kernel has %u parameters, but got %u arguments", count, launch.count);
    }
    for (unsigned i = 0; !*failure && i < count; ++i) {
        if (!fits(launch.arguments[i], parameters[i])) {
            std::snprintf(failure, sizeof failure, "argument %u is %s, but the kernel's parameter %s", i,
                          name(launch.arguments[i].type).c_str(), name(parameters[i]).c_str());
        }
    }
}

}  // namespace

int run(const Launch& launch, const Type* parameters, unsigned count, void (*entry)(const Argument*), char* shared_begin,
        char* shared_end, char* message, size_t message_size) {
    *failure = 0;
    check(launch, parameters, count);
    if (!*failure) {
        kernel = entry;
        arguments = launch.arguments;
        grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
        block = {launch.block[0], launch.block[1], launch.block[2]};
        capability = launch.capability;
        generator.seed(launch.seed);
        randomised = launch.seed != 0;
        threads = std::vector<Thread>(block.x * block.y * block.z);
        for (unsigned rank = 0; rank < threads.size(); ++rank) {
            threads[rank].index = {rank % block.x, rank / block.x % block.y, rank / block.x / block.y};
            threads[rank].rank = rank;
        }
        warps = std::vector<Warp>((threads.size() + 31) / 32);
        for (Warp& warp : warps) warp.waiting.reserve(2 * 32);
        barrier = Barrier();
        barrier.waiting.reserve(threads.size());
        idle.reserve(idle.size() + threads.size());
        used.reserve(threads.size());
        // To ThreadSanitizer, a fibre that another creates comes after it.
        while (__tsan_create_fiber && idle.size() < threads.size()) idle.push_back(new_fibre());
        if (__tsan_get_current_fiber) main_fibre.tsan = __tsan_get_current_fiber();
        std::vector<uint3> blocks;
        for (unsigned z = 0; z < grid.z; ++z) {
            for (unsigned y = 0; y < grid.y; ++y) {
                for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
            }
        }
        if (randomised) std::shuffle(blocks.begin(), blocks.end(), generator);
        if (lockstep && blocks.size() > lockstep->blocks) {
            for (size_t i = 0; i < lockstep->blocks; ++i) blocks[i] = blocks[(2 * i + 1) * blocks.size() / (2 * lockstep->blocks)];
            blocks.resize(lockstep->blocks);
        }
        shared_memory = shared_begin;
        shared_memory_end = shared_end;
        dynamic_bytes = launch.shared_bytes;
        std::vector<void*> dynamic;
        for (const uint3& index : blocks) {
            // Of the very size, so that a byte too far is seen; and other memory for each block, so that ThreadSanitizer sees
            // races between blocks. Static shared memory is the same for all, and so orders them.
            void* memory = nullptr;
            if (posix_memalign(&memory, 16, launch.shared_bytes)) std::abort();
            dynamic.push_back(memory);
            dynamic_shared = static_cast<unsigned char*>(memory);
            fill(memory, launch.shared_bytes);
            fill(shared_begin, shared_end - shared_begin);
            release(&block_begins);
            run_block(index);
            if (*failure) break;
            if (shared_end - shared_begin > 16) acquire(&block_ends);
        }
        acquire(&block_ends);
        for (void* memory : dynamic) std::free(memory);
    }
    std::snprintf(message, message_size, "%s", failure);
    return *failure != 0;
}

}  // namespace dcnn_host
