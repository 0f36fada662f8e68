// The parameters of three layers from their trained values, which lie end to end: kernel, bias b and
// log-scale l of each become kernel, scale s = exp(factor l) and shift b s. Those of the last layer are times
// `sign`.

struct Place {
    // Of the layer's first channel after the kernel, and its channels.
    u32 start, channels;
    REAL sign;
};

// Where value i lies: in a kernel (false), or in a layer's two vectors.
__device__ bool find(u32 i, u32 k1, u32 c1, u32 k2, u32 c2, u32 k3, u32 c3, REAL sign, Place &p) {
    u32 kernels[3] = {k1, k2, k3}, channels[3] = {c1, c2, c3};
    p.start = 0;
    for (u32 layer = 0; layer < 3; layer++) {
        p.start += kernels[layer];
        p.channels = channels[layer];
        p.sign = layer == 2 ? sign : (REAL)1;
        if (i < p.start) return false;
        if (i < p.start + 2 * p.channels) return true;
        p.start += 2 * p.channels;
    }
    return false;
}

KERNEL affines(u32 n, u32 k1, u32 c1, u32 k2, u32 c2, u32 k3, u32 c3, REAL factor, REAL sign, const REAL *trained,
               REAL *out) {
    EACH(i, n);
    Place p;
    REAL v = trained[i];
    if (find(i, k1, c1, k2, c2, k3, c3, sign, p)) {
        u32 k = (i - p.start) % p.channels;
        v = exp(factor * trained[p.start + p.channels + k]);
        if (i >= p.start + p.channels) v = trained[p.start + k] * v;
        v *= p.sign;
    }
    out[i] = v;
}

// From the gradient of the result, d, to that of the trained values.
KERNEL affines_grad(u32 n, u32 k1, u32 c1, u32 k2, u32 c2, u32 k3, u32 c3, REAL factor, REAL sign, const REAL *trained,
                    const REAL *d, REAL *out) {
    EACH(i, n);
    Place p;
    REAL v = d[i];
    if (find(i, k1, c1, k2, c2, k3, c3, sign, p)) {
        u32 k = (i - p.start) % p.channels;
        REAL scale = exp(factor * trained[p.start + p.channels + k]) * p.sign;
        REAL of_scale = d[p.start + k], of_shift = d[p.start + p.channels + k];
        v = i < p.start + p.channels ? of_shift * scale
                                     : factor * scale * (of_scale + of_shift * trained[p.start + k]);
    }
    out[i] = v;
}
