// Operations that treat every channel (last dimension, c) of [rows, c] alike.

// y = activation(x scale + shift); the activation multiplies negative values by slope.
KERNEL affine(u32 n, u32 c, const REAL *x, const REAL *scale, const REAL *shift, REAL slope, REAL *y) {
    EACH(i, n);
    u32 k = i % c;
    REAL v = x[i] * scale[k] + shift[k];
    y[i] = v > 0 ? v : v * slope;
}

// y += bias, in place.
KERNEL add_bias(u32 n, u32 c, const REAL *bias, REAL *y) {
    EACH(i, n);
    y[i] += bias[i % c];
}

// Gradient through the activation: its sign is that of its argument, so y tells the slope.
__device__ REAL inner(REAL y, REAL dy, REAL slope) {
    return y > 0 ? dy : dy * slope;
}

// dx = inner(dy) p
KERNEL affine_grad(u32 n, u32 c, const REAL *y, const REAL *dy, const REAL *p, REAL slope, REAL *dx) {
    EACH(i, n);
    dx[i] = inner(y[i], dy[i], slope) * p[i % c];
}

// dx = inner(dy) p + q + (x - mean) r
KERNEL norm_grad(u32 n, u32 c, const REAL *x, const REAL *y, const REAL *dy, const REAL *p, const REAL *q,
                 const REAL *r, const double *mean, REAL slope, REAL *dx) {
    EACH(i, n);
    u32 k = i % c;
    dx[i] = inner(y[i], dy[i], slope) * p[k] + q[k] + (x[i] - (REAL)mean[k]) * r[k];
}

// Sums over rows. A block takes the rows of one part and up to TILE channels; its threads are
// lanes x channels. Lane l adds up rows l, l + lanes, ... of the part, then the lanes are added in
// order. The parts' sums, [parts, c], are summed by the same kernel.
#define THREADS 256
#define TILE 32

struct Place {
    u32 channels, lanes, channel, lane, first, last;
};

__device__ Place place(u32 rows, u32 c, u32 rows_per_part) {
    Place p;
    u32 left = c - blockIdx.y * TILE;
    p.channels = left < TILE ? left : TILE;
    p.lanes = THREADS / p.channels;
    p.channel = blockIdx.y * TILE + threadIdx.x % p.channels;
    p.lane = threadIdx.x / p.channels;
    p.first = blockIdx.x * rows_per_part;
    p.last = rows - p.first < rows_per_part ? rows : p.first + rows_per_part;
    return p;
}

// Adds the lanes of each channel in order; the result is thread `channel`'s of lane 0.
__device__ double lanes_together(const Place &p, double mine, double *shared) {
    shared[threadIdx.x] = mine;
    __syncthreads();
    double sum = 0;
    if (p.lane == 0) {
        for (u32 lane = 0; lane < p.lanes; lane++) sum += shared[lane * p.channels + threadIdx.x];
    }
    __syncthreads();
    return sum;
}

// out[part, k] = sum of x[row, k]
KERNEL sum_rows(u32 rows, u32 c, u32 rows_per_part, const REAL *x, double *out) {
    __shared__ double shared[THREADS];
    Place p = place(rows, c, rows_per_part);
    double sum = 0;
    if (p.lane < p.lanes) {
        for (u32 row = p.first + p.lane; row < p.last; row += p.lanes) sum += (double)x[row * c + p.channel];
    }
    sum = lanes_together(p, sum, shared);
    if (p.lane == 0) out[blockIdx.x * c + p.channel] = sum;
}

// out[part, k] = sum of (x[row, k] - mean[k])^2
KERNEL square_rows(u32 rows, u32 c, u32 rows_per_part, const REAL *x, const double *mean, double *out) {
    __shared__ double shared[THREADS];
    Place p = place(rows, c, rows_per_part);
    double sum = 0;
    if (p.lane < p.lanes) {
        for (u32 row = p.first + p.lane; row < p.last; row += p.lanes) {
            double d = (double)x[row * c + p.channel] - mean[p.channel];
            sum += d * d;
        }
    }
    sum = lanes_together(p, sum, shared);
    if (p.lane == 0) out[blockIdx.x * c + p.channel] = sum;
}

// out[part, 0, k] = sum of dz, out[part, 1, k] = sum of dz (x - mean), with dz = inner(dy).
// Without normalisation mean is null and stands for zero.
KERNEL grad_rows(u32 rows, u32 c, u32 rows_per_part, const REAL *x, const REAL *y, const REAL *dy,
                 const double *mean, REAL slope, double *out) {
    __shared__ double shared[THREADS];
    Place p = place(rows, c, rows_per_part);
    double plain = 0, scaled = 0;
    if (p.lane < p.lanes) {
        REAL centre = mean ? (REAL)mean[p.channel] : (REAL)0;
        for (u32 row = p.first + p.lane; row < p.last; row += p.lanes) {
            u32 i = row * c + p.channel;
            REAL dz = inner(y[i], dy[i], slope);
            plain += (double)dz;
            scaled += (double)(dz * (x[i] - centre));
        }
    }
    plain = lanes_together(p, plain, shared);
    scaled = lanes_together(p, scaled, shared);
    if (p.lane == 0) {
        out[blockIdx.x * 2 * c + p.channel] = plain;
        out[blockIdx.x * 2 * c + c + p.channel] = scaled;
    }
}

// out[k] = (sum over parts of in[part, k]) / divisor
KERNEL sum_parts(u32 parts, u32 c, const double *in, double divisor, double *out) {
    __shared__ double shared[THREADS];
    Place p = place(parts, c, parts);
    double sum = 0;
    if (p.lane < p.lanes) {
        for (u32 part = p.lane; part < parts; part += p.lanes) sum += in[part * c + p.channel];
    }
    sum = lanes_together(p, sum, shared);
    if (p.lane == 0) out[p.channel] = sum / divisor;
}

KERNEL to_real(u32 n, const double *in, REAL *out) {
    EACH(i, n);
    out[i] = (REAL)in[i];
}

// Scale and shift that stand for normalising by mean and variance first.
KERNEL norm_forward(u32 c, const REAL *scale, const REAL *shift, const double *mean, const double *variance,
                    double epsilon, REAL *a, REAL *b) {
    EACH(k, c);
    double factor = (double)scale[k] / sqrt(variance[k] + epsilon);
    a[k] = (REAL)factor;
    b[k] = (REAL)((double)shift[k] - mean[k] * factor);
}

// dx = scale / deviation (dz - mean(dz) - x^ mean(dz x^)) as coefficients p, q, r of norm_grad;
// sums is [2, c] of grad_rows.
KERNEL norm_backward(u32 c, double rows, const REAL *scale, const double *variance, double epsilon,
                     const double *sums, REAL *p, REAL *q, REAL *r, REAL *dscale, REAL *dshift) {
    EACH(k, c);
    double deviation = sqrt(variance[k] + epsilon);
    double s = (double)scale[k];
    p[k] = (REAL)(s / deviation);
    q[k] = (REAL)(-s / deviation * sums[k] / rows);
    r[k] = (REAL)(-s / deviation * sums[c + k] / (rows * deviation * deviation));
    dscale[k] = (REAL)(sums[c + k] / deviation);
    dshift[k] = (REAL)sums[k];
}
