// One launch moves every weight of a model. A block takes a piece of CHUNK values of one tensor;
// moments hold m, then v.

#define CHUNK 4096

struct Piece {
    u32 tensor, start;
};

KERNEL adam(const Piece *pieces, const u32 *lengths, REAL *const *weights, REAL *const *moments,
            const REAL *const *grads, u32 adamax, REAL b1, REAL b2, REAL r1, REAL r2, REAL epsilon, REAL rate,
            const double *scale) {
    Piece piece = pieces[blockIdx.x];
    u32 n = lengths[piece.tensor];
    const REAL *grad = grads[piece.tensor];
    // A tensor that the loss does not reach keeps its value.
    if (!grad) return;
    REAL *weight = weights[piece.tensor], *m = moments[piece.tensor], *v = m + n;
    REAL factor = scale ? (REAL)*scale : (REAL)1;
    u32 end = n - piece.start < CHUNK ? n : piece.start + CHUNK;
    for (u32 i = piece.start + threadIdx.x; i < end; i += blockDim.x) {
        REAL g = grad[i] * factor;
        REAL first = b1 * m[i] + r1 * g, second, root;
        if (adamax) {
            REAL size = g < 0 ? -g : g, kept = b2 * v[i];
            second = kept > size ? kept : size;
            root = second;
        } else {
            second = b2 * v[i] + r2 * g * g;
            root = sqrt(second);
        }
        m[i] = first;
        v[i] = second;
        weight[i] -= rate * first / (root + epsilon);
    }
}

// out[piece] = sum of squares of the piece's gradient
KERNEL squares(const Piece *pieces, const u32 *lengths, const REAL *const *grads, double *out) {
    __shared__ double shared[256];
    Piece piece = pieces[blockIdx.x];
    u32 n = lengths[piece.tensor];
    const REAL *grad = grads[piece.tensor];
    u32 end = n - piece.start < CHUNK ? n : piece.start + CHUNK;
    double sum = 0;
    if (grad) {
        for (u32 i = piece.start + threadIdx.x; i < end; i += blockDim.x) {
            double g = (double)grad[i];
            sum += g * g;
        }
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0;
        for (u32 i = 0; i < blockDim.x; i++) sum += shared[i];
        out[blockIdx.x] = sum;
    }
}

// What to multiply gradients with so that their joint norm is at most limit. One block.
KERNEL clip(u32 pieces, const double *squares, double limit, double *scale) {
    __shared__ double shared[256];
    double sum = 0;
    for (u32 i = threadIdx.x; i < pieces; i += blockDim.x) sum += squares[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0;
        for (u32 i = 0; i < blockDim.x; i++) sum += shared[i];
        double norm = sqrt(sum);
        *scale = norm > limit ? limit / norm : 1.0;
    }
}
