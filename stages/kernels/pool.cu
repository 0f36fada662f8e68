// What Inception does between its convolutions (models/pool.rs), on [n, h, w, c].

// Maximum (mean = 0) or mean of those values of a 3x3 window that lie inside the image.
KERNEL pool(u32 n, u32 h, u32 w, u32 c, u32 oh, u32 ow, u32 stride, u32 before, u32 mean, const REAL *x,
            REAL *y) {
    EACH(i, n);
    u32 channel = i % c, rest = i / c;
    u32 ox = rest % ow;
    rest /= ow;
    u32 oy = rest % oh, image = rest / oh;
    // Nothing is below zero, so zero is where a maximum may start.
    REAL value = 0;
    u32 count = 0;
    for (u32 ky = 0; ky < 3; ky++) {
        for (u32 kx = 0; kx < 3; kx++) {
            u32 row = oy * stride + ky - before, column = ox * stride + kx - before;
            if (row >= h || column >= w) continue;
            REAL v = x[((image * h + row) * w + column) * c + channel];
            value = mean ? value + v : (v > value ? v : value);
            count++;
        }
    }
    y[i] = mean ? value / (REAL)count : value;
}

// relu(y + bias), in place.
KERNEL bias_relu(u32 n, u32 c, const REAL *bias, REAL *y) {
    EACH(i, n);
    REAL v = y[i] + bias[i % c];
    y[i] = v > 0 ? v : (REAL)0;
}
