//! The numbers that oracles of another implementation begin with: each a function of a stream's number
//! and a place in it, so that both sides fill the same tensors without a file between them.

/// Number `i` of a stream, uniform on [0, 1): the top 53 bits of a word of SplitMix64.
fn at(stream: u64, i: u64) -> f64 {
    let start = stream.wrapping_shl(32).wrapping_add(i + 1);
    let mut z = start.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

/// The first `n` of a stream, on [0, 1).
pub fn uniform(stream: u64, n: usize) -> Vec<f64> {
    (0..n as u64).map(|i| at(stream, i)).collect()
}

/// The first `n` of a stream, on [-scale, scale).
pub fn signed(stream: u64, n: usize, scale: f64) -> Vec<f64> {
    let of = |u: f64| scale * (2.0 * u - 1.0);
    uniform(stream, n).into_iter().map(of).collect()
}

/// `n` standard normals, each by Box and Muller from two of a stream.
pub fn normal(stream: u64, n: usize) -> Vec<f64> {
    let of = |i: u64| {
        let (u, v) = (at(stream, 2 * i), at(stream, 2 * i + 1));
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    };
    (0..n as u64).map(of).collect()
}

/// `n` bytes.
pub fn bytes(stream: u64, n: usize) -> Vec<u8> {
    let of = |u: f64| (256.0 * u) as u8;
    uniform(stream, n).into_iter().map(of).collect()
}

/// Oracle G1.
#[test]
fn the_streams_are_those_of_the_other_side() {
    let near = |found: Vec<f64>, expected: &[f64]| {
        let pairs = found.iter().zip(expected);
        assert_eq!(found.len(), expected.len());
        assert!(
            pairs.clone().all(|(a, b)| (a / b - 1.0).abs() < 1e-9),
            "{found:?} {expected:?}"
        );
    };
    near(uniform(0, 3), &[0.8833108082, 0.431527997, 0.02643377159]);
    near(uniform(7, 2), &[0.7210923611, 0.1596594294]);
    near(uniform(9000, 2), &[0.7482728732, 0.4414148135]);
    let third = [0.2582691845, 0.1846946298, 0.02557769007];
    near(signed(3, 3, 0.5), &third);
    near(normal(5, 3), &[1.366287569, -1.426754142, 0.7985908453]);
    assert_eq!(bytes(9000, 6), [191, 113, 48, 171, 184, 234]);
}
