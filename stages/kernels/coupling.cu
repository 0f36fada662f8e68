// The network of an additive coupling of Glow, with everything between its first patches and its last
// sums in registers and shared memory: convolution 3x3, affine, ReLU, 1x1, affine, ReLU, 3x3, affine.
//
// A block of eight warps treats TILE pixels at once. Scales are multiplied into the kernels first
// (`prepare`), so a layer is a product, a shift and a ReLU. The last convolution is a product to
// nine columns for each output, which `add_network` then sums over the window of each pixel. On the
// way back hidden maps are made again from the images.
//
// WIDTH, 64 to 256 by 64, is the number of hidden channels filled up with zeros.

#define TILE 64
#define THREADS 256
// Fragments side by side in a warp's part of [TILE, WIDTH]: two rows of warps, four columns.
#define ACROSS (WIDTH / 32)
// Values of a row of such a tile in shared memory. Four apart, so that a warp reads without conflicts.
#define ROW (WIDTH + 4)
// Rows of a square kernel that are in shared memory at once, twice, and what a row takes.
#define SLICE_ROW (WIDTH + 8)
// Rows and columns of its gradient that one block makes, and a row of the factors in shared memory.
#define PART (WIDTH % 128 ? 64 : 128)
#define PART_ROW (PART + 8)

#define DEPTH (64 / (u32)sizeof(REAL))

// Two blocks share a multiprocessor, so that one computes while the other waits. All kernels of this
// file have blocks of THREADS.
#undef KERNEL
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, sizeof(REAL) == 4 ? 2 : 1)

struct Sizes {
    u32 pixels, h, w, c, split;
};

INLINE u32 up(u32 n, u32 step) {
    return (n + step - 1) / step * step;
}
INLINE u32 moved(const Sizes &s) {
    return s.c - s.split;
}
// Values of a patch of the conditioning channels with their mark.
INLINE u32 inputs(const Sizes &s) {
    return 9 * (s.split + 1);
}
// Columns of the last product.
INLINE u32 outputs(const Sizes &s) {
    return 9 * moved(s);
}

// The kernels with their scales, filled up, and their transposes; square ones first, as they are
// copied by sixteen bytes.
struct Kernels {
    const REAL *square, *square_t, *first, *first_t, *last, *last_t, *shift1, *shift2, *marks, *shift3;
};
INLINE Kernels kernels(const Sizes &s, const REAL *at) {
    Kernels k;
    u32 in = up(inputs(s), 8), back = up(9 * s.split, 8), out = up(outputs(s), 8);
    k.square = at;
    k.square_t = k.square + WIDTH * WIDTH;
    k.first = k.square_t + WIDTH * WIDTH;
    k.first_t = k.first + in * WIDTH;
    k.last = k.first_t + WIDTH * back;
    k.last_t = k.last + WIDTH * out;
    k.shift1 = k.last_t + out * WIDTH;
    k.shift2 = k.shift1 + WIDTH;
    k.marks = k.shift2 + WIDTH;
    k.shift3 = k.marks + outputs(s);
    return k;
}

// The parameters as they come: kernel, scale and shift of each layer.
struct Parameters {
    const REAL *w1, *s1, *t1, *w2, *s2, *t2, *w3, *s3, *t3;
};
INLINE Parameters parameters(const Sizes &s, u32 width, const REAL *at) {
    Parameters p;
    p.w1 = at;
    p.s1 = p.w1 + inputs(s) * width;
    p.t1 = p.s1 + width;
    p.w2 = p.t1 + width;
    p.s2 = p.w2 + width * width;
    p.t2 = p.s2 + width;
    p.w3 = p.t2 + width;
    p.s3 = p.w3 + 9 * (width + 1) * moved(s);
    p.t3 = p.s3 + moved(s);
    return p;
}

// Value (k, j) of each layer's scaled kernel, zero beyond its sizes. Of the last one column j is tap
// and output, row `width` the mark's.
INLINE REAL first_at(const Sizes &s, const Parameters &p, u32 width, u32 k, u32 j) {
    return k < inputs(s) && j < width ? p.w1[k * width + j] * p.s1[j] : (REAL)0;
}
INLINE REAL square_at(const Parameters &p, u32 width, u32 k, u32 j) {
    return k < width && j < width ? p.w2[k * width + j] * p.s2[j] : (REAL)0;
}
INLINE REAL last_at(const Sizes &s, const Parameters &p, u32 width, u32 k, u32 j) {
    u32 m = moved(s);
    return k <= width && j < 9 * m ? p.w3[(j / m * (width + 1) + k) * m + j % m] * p.s3[j % m] : (REAL)0;
}

