// Resizing as metrics/resize.rs does it, along one axis after the other, with its roundings. A table
// says for each of `side` outputs where its inputs begin (`first`), how many they are (`count`) and what they
// weigh (`weights`, [side, most]).

// Input k of output `at`, by value(k). Bilinear tables hold the upper input's weight alone.
template <class F>
__device__ REAL blend(u32 at, u32 most, u32 bilinear, const u32 *first, const u32 *count, const double *weights,
                      F value) {
    u32 begin = first[at], n = count[at];
    if (bilinear) {
        REAL low = value(begin), high = value(begin + n - 1);
        return low + (high - low) * (REAL)weights[at * most];
    }
    double sum = 0;
    for (u32 k = 0; k < n; k++) sum += (double)value(begin + k) * weights[at * most + k];
    return (REAL)sum;
}

// [images, h, w, c] to [images, h, side, c]
KERNEL resize_columns(u32 n, u32 w, u32 c, u32 side, u32 most, u32 bilinear, const u32 *first, const u32 *count,
                      const double *weights, const unsigned char *x, REAL *out) {
    EACH(i, n);
    u32 channel = i % c, column = i / c % side;
    const unsigned char *line = x + i / c / side * w * c + channel;
    out[i] = blend(column, most, bilinear, first, count, weights, [&](u32 k) { return (REAL)line[k * c]; });
}

// [images, h, side, c] to [images, side, side, 3]; grey becomes three alike. What is not bilinear may
// overshoot, and is cut.
KERNEL resize_rows(u32 n, u32 h, u32 c, u32 side, u32 most, u32 bilinear, const u32 *first, const u32 *count,
                   const double *weights, const REAL *x, REAL *out) {
    EACH(i, n);
    u32 channel = c == 1 ? 0 : i % 3, column = i / 3 % side, row = i / 3 / side % side, image = i / 3 / side / side;
    const REAL *from = x + (image * h * side + column) * c + channel;
    REAL v = blend(row, most, bilinear, first, count, weights, [&](u32 k) { return from[k * side * c]; });
    if (!bilinear) v = v < 0 ? (REAL)0 : v > 255 ? (REAL)255 : v;
    out[i] = v;
}
