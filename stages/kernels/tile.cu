// Products of matrices by the warps of a block, whose results stay in registers.
//
// A fragment is 16 rows by 8 columns of a result. Each thread of a warp holds four of its values, as
// the instruction of the tensor cores has them (PTX ISA, matrix fragments of mma.m16n8k8): row
// lane / 4 and 8 further, column lane % 4 * 2 and the next. With TF32 defined, products are made by
// that instruction, of factors rounded to ten bits and in sums of f32; otherwise by each thread for
// itself, so that a result's value is one chain of multiplications and additions.

#define INLINE __device__ __forceinline__

struct Fragment {
    REAL v[4];
};

INLINE u32 fragment_row(u32 i) {
    return threadIdx.x % 32 / 4 + i / 2 * 8;
}
INLINE u32 fragment_column(u32 i) {
    return threadIdx.x % 4 * 2 + i % 2;
}

// A matrix where it lies: value (row, column) is at[row * down + column * right].
struct View {
    const REAL *at;
    u32 down, right;
};
INLINE View view(const REAL *at, u32 down, u32 right = 1) {
    return View{at, down, right};
}
INLINE REAL value(const View &m, u32 row, u32 column) {
    return m.at[row * m.down + column * m.right];
}

#ifndef EMULATED
// c += a b, by the 32 threads of a warp together.
INLINE void mma(float (&c)[4], const float (&a)[4], float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}
INLINE float to_tf32(float x) {
    u32 bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}
// Sixteen bytes from device memory to shared memory, while the thread goes on.
INLINE void copy_16(REAL *to, const REAL *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}
// Waits for this thread's copies.
INLINE void copies_done() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}
#endif

// A factor as products take it.
INLINE REAL factor(REAL x) {
#ifdef TF32
    return to_tf32(x);
#else
    return x;
#endif
}

// c += a b for the first `used` of COLUMNS fragments side by side; `depth` is a multiple of 8.
template <u32 ROWS, u32 COLUMNS>
INLINE void multiply(Fragment (&c)[ROWS][COLUMNS], View a, View b, u32 depth, u32 used = COLUMNS) {
    u32 group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    for (u32 k = 0; k < depth; k += 8) {
#ifdef TF32
        REAL x[ROWS][4];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) x[r][i] = value(a, 16 * r + group + i % 2 * 8, k + member + i / 2 * 4);
        }
#pragma unroll
        for (u32 n = 0; n < COLUMNS; n++) {
            if (n >= used) break;
            REAL y0 = value(b, k + member, 8 * n + group), y1 = value(b, k + member + 4, 8 * n + group);
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) mma(c[r][n].v, x[r], y0, y1);
        }
#else
#pragma unroll 4
        for (u32 j = k; j < k + 8; j++) {
            REAL x[ROWS][2];
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) {
                x[r][0] = value(a, 16 * r + group, j);
                x[r][1] = value(a, 16 * r + group + 8, j);
            }
#pragma unroll
            for (u32 n = 0; n < COLUMNS; n++) {
                if (n >= used) break;
                REAL y0 = value(b, j, 8 * n + 2 * member), y1 = value(b, j, 8 * n + 2 * member + 1);
#pragma unroll
                for (u32 r = 0; r < ROWS; r++) {
                    REAL(&v)[4] = c[r][n].v;
                    v[0] = fma(x[r][0], y0, v[0]);
                    v[1] = fma(x[r][0], y1, v[1]);
                    v[2] = fma(x[r][1], y0, v[2]);
                    v[3] = fma(x[r][1], y1, v[3]);
                }
            }
        }
#endif
    }
}

// Calls f(row, column, number, value) for each value of the fragments that this thread holds.
template <u32 ROWS, u32 COLUMNS, class F> INLINE void each_value(Fragment (&c)[ROWS][COLUMNS], F f) {
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
        for (u32 n = 0; n < COLUMNS; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                f(16 * r + fragment_row(i), 8 * n + fragment_column(i), (r * COLUMNS + n) * 4 + i, c[r][n].v[i]);
            }
        }
    }
}
