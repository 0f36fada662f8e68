//! The exponential function without calls, so that loops over it become vectors.

/// e^x in f32 for any x: `x = n ln 2 + r`, `e^x = 2^n e^r`, with e^r by its Taylor series on
/// |r| <= ln 2 / 2; within 2 units in the last place. From e^-87.3 down it is that, and from e^88.3
/// up that: no zero and no infinity comes out.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: n times the first is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * HIGH) - n * LOW;
    let series = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
    let e = 1.0 + (r + r * r * (0.5 + r * (1.0 / 6.0 + r * series)));
    // |n| <= 127, so that n + 127 is an exponent.
    e * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn is_accurate_everywhere() {
        for i in -8_700..=8_800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "{x}: {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) > 0.0 && exp(-1e30) < 1.3e-38);
        assert!(exp(1e30).is_finite() && exp(1e30) > 2e38);
    }
}