// Fills what `kernels` describes, n values.
KERNEL prepare(u32 n, u32 c, u32 split, u32 width, const REAL *from, REAL *to) {
    EACH(i, n);
    Sizes s = {0, 0, 0, c, split};
    Parameters p = parameters(s, width, from);
    Kernels q = kernels(s, to);
    const REAL *at = to + i;
    u32 back = up(9 * split, 8), out = up(outputs(s), 8), k;
    if (at < q.square_t) {
        to[i] = factor(square_at(p, width, i / WIDTH, i % WIDTH));
    } else if (at < q.first) {
        k = at - q.square_t;
        to[i] = factor(square_at(p, width, k % WIDTH, k / WIDTH));
    } else if (at < q.first_t) {
        k = at - q.first;
        to[i] = factor(first_at(s, p, width, k / WIDTH, k % WIDTH));
    } else if (at < q.last) {
        // Only the conditioning channels: the mark has no gradient.
        k = at - q.first_t;
        u32 j = k % back;
        to[i] = j < 9 * split ? factor(first_at(s, p, width, j / split * (split + 1) + j % split, k / back)) : (REAL)0;
    } else if (at < q.last_t) {
        k = at - q.last;
        to[i] = k / out < width ? factor(last_at(s, p, width, k / out, k % out)) : (REAL)0;
    } else if (at < q.shift1) {
        k = at - q.last_t;
        to[i] = k % WIDTH < width ? factor(last_at(s, p, width, k % WIDTH, k / WIDTH)) : (REAL)0;
    } else if (at < q.shift2) {
        k = at - q.shift1;
        to[i] = k < width ? p.t1[k] : (REAL)0;
    } else if (at < q.marks) {
        k = at - q.shift2;
        to[i] = k < width ? p.t2[k] : (REAL)0;
    } else if (at < q.shift3) {
        to[i] = last_at(s, p, width, width, at - q.marks);
    } else {
        to[i] = p.t3[at - q.shift3];
    }
}

// Whether the pixel `tap` of the window around pixel p is in its image, and which it is. With
// `back`, the pixel around which p is at that tap.
INLINE bool neighbour(const Sizes &s, u32 p, u32 tap, bool back, u32 &pixel) {
    u32 dy = back ? 1 - tap / 3 : tap / 3 - 1, dx = back ? 1 - tap % 3 : tap % 3 - 1;
    // Below zero wraps round to far beyond the image.
    u32 y = p / s.w % s.h + dy, x = p % s.w + dx;
    pixel = p + dy * s.w + dx;
    return y < s.h && x < s.w;
}

// [TILE, inputs] of x: tap by tap the conditioning channels and a mark, 1 outside of the image.
__device__ void patches(const Sizes &s, u32 first, const REAL *x, REAL *to) {
    u32 in = inputs(s), filled = up(in, 8);
    for (u32 i = threadIdx.x; i < TILE * filled; i += THREADS) {
        u32 row = i / filled, k = i % filled, p = first + row, pixel;
        REAL v = 0;
        if (p < s.pixels && k < in) {
            u32 channel = k % (s.split + 1);
            bool inside = neighbour(s, p, k / (s.split + 1), false, pixel);
            if (channel == s.split) v = inside ? 0 : 1;
            else if (inside) v = factor(x[pixel * s.c + channel]);
        }
        to[row * (filled + 4) + k] = v;
    }
}

// [TILE, outputs] of dy: the gradient of each column of the last product.
__device__ void gradients(const Sizes &s, u32 first, const REAL *dy, REAL *to) {
    u32 out = outputs(s), filled = up(out, 8);
    for (u32 i = threadIdx.x; i < TILE * filled; i += THREADS) {
        u32 row = i / filled, k = i % filled, p = first + row, pixel;
        bool there = p < s.pixels && k < out && neighbour(s, p, k / moved(s), true, pixel);
        to[row * (filled + 4) + k] = there ? factor(dy[pixel * s.c + s.split + k % moved(s)]) : (REAL)0;
    }
}

// A warp's part of [TILE, 32 N]: 32 rows, 8 N columns.
INLINE u32 warp_row() {
    return threadIdx.x / 128 * 32;
}
template <u32 N> INLINE u32 warp_column() {
    return threadIdx.x / 32 % 4 * 8 * N;
}

template <u32 N> INLINE void start(Fragment (&c)[2][N], const REAL *shift) {
    u32 left = warp_column<N>();
    each_value(c, [&](u32, u32 column, u32, REAL &v) { v = shift ? shift[left + column] : (REAL)0; });
}

// ReLU; which values were positive.
INLINE u64 rectify(Fragment (&c)[2][ACROSS]) {
    u64 bits = 0;
    each_value(c, [&](u32, u32, u32 number, REAL &v) {
        if (v > 0) bits |= (u64)1 << number;
        else v = 0;
    });
    return bits;
}

INLINE void mask(Fragment (&c)[2][ACROSS], u64 bits) {
    each_value(c, [&](u32, u32, u32 number, REAL &v) {
        if (!(bits >> number & 1)) v = 0;
    });
}

template <u32 N> INLINE void store(Fragment (&c)[2][N], REAL *tile, u32 row_values) {
    REAL *at = tile + warp_row() * row_values + warp_column<N>();
    each_value(c, [&](u32 row, u32 column, u32, REAL &v) { at[row * row_values + column] = factor(v); });
}

