// The way back through coupling.cu, which comes before. Hidden maps are made again; whether the second
// layer's values were positive is kept for the square kernel's gradient, a bit each.
//
// Gradients are first those of the scaled kernels: with z = x (w scale) + shift and g = x^T dz, the
// gradient of w is g scale, and that of a scale the sum of w g over its column.

// slot = a b, or += unless this is the block's first tile: `rows` by `columns`, multiples of 16 and 8,
// summed over the pixels of a tile.
INLINE void add_product(View a, u32 rows, View b, u32 columns, bool fresh, REAL *slot) {
    u32 across = up(columns, 32) / 32;
    for (u32 i = threadIdx.x / 32; i < rows / 16 * across; i += THREADS / 32) {
        u32 top = i / across * 16, left = i % across * 32;
        u32 used = columns - left < 32 ? (columns - left) / 8 : 4;
        Fragment c[1][4] = {};
        multiply(c, view(a.at + top * a.down, a.down, a.right), view(b.at + left * b.right, b.down, b.right), TILE,
                 used);
        each_value(c, [&](u32 row, u32 column, u32 number, REAL &v) {
            REAL *at = slot + (top + row) * columns + left + column;
            if (number / 4 < used) *at = fresh ? v : *at + v;
        });
    }
}

// Sums over the pixels of a tile.
INLINE void add_sums(const REAL *tile, u32 row_values, u32 columns, bool fresh, REAL *slot) {
    for (u32 k = threadIdx.x; k < columns; k += THREADS) {
        REAL sum = fresh ? (REAL)0 : slot[k];
        for (u32 row = 0; row < TILE; row++) sum += tile[row * row_values + k];
        slot[k] = sum;
    }
}

// What a block has summed, and all blocks together: gradients of the first and the last scaled kernel,
// of the first two shifts, and the sums of `gradients`.
template <class T> struct Sums {
    T *first, *last, *shift1, *shift2, *columns;
};
template <class T> INLINE Sums<T> sums(const Sizes &s, T *at) {
    u32 out = up(outputs(s), 8);
    Sums<T> sums;
    sums.first = at;
    sums.last = sums.first + up(inputs(s), 16) * WIDTH;
    sums.shift1 = sums.last + WIDTH * out;
    sums.shift2 = sums.shift1 + WIDTH;
    sums.columns = sums.shift2 + WIDTH;
    return sums;
}

// Tiles blockIdx.x, blockIdx.x + gridDim.x, ...: the gradient of the first patches, out[pixel, tap,
// channel]; which second values were positive; the block's `length` sums.
KERNEL network_grad(u32 pixels, u32 h, u32 w, u32 c, u32 split, u32 length, const REAL *x, const REAL *dy,
                    const REAL *prepared, REAL *out, u64 *positive, REAL *partial) {
    SHARED(REAL, tile);
    Sizes s = {pixels, h, w, c, split};
    Kernels k = kernels(s, prepared);
    Sums<REAL> slot = sums(s, partial + blockIdx.x * length);
    u32 in = up(inputs(s), 8), ends = up(outputs(s), 8);
    REAL *slices = tile + TILE * ROW, *patch = slices + 2 * DEPTH * SLICE_ROW, *end = patch + TILE * (in + 4);
    for (u32 i = blockIdx.x; i * TILE < pixels; i += gridDim.x) {
        bool fresh = i == blockIdx.x;
        __syncthreads();
        patches(s, i * TILE, x, patch);
        gradients(s, i * TILE, dy, end);
        __syncthreads();
        Fragment maps[2][ACROSS];
        start(maps, k.shift1);
        shallow(maps, patch, in, k.first);
        u64 positive1 = rectify(maps);
        store(maps, tile, ROW);
        start(maps, k.shift2);
        deep(maps, tile, k.square, slices);
        u64 positive2 = rectify(maps);
        positive[i * THREADS + threadIdx.x] = positive2;
        __syncthreads();
        store(maps, tile, ROW);
        __syncthreads();
        add_product(view(tile, 1, ROW), WIDTH, view(end, ends + 4), ends, fresh, slot.last);
        add_sums(end, ends + 4, ends, fresh, slot.columns);
        start(maps, 0);
        shallow(maps, end, ends, k.last_t);
        mask(maps, positive2);
        __syncthreads();
        store(maps, tile, ROW);
        start(maps, 0);
        deep(maps, tile, k.square_t, slices);
        add_sums(tile, ROW, WIDTH, fresh, slot.shift2);
        mask(maps, positive1);
        __syncthreads();
        store(maps, tile, ROW);
        __syncthreads();
        // Rows beyond `in` are others' values; nobody asks for them.
        add_product(view(patch, 1, in + 4), up(inputs(s), 16), view(tile, ROW), WIDTH, fresh, slot.first);
        add_sums(tile, ROW, WIDTH, fresh, slot.shift1);
        narrow(s, i * TILE, tile, k.first_t, 9 * split, slices, out);
    }
}

