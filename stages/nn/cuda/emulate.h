// Just enough of CUDA to run our kernels on a CPU: the threads of a block are coroutines that run
// one after the other from barrier to barrier; blocks run one after the other.
#define EMULATED
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
#define __forceinline__ inline
#define __launch_bounds__(...)
using std::exp;
using std::fabs;
using std::floor;
using std::fma;
using std::log;
using std::sqrt;
using std::tanh;

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

// Who waits for whom: the threads of a block, or of a warp.
enum Barrier { BLOCK, WARP };

struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool done = false;
    Barrier last = BLOCK;
    unsigned arrivals[2] = {};
};
static ucontext_t scheduler;
static Thread *running;
static void (*body)(void **);
static void **arguments;
// Arrivals of all threads of a group, at barriers of either kind.
static unsigned arrivals[2][32];

static unsigned group_of(Barrier kind, unsigned thread) {
    return kind == WARP ? thread / 32 : 0;
}
static void wait(Barrier kind) {
    running->last = kind;
    running->arrivals[kind]++;
    arrivals[kind][group_of(kind, threadIdx.x)]++;
    swapcontext(&running->context, &scheduler);
}
static void __syncthreads() {
    wait(BLOCK);
}
static void enter() {
    body(arguments);
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

// The order in which threads run from barrier to barrier; results must not depend on it.
static bool backwards;

// Shared memory of the launch, and what must stay as it is behind it. It starts as no number.
static std::vector<unsigned char> shared_memory;
static const unsigned GUARD = 4096;
#define SHARED(T, name) T *name = (T *)shared_memory.data()

// Runs the block at blockIdx. Threads that end while others wait at a barrier are a defect.
static bool run_block(std::vector<Thread> &threads) {
    memset(arrivals, 0, sizeof(arrivals));
    for (auto &thread : threads) {
        thread.done = false;
        thread.arrivals[BLOCK] = thread.arrivals[WARP] = 0;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, enter, 0);
    }
    unsigned size[2] = {(unsigned)threads.size(), 32};
    for (unsigned done = 0, moved = 1; moved;) {
        moved = 0;
        for (unsigned j = 0; j < threads.size(); j++) {
            unsigned i = backwards ? threads.size() - 1 - j : j;
            Thread &t = threads[i];
            bool together = arrivals[t.last][group_of(t.last, i)] >= t.arrivals[t.last] * size[t.last];
            if (t.done || !together) continue;
            running = &t;
            threadIdx = {i, 0, 0};
            swapcontext(&scheduler, &t.context);
            done += t.done;
            moved++;
        }
        if (done == threads.size()) return true;
    }
    return false;
}

static int run_grid(void (*kernel)(void **), bool barriers, unsigned x, unsigned y, unsigned threads, unsigned shared,
                    void **args) {
    body = kernel;
    arguments = args;
    gridDim = {x, y, 1};
    blockDim = {threads, 1, 1};
    std::vector<Thread> block(barriers ? threads : 0);
    for (unsigned by = 0; by < y; by++) {
        for (unsigned bx = 0; bx < x; bx++) {
            blockIdx = {bx, by, 0};
            shared_memory.assign(shared + GUARD, 0xff);
            // Without barriers a thread is a call.
            for (unsigned t = 0; !barriers && t < threads; t++) {
                threadIdx = {t, 0, 0};
                kernel(args);
            }
            if (barriers && !run_block(block)) return 1;
            for (unsigned i = shared; i < shared_memory.size(); i++) {
                if (shared_memory[i] != 0xff) return 3;
            }
        }
    }
    return 0;
}

// The instructions of tile.cu.
static float to_tf32(float x) {
    return __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000);
}
static double to_tf32(double x) {
    return x;
}
// Each thread of a warp brings its registers; then each sums up its own values, with factors as
// short as the instruction reads them.
template <class T> static void mma(T (&c)[4], const T (&a)[4], T b0, T b1) {
    static float factors[1024][6];
    float *mine = factors[threadIdx.x], all[6] = {(float)a[0], (float)a[1], (float)a[2], (float)a[3], (float)b0, (float)b1};
    for (unsigned i = 0; i < 6; i++) mine[i] = __uint_as_float(__float_as_uint(all[i]) & 0xffffe000);
    wait(WARP);
    unsigned first = threadIdx.x / 32 * 32, lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 8; k++) {
            // PTX ISA, matrix fragments of mma.m16n8k8 for .tf32.
            float x = factors[first + row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
            float y = factors[first + column * 4 + k % 4][4 + k / 4];
            c[i] += x * y;
        }
    }
    wait(WARP);
}
template <class T> static void copy_16(T *to, const T *from) {
    memcpy(to, from, 16);
}
static void copies_done() {}

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
    extern "C" int door_##name(unsigned x, unsigned y, unsigned threads, unsigned shared, unsigned order, \
                               unsigned count, void **args) {                                       \
        backwards = order;                                                                          \
        if (count != arity(name)) return 2;                                                         \
        return run_grid([](void **a) { call(name, a); }, barriers, x, y, threads, shared, args);    \
    }
