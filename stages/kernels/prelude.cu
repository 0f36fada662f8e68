// Before every kernel file. REAL is float or double: each file is compiled for both.
//
// Kernels are compiled without contraction of a product and a sum into one rounding, so that they
// round as the CPU does. Sums are taken in double and in an order that shapes alone determine: no
// atomics, so the same bytes come out of every run. Nothing indexes beyond 2^31 elements.

typedef unsigned int u32;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void

// Element of this thread, one of n; threads beyond the last have nothing to do.
#define EACH(i, n)                                   \
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;   \
    if (i >= (n)) return

// All shared memory the launch asks for, as values of T.
#ifndef EMULATED
#define SHARED(T, name)                                   \
    extern __shared__ __align__(16) unsigned char pool_[]; \
    T *name = (T *)pool_
#endif
