// The host's noise (nn/noise.rs), bit for bit: Philox 4x32-10, and normals by Box and Muller from
// correctly rounded operations only. A thread makes one block of four words.

struct Words {
    u32 w[4];
};

__device__ Words philox(u64 block, u64 step, u32 key0, u32 key1) {
    u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = (u32)step, c3 = (u32)(step >> 32);
    for (int round = 0; round < 10; round++) {
        u64 a = (u64)c0 * 0xD2511F53u, b = (u64)c2 * 0xCD9E8D57u;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ key0, n1 = (u32)b;
        u32 n2 = (u32)(a >> 32) ^ c3 ^ key1, n3 = (u32)a;
        c0 = n0, c1 = n1, c2 = n2, c3 = n3;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    Words out = {{c0, c1, c2, c3}};
    return out;
}

__device__ float unit(u32 word) {
    return (float)(word >> 8) * (1.0f / 16777216.0f);
}

__device__ float ln(float x) {
    u32 shifted = __float_as_uint(x) - 0x3F3504F3u;
    float e = (float)((int)shifted >> 23);
    float m = __uint_as_float((shifted & 0x007FFFFFu) + 0x3F3504F3u);
    float s = (m - 1.0f) / (m + 1.0f);
    float q = s * s;
    float series = q * (1.0f / 3.0f + q * (1.0f / 5.0f + q * (1.0f / 7.0f + q * (1.0f / 9.0f))));
    return e * 0.693147180559945309417f + (2.0f * s + 2.0f * s * series);
}

__device__ void box_muller(u32 a, u32 b, float *out) {
    float u = ((float)a + 1.0f) * (1.0f / 4294967296.0f);
    float radius = sqrtf(-2.0f * ln(u));
    float t = unit(b);
    float quarter = floorf(t * 4.0f + 0.5f);
    float x = (t - quarter * 0.25f) * 6.28318530717958647693f;
    float q = x * x;
    float sine = x * (1.0f - q * (1.0f / 6.0f - q * (1.0f / 120.0f - q * (1.0f / 5040.0f - q / 362880.0f))));
    float cosine = 1.0f - q * (0.5f - q * (1.0f / 24.0f - q * (1.0f / 720.0f - q * (1.0f / 40320.0f))));
    float s, c;
    switch ((u32)quarter & 3) {
    case 0: s = sine, c = cosine; break;
    case 1: s = cosine, c = -sine; break;
    case 2: s = -sine, c = -cosine; break;
    default: s = -cosine, c = sine;
    }
    out[0] = radius * c;
    out[1] = radius * s;
}

KERNEL uniform(u32 blocks, u32 n, u32 key0, u32 key1, u64 step, u64 first, REAL *out) {
    EACH(i, blocks);
    Words words = philox(first + i, step, key0, key1);
    for (u32 k = 0; k < 4 && 4 * i + k < n; k++) out[4 * i + k] = (REAL)unit(words.w[k]);
}

KERNEL normal(u32 blocks, u32 n, u32 key0, u32 key1, u64 step, u64 first, REAL *out) {
    EACH(i, blocks);
    Words words = philox(first + i, step, key0, key1);
    float values[4];
    box_muller(words.w[0], words.w[1], values);
    box_muller(words.w[2], words.w[3], values + 2);
    for (u32 k = 0; k < 4 && 4 * i + k < n; k++) out[4 * i + k] = (REAL)values[k];
}
