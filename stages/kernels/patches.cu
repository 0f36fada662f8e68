// What convolutions do besides products, on images [n, h, w, c] and kernels [kh, kw, cin, cout].

// The patch under each output position: out[position, ky, kx, channel], zero outside the image.
KERNEL gather(u32 n, u32 h, u32 w, u32 c, u32 kh, u32 kw, u32 stride, u32 top, u32 left, u32 oh, u32 ow,
              const REAL *x, REAL *out) {
    EACH(i, n);
    u32 channel = i % c, rest = i / c;
    u32 kx = rest % kw;
    rest /= kw;
    u32 ky = rest % kh;
    rest /= kh;
    u32 ox = rest % ow;
    rest /= ow;
    u32 oy = rest % oh, image = rest / oh;
    // Below zero wraps round to far beyond the image.
    u32 y = oy * stride + ky - top, xx = ox * stride + kx - left;
    out[i] = y < h && xx < w ? x[((image * h + y) * w + xx) * c + channel] : (REAL)0;
}

// The transpose of gather: each input value adds up the patch values that were taken from it, plus
// the bias of its channel, if any.
KERNEL scatter(u32 n, u32 h, u32 w, u32 c, u32 kh, u32 kw, u32 stride, u32 top, u32 left, u32 oh, u32 ow,
               const REAL *patches, const REAL *bias, REAL *x) {
    EACH(i, n);
    u32 channel = i % c, rest = i / c;
    u32 column = rest % w;
    rest /= w;
    u32 row = rest % h, image = rest / h;
    REAL sum = bias ? bias[channel] : (REAL)0;
    for (u32 ky = 0; ky < kh; ky++) {
        u32 y = row + top - ky;
        if (row + top < ky || y % stride || y / stride >= oh) continue;
        for (u32 kx = 0; kx < kw; kx++) {
            u32 xx = column + left - kx;
            if (column + left < kx || xx % stride || xx / stride >= ow) continue;
            u32 position = (image * oh + y / stride) * ow + xx / stride;
            sum += patches[((position * kh + ky) * kw + kx) * c + channel];
        }
    }
    x[i] = sum;
}

// Rows and columns of zeros around images: [h, w] to [ph, pw], the image at (top, left).
KERNEL pad(u32 n, u32 h, u32 w, u32 c, u32 ph, u32 pw, u32 top, u32 left, const REAL *x, REAL *out) {
    EACH(i, n);
    u32 channel = i % c, rest = i / c;
    u32 column = rest % pw - left;
    rest /= pw;
    u32 row = rest % ph - top, image = rest / ph;
    out[i] = row < h && column < w ? x[((image * h + row) * w + column) * c + channel] : (REAL)0;
}

// The window [h, w] at (top, left) of [ph, pw]; zero where it reaches beyond.
KERNEL crop(u32 n, u32 h, u32 w, u32 c, u32 ph, u32 pw, u32 top, u32 left, const REAL *padded, REAL *out) {
    EACH(i, n);
    u32 channel = i % c, rest = i / c;
    u32 column = rest % w + left;
    rest /= w;
    u32 row = rest % h + top, image = rest / h;
    out[i] = row < ph && column < pw ? padded[((image * ph + row) * pw + column) * c + channel] : (REAL)0;
}

// [rows, columns] to [columns, rows].
KERNEL transpose(u32 n, u32 rows, u32 columns, const REAL *in, REAL *out) {
    EACH(i, n);
    out[i] = in[i % rows * columns + i / rows];
}
