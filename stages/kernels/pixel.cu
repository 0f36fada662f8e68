// What PixelCNN adds to convolutions: its gate, and bits under a softmax.

__device__ REAL sigmoid(REAL s) {
    return (REAL)1 / ((REAL)1 + exp(-s));
}

// y = tanh(t) sigmoid(s), of rows [t, s] of p values each.
KERNEL gate(u32 n, u32 p, const REAL *x, REAL *y) {
    EACH(i, n);
    const REAL *row = x + (u64)(i / p) * 2 * p + i % p;
    y[i] = tanh(row[0]) * sigmoid(row[p]);
}

KERNEL gate_grad(u32 n, u32 p, const REAL *x, const REAL *dy, REAL *dx) {
    EACH(i, n);
    u64 at = (u64)(i / p) * 2 * p + i % p;
    REAL t = tanh(x[at]), s = sigmoid(x[at + p]);
    dx[at] = dy[i] * s * ((REAL)1 - t * t);
    dx[at + p] = dy[i] * t * s * ((REAL)1 - s);
}

// A block takes a row of logits.
#define THREADS 256

// The largest of the threads' values, or their sum, for all of them; in an order that is always the same.
__device__ double together(double mine, bool largest, double *shared) {
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            double other = shared[threadIdx.x + half], own = shared[threadIdx.x];
            shared[threadIdx.x] = largest ? (other > own ? other : own) : own + other;
        }
        __syncthreads();
    }
    double result = shared[0];
    __syncthreads();
    return result;
}

// ln sum e^x of a row.
__device__ double log_sum(const REAL *x, u32 levels, double *shared) {
    double best = x[0];
    for (u32 k = threadIdx.x; k < levels; k += THREADS) best = x[k] > best ? (double)x[k] : best;
    best = together(best, true, shared);
    double sum = 0;
    for (u32 k = threadIdx.x; k < levels; k += THREADS) sum += (double)exp((REAL)(x[k] - (REAL)best));
    return best + log(together(sum, false, shared));
}

#define PER_NAT 1.4426950408889634

// y = -log2 softmax(x)[value] of each row of x.
KERNEL bits(u32 levels, const REAL *x, const REAL *values, REAL *y) {
    __shared__ double shared[THREADS];
    const REAL *row = x + (u64)blockIdx.x * levels;
    double all = log_sum(row, levels, shared);
    u32 value = (u32)values[blockIdx.x];
    if (threadIdx.x == 0) y[blockIdx.x] = value < levels ? (REAL)((all - (double)row[value]) * PER_NAT) : (REAL)log(-1.0);
}

// dx = (softmax(x) - [value]) dy / ln 2
KERNEL bits_grad(u32 levels, const REAL *x, const REAL *values, const REAL *dy, REAL *dx) {
    __shared__ double shared[THREADS];
    const REAL *row = x + (u64)blockIdx.x * levels;
    REAL *to = dx + (u64)blockIdx.x * levels;
    REAL all = (REAL)log_sum(row, levels, shared), scale = dy[blockIdx.x] * (REAL)PER_NAT;
    u32 value = (u32)values[blockIdx.x];
    for (u32 k = threadIdx.x; k < levels; k += THREADS) {
        REAL p = exp(row[k] - all);
        to[k] = (k == value ? p - (REAL)1 : p) * scale;
    }
}