// dx = dy, and for the conditioning channels what their patches say.
KERNEL add_network_grad(u32 n, u32 h, u32 w, u32 c, u32 split, const REAL *dy, const REAL *columns, REAL *dx) {
    EACH(i, n);
    Sizes s = {n / c, h, w, c, split};
    u32 channel = i % c, pixel;
    REAL sum = dy[i];
    for (u32 tap = 0; tap < 9 && channel < split; tap++) {
        if (neighbour(s, i / c, tap, true, pixel)) sum += columns[(pixel * 9 + tap) * split + channel];
    }
    dx[i] = sum;
}

// Of the square kernel: PART rows and columns, of tiles blockIdx.x, ... blockIdx.y numbers the parts of the kernel.
KERNEL square_grad(u32 pixels, u32 h, u32 w, u32 c, u32 split, const REAL *x, const REAL *dy, const REAL *prepared,
                   const u64 *positive, REAL *partial) {
    SHARED(REAL, maps);
    Sizes s = {pixels, h, w, c, split};
    Kernels k = kernels(s, prepared);
    u32 in = up(inputs(s), 8), ends = up(outputs(s), 8);
    u32 top = blockIdx.y / (WIDTH / PART) * PART, left = blockIdx.y % (WIDTH / PART) * PART;
    REAL *grads = maps + TILE * PART_ROW, *patch = grads + TILE * PART_ROW, *end = patch + TILE * (in + 4);
    // Four rows of warps, two columns.
    Fragment sum[PART / 64][PART / 16] = {};
    u32 warp = threadIdx.x / 32, my_top = warp / 2 * (PART / 4), my_left = warp % 2 * (PART / 2);
    for (u32 i = blockIdx.x; i * TILE < pixels; i += gridDim.x) {
        __syncthreads();
        patches(s, i * TILE, x, patch);
        gradients(s, i * TILE, dy, end);
        __syncthreads();
        Fragment part[2][PART / 32];
        start(part, k.shift1 + top);
        shallow(part, patch, in, k.first, top);
        each_value(part, [&](u32, u32, u32, REAL &v) { v = v > 0 ? v : (REAL)0; });
        store(part, maps, PART_ROW);
        start(part, 0);
        shallow(part, end, ends, k.last_t, left);
        // As `network_grad` spread them over its warps.
        u32 mine = left + warp_column<PART / 32>(), lane = threadIdx.x % 32;
        u64 bits = positive[i * THREADS + (threadIdx.x / 128 * 4 + mine / (8 * ACROSS)) * 32 + lane];
        each_value(part, [&](u32, u32 column, u32 number, REAL &v) {
            u32 row = number / (PART / 8), across = mine % (8 * ACROSS) / 8 + column / 8;
            if (!(bits >> ((row * ACROSS + across) * 4 + number % 4) & 1)) v = 0;
        });
        store(part, grads, PART_ROW);
        __syncthreads();
        multiply(sum, view(maps + my_top, 1, PART_ROW), view(grads + my_left, PART_ROW), TILE);
    }
    REAL *to = partial + blockIdx.x * WIDTH * WIDTH + (top + my_top) * WIDTH + left + my_left;
    each_value(sum, [&](u32 row, u32 column, u32, REAL &v) { to[row * WIDTH + column] = v; });
}

