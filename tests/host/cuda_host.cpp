// Runs the blocks of a kernel one after the other on the CPU: see cuda_host.h.
//
// This file is built without sanitizers; the kernels are built with them. It is a library of its own, so that the shared memory
// of a kernel is all that is in its library's .bss (plus redzones), and can be filled before each block.
#include "cuda_host.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#ifdef DCNN_HOST_THREADS
#include <condition_variable>
#include <mutex>
#include <thread>
#else
#include <ucontext.h>
#endif

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size) __attribute__((weak));
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void* address, size_t size) __attribute__((weak));
}

namespace dcnn_host {

dim3 grid, block;
uint3 block_index;
unsigned char* dynamic_shared;
unsigned capability;

namespace {

struct Fibre;

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
};

#ifdef DCNN_HOST_THREADS
struct Wait {
    std::mutex mutex;
    std::condition_variable arrived;
};
#else
struct Wait {
    std::vector<Thread*> threads;
};
#endif

struct Warp {
    std::vector<std::unique_ptr<Exchange>> exchanges;
    Wait wait;
};

struct Barrier {
    Wait wait;
    int arrived = 0, passed = 0, result = 0;
    unsigned long long turn = 0;
    const char* file = nullptr;
    int line = 0;
};

std::vector<Thread> threads;
std::vector<Warp> warps;
Barrier barrier;
int live;
void (*kernel)(const Argument*);
const Argument* arguments;
std::mt19937_64 generator;
bool randomised;
std::string failure;

Thread& self() { return *static_cast<Thread*>(running); }
Warp& warp_of(const Thread& thread) { return warps[thread.rank / 32]; }

// memset is intercepted by the sanitizers, which would object to the redzones between variables.
void fill(char* begin, char* end) {
    for (volatile char* byte = begin; byte < end; ++byte) *byte = static_cast<char>(0xff);
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------------
#ifdef DCNN_HOST_THREADS

__thread ThreadIndex* running;

void fail(const char* format, ...) {
    std::va_list values;
    va_start(values, format);
    std::fputs("dcnn_host: ", stderr);
    std::vfprintf(stderr, format, values);
    std::fputs("\n", stderr);
    va_end(values);
    std::abort();
}

namespace {

// Waits until `done`; whoever makes it true calls wake.
template <typename Done>
void wait_until(Wait& wait, std::unique_lock<std::mutex> guard, Done done) {
    wait.arrived.wait(guard, done);
}
void wake(Wait& wait) { wait.arrived.notify_all(); }
std::unique_lock<std::mutex> lock(Wait& wait) { return std::unique_lock<std::mutex>(wait.mutex); }

void exit_thread();

void run_blocks(const std::vector<uint3>& blocks, unsigned char* dynamic, char* shared_begin, char* shared_end,
                unsigned long long bytes) {
    // A barrier between blocks too: their threads are the same, and shared memory is filled afresh.
    std::mutex mutex;
    std::condition_variable changed;
    size_t next = 0, finished = 0;
    std::vector<std::thread> workers;
    for (Thread& thread : threads) {
        workers.emplace_back([&] {
            running = &thread;
            for (size_t number = 1; number <= blocks.size(); ++number) {
                {
                    std::unique_lock<std::mutex> guard(mutex);
                    changed.wait(guard, [&] { return next >= number; });
                }
                kernel(arguments);
                exit_thread();
                std::unique_lock<std::mutex> guard(mutex);
                ++finished;
                changed.notify_all();
            }
        });
    }
    for (const uint3& index : blocks) {
        std::unique_lock<std::mutex> guard(mutex);
        block_index = index;
        live = static_cast<int>(threads.size());
        for (Thread& thread : threads) {
            thread.exited = false;
            thread.copies.clear();
        }
        fill(shared_begin, shared_end);
        fill(reinterpret_cast<char*>(dynamic), reinterpret_cast<char*>(dynamic) + bytes);
        ++next;
        finished = 0;
        changed.notify_all();
        changed.wait(guard, [&] { return finished == threads.size(); });
    }
    for (std::thread& worker : workers) worker.join();
}

}  // namespace

#else  // ------------------------------------------------------------------------------------------------------------------

ThreadIndex* running;

namespace {

constexpr size_t STACK = 256 << 10;

struct Fibre {
    ucontext_t context;
    void* stack_pointer = nullptr;
    const void* bottom = nullptr;
    size_t size = 0;
    void* fake_stack = nullptr;
    Thread* thread = nullptr;
};

Fibre main_fibre;
Fibre *current = &main_fibre, *previous;
std::vector<Fibre*> idle;
std::vector<Thread*> unstarted, ready;
size_t next_unstarted, next_ready;

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
#ifdef __x86_64__
    dcnn_switch_stack(&previous->stack_pointer, fibre->stack_pointer);
#else
    swapcontext(&previous->context, &fibre->context);
#endif
    arrive();
}

// The next thread to run: one that was woken, or one that hasn't begun. In order, or at random.
Thread* choose() {
    size_t fresh = unstarted.size() - next_unstarted, woken = ready.size() - next_ready;
    if (!fresh && !woken) return nullptr;
    size_t place = randomised ? generator() % (fresh + woken) : 0;
    if (place < fresh) {
        if (randomised) std::swap(unstarted[next_unstarted], unstarted[next_unstarted + place]);
        return unstarted[next_unstarted++];
    }
    if (randomised) std::swap(ready[next_ready], ready[next_ready + place - fresh]);
    Thread* thread = ready[next_ready++];
    if (next_ready == ready.size()) {
        ready.clear();
        next_ready = 0;
    }
    return thread;
}

void exit_thread();

void fibre_main() {
    arrive();
    for (;;) {
        Thread* thread = current->thread;
        running = thread;
        kernel(arguments);
        exit_thread();
        Thread* next = choose();
        if (next && !next->fibre) {
            next->fibre = current;
            current->thread = next;
            continue;
        }
        // Nobody left: the block is done, or what is left waits for ever. The main fibre sees which.
        idle.push_back(current);
        if (next) running = next;
        switch_to(next ? next->fibre : &main_fibre);
    }
}

Fibre* new_fibre() {
    if (!idle.empty()) {
        Fibre* fibre = idle.back();
        idle.pop_back();
        return fibre;
    }
    // A page that can't be touched lies below the stack.
    char* memory = static_cast<char*>(mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, 4096, PROT_NONE);
    Fibre* fibre = new Fibre;
    fibre->bottom = memory + 4096;
    fibre->size = STACK;
#ifdef __x86_64__
    void** top = reinterpret_cast<void**>(memory + 4096 + STACK) - 2;
    *top = reinterpret_cast<void*>(fibre_main);
    fibre->stack_pointer = top - 6;
#else
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = memory + 4096;
    fibre->context.uc_stack.ss_size = STACK;
    makecontext(&fibre->context, fibre_main, 0);
#endif
    return fibre;
}

// Leaves the running thread where it is, until another makes it ready, and runs others.
void run_others() {
    Thread* thread = static_cast<Thread*>(running);
    Thread* next = choose();
    if (!next) {
        switch_to(&main_fibre);
    } else if (next->fibre) {
        running = next;
        switch_to(next->fibre);
    } else {
        next->fibre = new_fibre();
        next->fibre->thread = next;
        running = next;
        switch_to(next->fibre);
    }
    running = thread;
}

struct NoLock {};
NoLock lock(Wait&) { return {}; }
template <typename Done>
void wait_until(Wait& wait, NoLock, Done done) {
    Thread* thread = static_cast<Thread*>(running);
    while (!done()) {
        wait.threads.push_back(thread);
        run_others();
    }
}
void wake(Wait& wait) {
    ready.insert(ready.end(), wait.threads.begin(), wait.threads.end());
    wait.threads.clear();
}

// What is left on the stacks of threads that will never go on is forgotten.
void abandon() {
    for (Thread& thread : threads) {
        if (thread.fibre && !thread.exited && __asan_unpoison_memory_region) {
            __asan_unpoison_memory_region(thread.fibre->bottom, thread.fibre->size);
        }
    }
}

void run_blocks(const std::vector<uint3>& blocks, unsigned char* dynamic, char* shared_begin, char* shared_end,
                unsigned long long bytes) {
    for (const uint3& index : blocks) {
        block_index = index;
        live = static_cast<int>(threads.size());
        unstarted.clear();
        ready.clear();
        next_unstarted = next_ready = 0;
        for (Thread& thread : threads) {
            thread.fibre = nullptr;
            thread.exited = false;
            thread.copies.clear();
            unstarted.push_back(&thread);
        }
        fill(shared_begin, shared_end);
        fill(reinterpret_cast<char*>(dynamic), reinterpret_cast<char*>(dynamic) + bytes);
        Thread* first = choose();
        first->fibre = new_fibre();
        first->fibre->thread = first;
        switch_to(first->fibre);
        if (failure.empty() && live) {
            failure = "threads of block (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
                      std::to_string(index.z) + ") wait for ever:";
            for (const Thread& thread : threads) {
                if (!thread.exited) {
                    failure += " thread " + std::to_string(thread.rank) + " at " + thread.file + ":" + std::to_string(thread.line);
                    break;
                }
            }
        }
        if (!failure.empty()) {
            abandon();
            return;
        }
    }
}

}  // namespace

void fail(const char* format, ...) {
    char text[400];
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    failure = text;
    switch_to(&main_fibre);
    std::abort();
}

#endif  // ------------------------------------------------------------------------------------------------------------------

namespace {

bool under_way(const Exchange& exchange) { return exchange.holders && exchange.arrived != exchange.mask; }

void release(Thread& thread) {
    if (thread.held) --thread.held->holders;
    thread.held = nullptr;
}

void release_barrier() {
    barrier.result = barrier.passed;
    barrier.arrived = barrier.passed = 0;
    ++barrier.turn;
    wake(barrier.wait);
}

// A thread that has returned counts as arrived at every barrier, as on devices from sm_70 on.
void exit_thread() {
    Thread& thread = self();
    {
        auto guard = lock(warp_of(thread).wait);
        thread.exited = true;
        release(thread);
        for (auto& open : warp_of(thread).exchanges) {
            if (under_way(*open) && open->mask >> thread.rank % 32 & 1) {
                fail("%s:%d: lane %u of mask %#x has returned", open->file, open->line, thread.rank % 32, open->mask);
            }
        }
    }
    auto guard = lock(barrier.wait);
    --live;
    if (live && barrier.arrived == live) release_barrier();
}

}  // namespace

bool all_passed(int count) {
    auto guard = lock(barrier.wait);
    return count == live;
}

int wait_block(bool predicate, const char* file, int line) {
    Thread& thread = self();
    auto guard = lock(barrier.wait);
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
    unsigned long long turn = barrier.turn;
    if (barrier.arrived == live) {
        release_barrier();
    } else {
        wait_until(barrier.wait, std::move(guard), [&] { return barrier.turn != turn; });
    }
    return barrier.result;
}

const Slot* exchange(unsigned mask, const void* value, size_t bytes, const char* file, int line) {
    Thread& thread = self();
    Warp& warp = warp_of(thread);
    unsigned lane = thread.rank % 32, first = thread.rank - lane;
    auto guard = lock(warp.wait);
    thread.file = file;
    thread.line = line;
    release(thread);
    if (!(mask >> lane & 1)) fail("%s:%d: lane %u isn't in its own mask %#x", file, line, lane, mask);
    for (unsigned other = 0; other < 32; ++other) {
        if (mask >> other & 1 && (first + other >= threads.size() || threads[first + other].exited)) {
            fail("%s:%d: mask %#x names lane %u, which has returned or isn't there", file, line, mask, other);
        }
    }
    Exchange* open = nullptr;
    for (auto& candidate : warp.exchanges) {
        if (under_way(*candidate) && candidate->mask & mask) {
            if (candidate->mask != mask || candidate->line != line || candidate->file != file) {
                fail("%s:%d: lanes of mask %#x wait at %s:%d with mask %#x", file, line, mask, candidate->file, candidate->line,
                     candidate->mask);
            }
            open = candidate.get();
        }
    }
    if (!open) {
        for (auto& candidate : warp.exchanges) {
            if (!candidate->holders) open = candidate.get();
        }
        if (!open) {
            warp.exchanges.push_back(std::make_unique<Exchange>());
            open = warp.exchanges.back().get();
        }
        open->mask = mask;
        open->arrived = 0;
        open->file = file;
        open->line = line;
    }
    if (bytes) std::memcpy(open->slots[lane].bytes, value, bytes);
    open->arrived |= 1u << lane;
    ++open->holders;
    thread.held = open;
    if (open->arrived == mask) {
        wake(warp.wait);
    } else {
        wait_until(warp.wait, std::move(guard), [&] { return open->arrived == mask; });
    }
    return open->slots;
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
    if (type.kind == 'P') return type.element == '?' ? "pointer" : name({type.element, 0, type.size}) + "*";
    const char* base = type.kind == 'i' ? "int" : type.kind == 'u' ? "uint" : type.kind == 'f' ? "float" : "bool";
    return type.kind == '?' ? std::to_string(type.size) + " bytes" : type.kind == 'b' ? base : base + std::to_string(8 * type.size);
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

}  // namespace

int run(const Launch& launch, const Type* parameters, unsigned count, void (*entry)(const Argument*), char* shared_begin,
        char* shared_end, char* message, size_t message_size) {
    failure.clear();
    if (launch.count != count) {
        failure = "the kernel has " + std::to_string(count) + " parameters, and " + std::to_string(launch.count) + " arguments were given";
    }
    for (unsigned i = 0; failure.empty() && i < count; ++i) {
        if (!fits(launch.arguments[i], parameters[i])) {
            failure = "argument " + std::to_string(i) + " is " + name(launch.arguments[i].type) + ", and the kernel's parameter " +
                      name(parameters[i]);
        }
    }
    if (failure.empty()) {
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
        barrier.arrived = barrier.passed = 0;
#ifndef DCNN_HOST_THREADS
        barrier.wait.threads.clear();
#endif
        std::vector<uint3> blocks;
        for (unsigned z = 0; z < grid.z; ++z) {
            for (unsigned y = 0; y < grid.y; ++y) {
                for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
            }
        }
        if (randomised) std::shuffle(blocks.begin(), blocks.end(), generator);
        // Of the very size: the sanitizer sees a byte too far.
        void* dynamic = nullptr;
        if (posix_memalign(&dynamic, 16, launch.shared_bytes)) std::abort();
        dynamic_shared = static_cast<unsigned char*>(dynamic);
        run_blocks(blocks, dynamic_shared, shared_begin, shared_end, launch.shared_bytes);
        std::free(dynamic);
    }
    std::snprintf(message, message_size, "%s", failure.c_str());
    return !failure.empty();
}

}  // namespace dcnn_host
