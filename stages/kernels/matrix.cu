// Inverse and ln|det| of one small square matrix by Gauss and Jordan with partial pivoting, in
// double. One block; a is scratch of n * 2n: the matrix and, growing beside it, the inverse.
// out: ln|det|, then the inverse, row by row.
KERNEL log_det_and_inverse(u32 n, const REAL *w, double *a, REAL *out) {
    __shared__ double best[256];
    __shared__ u32 where[256];
    __shared__ double log_det;
    u32 t = threadIdx.x, width = 2 * n;
    for (u32 i = t; i < n * width; i += blockDim.x) {
        u32 row = i / width, column = i % width;
        a[i] = column < n ? (double)w[row * n + column] : (column - n == row ? 1.0 : 0.0);
    }
    if (t == 0) log_det = 0;
    __syncthreads();
    for (u32 k = 0; k < n; k++) {
        // The largest of column k from row k on; of equals the first.
        double mine = -1;
        u32 row = k;
        for (u32 i = k + t; i < n; i += blockDim.x) {
            double size = fabs(a[i * width + k]);
            if (size > mine) mine = size, row = i;
        }
        best[t] = mine;
        where[t] = row;
        __syncthreads();
        if (t == 0) {
            for (u32 i = 1; i < blockDim.x && i < n - k; i++) {
                if (best[i] > best[0] || (best[i] == best[0] && where[i] < where[0])) {
                    best[0] = best[i], where[0] = where[i];
                }
            }
            log_det += log(best[0]);
        }
        __syncthreads();
        u32 from = where[0];
        for (u32 j = t; j < width && from != k; j += blockDim.x) {
            double other = a[from * width + j];
            a[from * width + j] = a[k * width + j];
            a[k * width + j] = other;
        }
        __syncthreads();
        double pivot = a[k * width + k];
        __syncthreads();
        for (u32 j = t; j < width; j += blockDim.x) a[k * width + j] /= pivot;
        __syncthreads();
        // All other rows lose their multiple of row k. Column k itself is not needed again.
        for (u32 i = t; i < n * width; i += blockDim.x) {
            u32 r = i / width, j = i % width;
            if (r != k && j > k) a[i] -= a[r * width + k] * a[k * width + j];
        }
        __syncthreads();
    }
    if (t == 0) out[0] = (REAL)log_det;
    for (u32 i = t; i < n * n; i += blockDim.x) out[1 + i] = (REAL)a[i / n * width + n + i % n];
}
