// Just enough of CUDA to run our kernels on a CPU: the threads of a block are coroutines that run
// one after the other from barrier to barrier; blocks run one after the other.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__ static
#define __shared__ static
using std::fabs;
using std::floor;
using std::log;
using std::sqrt;

struct Triple {
    unsigned x, y, z;
};
static Triple threadIdx, blockIdx, blockDim, gridDim;

static unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool done = false;
};
static ucontext_t scheduler;
static Thread *running;
static void (*body)(void **);
static void **arguments;

static void __syncthreads() {
    swapcontext(&running->context, &scheduler);
}
static void enter() {
    body(arguments);
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

// Runs the block at blockIdx. Threads that end while others wait at a barrier are a defect.
static bool run_block(std::vector<Thread> &threads) {
    for (auto &thread : threads) {
        thread.done = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, enter, 0);
    }
    for (;;) {
        unsigned done = 0;
        for (unsigned i = 0; i < threads.size(); i++) {
            running = &threads[i];
            threadIdx = {i, 0, 0};
            swapcontext(&scheduler, &running->context);
            done += running->done;
        }
        if (done == threads.size()) return true;
        if (done) return false;
    }
}

static int run_grid(void (*kernel)(void **), bool barriers, unsigned x, unsigned y, unsigned threads, void **args) {
    body = kernel;
    arguments = args;
    gridDim = {x, y, 1};
    blockDim = {threads, 1, 1};
    std::vector<Thread> block(barriers ? threads : 0);
    for (unsigned by = 0; by < y; by++) {
        for (unsigned bx = 0; bx < x; bx++) {
            blockIdx = {bx, by, 0};
            // Without barriers a thread is a call.
            for (unsigned t = 0; !barriers && t < threads; t++) {
                threadIdx = {t, 0, 0};
                kernel(args);
            }
            if (barriers && !run_block(block)) return 1;
        }
    }
    return 0;
}

// Calls a kernel with arguments of its own types behind untyped addresses, as a driver does.
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*(A *)args[I]...);
}
template <class... A> static void call(void (*kernel)(A...), void **args) {
    call(kernel, args, std::index_sequence_for<A...>());
}
template <class... A> static constexpr unsigned arity(void (*)(A...)) {
    return sizeof...(A);
}

// What each kernel is called through.
#define DOOR(name, barriers)                                                                        \
    extern "C" int door_##name(unsigned x, unsigned y, unsigned threads, unsigned count, void **args) { \
        if (count != arity(name)) return 2;                                                         \
        return run_grid([](void **a) { call(name, a); }, barriers, x, y, threads, args);                      \
    }
