//! Vectors of f32 or f64 in the widest registers the processor has, behind one interface.

use pulp::{Arch, Simd, WithSimd};

/// An element type and its vectors under each instruction set.
pub trait Vectors: Sized + Copy {
    type Vector<S: Simd>: Copy;

    fn lanes<S: Simd>() -> usize;
    fn splat<S: Simd>(s: S, value: Self) -> Self::Vector<S>;
    /// # Safety
    /// `from` is valid for reading a whole vector; it need not be aligned.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> Self::Vector<S>;
    /// # Safety
    /// `to` is valid for writing a whole vector; it need not be aligned.
    unsafe fn store<S: Simd>(s: S, to: *mut Self, value: Self::Vector<S>);
    /// `a b + c`, rounded once where the processor can.
    fn mul_add<S: Simd>(
        s: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    fn sum2<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// Values that are not positive, or no numbers, times `slope`.
    fn leaky<S: Simd>(s: S, value: Self::Vector<S>, slope: Self::Vector<S>) -> Self::Vector<S>;
    /// The sum over lanes.
    fn sum<S: Simd>(s: S, value: Self::Vector<S>) -> Self;
}

macro_rules! vectors {
    ($type:ident, $vector:ident, $lanes:ident, $splat:ident, $mul_add:ident, $add:ident,
     $mul:ident, $greater:ident, $select:ident, $sum:ident) => {
        impl Vectors for $type {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn splat<S: Simd>(s: S, value: Self) -> S::$vector {
                s.$splat(value)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(_: S, from: *const Self) -> S::$vector {
                // SAFETY: as the caller promises; any bits are a vector.
                unsafe { from.cast::<S::$vector>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(_: S, to: *mut Self, value: S::$vector) {
                // SAFETY: as the caller promises.
                unsafe { to.cast::<S::$vector>().write_unaligned(value) }
            }
            #[inline(always)]
            fn mul_add<S: Simd>(s: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                s.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn sum2<S: Simd>(s: S, a: S::$vector, b: S::$vector) -> S::$vector {
                s.$add(a, b)
            }
            #[inline(always)]
            fn leaky<S: Simd>(s: S, value: S::$vector, slope: S::$vector) -> S::$vector {
                let positive = s.$greater(value, s.$splat(0.0));
                s.$select(positive, value, s.$mul(value, slope))
            }
            #[inline(always)]
            fn sum<S: Simd>(s: S, value: S::$vector) -> Self {
                s.$sum(value)
            }
        }
    };
}
vectors!(
    f32,
    f32s,
    F32_LANES,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    mul_f32s,
    greater_than_f32s,
    select_f32s,
    reduce_sum_f32s
);
vectors!(
    f64,
    f64s,
    F64_LANES,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    mul_f64s,
    greater_than_f64s,
    select_f64s,
    reduce_sum_f64s
);

/// Runs `op` with the best instructions this processor has.
pub fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    #[cfg(test)]
    match tests::forced() {
        Some("scalar") => return Simd::vectorize(pulp::Scalar::new(), op),
        #[cfg(target_arch = "x86_64")]
        Some("avx2") => return Simd::vectorize(tests::AVX2.expect("AVX2"), op),
        _ => {}
    }
    Arch::new().dispatch(op)
}

/// Runs plain loops compiled for the best instructions this processor has.
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    struct Loops<F>(F);
    impl<R, F: FnOnce() -> R> WithSimd for Loops<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.0)()
        }
    }
    dispatch(Loops(f))
}

/// Elements of a vector on this processor.
pub fn lanes<T: Vectors>() -> usize {
    struct Lanes<T>(std::marker::PhantomData<T>);
    impl<T: Vectors> WithSimd for Lanes<T> {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            T::lanes::<S>()
        }
    }
    dispatch(Lanes::<T>(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::LazyLock;

    /// Read by [`forced`]: the tests of this folder under lesser instructions than there are.
    const VARIABLE: &str = "REPRO_TEST_SIMD";

    #[cfg(target_arch = "x86_64")]
    pub static AVX2: LazyLock<Option<pulp::x86::V3>> = LazyLock::new(pulp::x86::V3::try_new);

    pub fn forced() -> Option<&'static str> {
        static FORCED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(VARIABLE).ok());
        FORCED.as_deref()
    }

    /// What is read once for a process needs a process of its own.
    fn under(instructions: &str) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "nn::cpu::",
                "nn::coupling::",
                "nn::residual::",
                "--skip=nn::cpu::simd",
            ])
            .env(VARIABLE, instructions)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("running 0 tests"), "{said}");
    }

    #[test]
    fn without_vectors_the_same_tests_pass() {
        under("scalar");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn with_avx2_the_same_tests_pass() {
        if AVX2.is_some() {
            under("avx2");
        } else {
            eprintln!("SKIPPED: this processor has no AVX2");
        }
    }
}