// c += a b with b, [depth, WIDTH] or its columns from `left` on, where it lies in device memory.
template <u32 N>
INLINE void shallow(Fragment (&c)[2][N], const REAL *a, u32 depth, const REAL *b, u32 left = 0) {
    multiply(c, view(a + warp_row() * (depth + 4), depth + 4), view(b + left + warp_column<N>(), WIDTH), depth);
}

INLINE void fetch(const REAL *rows, REAL *slice) {
    const u32 values = 16 / sizeof(REAL);
#pragma unroll
    for (u32 j = 0; j < DEPTH * WIDTH / (THREADS * values); j++) {
        u32 i = (j * THREADS + threadIdx.x) * values;
        copy_16(slice + i / WIDTH * SLICE_ROW + i % WIDTH, rows + i);
    }
}

// c += a b with b, [WIDTH, WIDTH], brought from device memory slice by slice while the last one is
// at work. Begins with a barrier after which `a` is read; ends without one.
INLINE void deep(Fragment (&c)[2][ACROSS], const REAL *a, const REAL *b, REAL *slices) {
    fetch(b, slices);
    for (u32 k = 0; k < WIDTH; k += DEPTH) {
        REAL *now = slices + k / DEPTH % 2 * DEPTH * SLICE_ROW;
        REAL *next = slices + (k / DEPTH + 1) % 2 * DEPTH * SLICE_ROW;
        copies_done();
        __syncthreads();
        if (k + DEPTH < WIDTH) fetch(b + (k + DEPTH) * WIDTH, next);
        multiply(c, view(a + warp_row() * ROW + k, ROW), view(now + warp_column<ACROSS>(), SLICE_ROW), DEPTH);
    }
}

// out[first + row, column] = a b with b, [WIDTH, filled], of which `columns` count: four rows of warps,
// two halves of the sum.
INLINE void narrow(const Sizes &s, u32 first, const REAL *a, const REAL *b, u32 columns, REAL *scratch, REAL *out) {
    u32 warp = threadIdx.x / 32, top = warp % 4 * 16, from = warp / 4 * (WIDTH / 2), filled = up(columns, 8);
    for (u32 left = 0; left < filled; left += 32) {
        Fragment c[1][4] = {};
        u32 used = filled - left < 32 ? (filled - left) / 8 : 4;
        multiply(c, view(a + top * ROW + from, ROW), view(b + from * filled + left, filled), WIDTH / 2, used);
        __syncthreads();
        if (warp >= 4) {
            each_value(c, [&](u32 row, u32 column, u32, REAL &v) { scratch[(top + row) * 32 + column] = v; });
        }
        __syncthreads();
        if (warp >= 4) continue;
        each_value(c, [&](u32 row, u32 column, u32, REAL &v) {
            u32 p = first + top + row, k = left + column;
            if (p < s.pixels && k < columns) out[p * columns + k] = v + scratch[(top + row) * 32 + column];
        });
    }
}

// The network's columns: out[pixel, tap, output].
KERNEL network(u32 pixels, u32 h, u32 w, u32 c, u32 split, const REAL *x, const REAL *prepared, REAL *out) {
    SHARED(REAL, tile);
    Sizes s = {pixels, h, w, c, split};
    Kernels k = kernels(s, prepared);
    REAL *slices = tile + TILE * ROW, *patch = slices + 2 * DEPTH * SLICE_ROW;
    u32 first = blockIdx.x * TILE;
    patches(s, first, x, patch);
    __syncthreads();
    Fragment maps[2][ACROSS];
    start(maps, k.shift1);
    shallow(maps, patch, up(inputs(s), 8), k.first);
    rectify(maps);
    store(maps, tile, ROW);
    start(maps, k.shift2);
    deep(maps, tile, k.square, slices);
    rectify(maps);
    __syncthreads();
    store(maps, tile, ROW);
    __syncthreads();
    narrow(s, first, tile, k.last, outputs(s), slices, out);
}

// y = x + [0, network]: each pixel adds up its window's columns; outside of the image there is the mark.
KERNEL add_network(u32 n, u32 h, u32 w, u32 c, u32 split, const REAL *x, const REAL *prepared, const REAL *columns,
                   REAL *y) {
    EACH(i, n);
    Sizes s = {n / c, h, w, c, split};
    Kernels k = kernels(s, prepared);
    u32 channel = i % c, m = moved(s), pixel;
    REAL sum = x[i];
    if (channel >= split) {
        u32 o = channel - split;
        REAL f = k.shift3[o];
        for (u32 tap = 0; tap < 9; tap++) {
            bool inside = neighbour(s, i / c, tap, false, pixel);
            f += inside ? columns[pixel * outputs(s) + tap * m + o] : k.marks[tap * m + o];
        }
        sum += f;
    }
    y[i] = sum;
}