// out[i] = sum over parts of in[part, i]
KERNEL total(u32 n, u32 parts, const REAL *in, double *out) {
    EACH(i, n);
    double sum = 0;
    for (u32 part = 0; part < parts; part++) sum += (double)in[part * n + i];
    out[i] = sum;
}

// Of the mark in the last kernel: what `columns` lack of all dy is where the window was outside.
INLINE double mark_grad(const Sizes &s, const double *columns, u32 tap, u32 o) {
    return columns[4 * moved(s) + o] - columns[tap * moved(s) + o];
}

// Gradients of kernels and shifts, in the order of the parameters; scales follow.
KERNEL kernel_grads(u32 n, u32 c, u32 split, u32 width, const REAL *from, double *all, const double *square, REAL *out) {
    EACH(i, n);
    Sizes s = {0, 0, 0, c, split};
    Parameters p = parameters(s, width, from);
    Sums<double> g = sums(s, all);
    const REAL *at = from + i;
    u32 k, m = moved(s), ends = up(outputs(s), 8);
    double v;
    if (at < p.s1) {
        v = g.first[i / width * WIDTH + i % width] * (double)p.s1[i % width];
    } else if (at < p.w2) {
        if (at < p.t1) return;
        v = g.shift1[at - p.t1];
    } else if (at < p.s2) {
        k = at - p.w2;
        v = square[k / width * WIDTH + k % width] * (double)p.s2[k % width];
    } else if (at < p.w3) {
        if (at < p.t2) return;
        v = g.shift2[at - p.t2];
    } else if (at < p.s3) {
        k = at - p.w3;
        u32 o = k % m, row = k / m % (width + 1), tap = k / m / (width + 1);
        v = row < width ? g.last[row * ends + tap * m + o] : mark_grad(s, g.columns, tap, o);
        v *= (double)p.s3[o];
    } else {
        if (at < p.t3) return;
        v = g.columns[4 * m + (at - p.t3)];
    }
    out[i] = (REAL)v;
}

// Gradient of scale blockIdx.x, counted through the layers.
KERNEL scale_grads(u32 c, u32 split, u32 width, const REAL *from, double *all, const double *square, REAL *out) {
    __shared__ double shared[THREADS];
    Sizes s = {0, 0, 0, c, split};
    Parameters p = parameters(s, width, from);
    Sums<double> g = sums(s, all);
    u32 m = moved(s), ends = up(outputs(s), 8), which = blockIdx.x;
    const REAL *scale;
    double sum = 0;
    if (which < width) {
        scale = p.s1 + which;
        for (u32 k = threadIdx.x; k < inputs(s); k += THREADS) {
            sum += g.first[k * WIDTH + which] * (double)p.w1[k * width + which];
        }
    } else if (which < 2 * width) {
        which -= width;
        scale = p.s2 + which;
        for (u32 k = threadIdx.x; k < width; k += THREADS) {
            sum += square[k * WIDTH + which] * (double)p.w2[k * width + which];
        }
    } else {
        which -= 2 * width;
        scale = p.s3 + which;
        for (u32 k = threadIdx.x; k < 9 * (width + 1); k += THREADS) {
            u32 row = k % (width + 1), tap = k / (width + 1);
            double v = row < width ? g.last[row * ends + tap * m + which] : mark_grad(s, g.columns, tap, which);
            sum += v * (double)p.w3[k * m + which];
        }
    }
    shared[threadIdx.x] = sum;
    for (u32 half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[scale - from] = (REAL)shared[0];
}
