//! Randomness as an argument: Philox 4x32-10 (Salmon et al., SC 2011), keyed by seed and purpose,
//! positioned by step. The same numbers come out at every resume point and on every device.

use candle_core::{DType, Device, Result, Shape, Tensor};

#[cfg(any(feature = "cuda", test))]
use super::cuda::noise::Position;
#[cfg(feature = "cuda")]
use super::cuda::{noise::Law, noise_op};

/// All noise of one purpose: a key. Steps and draws within a step are counter positions.
#[derive(Clone, Debug)]
pub struct Noise {
    key: [u32; 2],
}

impl Noise {
    /// Noise for `purpose`, such as `vae.train`. Different purposes share nothing.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        let hash = hasher.finalize();
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| hash.as_bytes()[i + j]));
        Self {
            key: [word(0), word(4)],
        }
    }

    /// The generator of one step. Draws follow each other within it.
    pub fn at(&self, step: u64) -> Draws {
        Draws {
            key: self.key,
            step,
            block: 0,
        }
    }
}

/// A position in the noise of one step. Every draw takes whole blocks of four words, so a draw's
/// position depends only on the sizes of the draws before it.
#[derive(Clone, Debug)]
pub struct Draws {
    key: [u32; 2],
    step: u64,
    block: u64,
}

impl Draws {
    /// Where the next draw starts, as a GPU's kernel takes it.
    #[cfg(any(feature = "cuda", test))]
    pub fn position(&self) -> Position {
        Position {
            key: self.key,
            step: self.step,
            block: self.block,
        }
    }

    /// Draws made on a GPU, if `device` is one: the same numbers.
    #[cfg(feature = "cuda")]
    fn on_gpu(
        &mut self,
        law: Law,
        shape: &Shape,
        dtype: DType,
        device: &Device,
    ) -> Option<Result<Tensor>> {
        let Device::Cuda(device) = device else {
            return None;
        };
        let position = self.position();
        self.block += shape.elem_count().div_ceil(4) as u64;
        Some(noise_op::noise(position, law, shape, dtype, device))
    }

    /// Uniform on [0, 1), multiples of 2^-24: the same numbers in f32 and f64.
    pub fn uniform<S: Into<Shape>>(
        &mut self,
        shape: S,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let shape = shape.into();
        #[cfg(feature = "cuda")]
        if let Some(made) = self.on_gpu(Law::Uniform, &shape, dtype, device) {
            return made;
        }
        let values = self.fill(shape.elem_count(), |words, out| {
            for (o, w) in out.iter_mut().zip(words) {
                *o = unit(w);
            }
        });
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)
    }

    /// Standard normal, by Box and Muller in f32: the same numbers (to f32) in every dtype.
    pub fn normal<S: Into<Shape>>(
        &mut self,
        shape: S,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let shape = shape.into();
        #[cfg(feature = "cuda")]
        if let Some(made) = self.on_gpu(Law::Normal, &shape, dtype, device) {
            return made;
        }
        let values = self.normals(shape.elem_count());
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)
    }

    /// `n` standard normals on the host.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        self.fill(n, |words, out| {
            let (a, b) = box_muller(words[0], words[1]);
            let (c, d) = box_muller(words[2], words[3]);
            for (o, v) in out.iter_mut().zip([a, b, c, d]) {
                *o = v;
            }
        })
    }

    /// `n` random words on the host.
    pub fn words(&mut self, n: usize) -> Vec<u32> {
        self.fill(n, |words, out| out.copy_from_slice(&words[..out.len()]))
    }

    /// A permutation of 0..n, by Fisher and Yates. The bias of the scaled words is below n / 2^32.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        let words = self.words(n);
        for i in (1..n).rev() {
            let j = (u64::from(words[i]) * (i as u64 + 1)) >> 32;
            order.swap(i, j as usize);
        }
        order
    }

    fn fill<T: Clone + Default>(
        &mut self,
        n: usize,
        mut write: impl FnMut([u32; 4], &mut [T]),
    ) -> Vec<T> {
        let mut out = vec![T::default(); n];
        for chunk in out.chunks_mut(4) {
            let (b, s) = (self.block, self.step);
            let counter = [b as u32, (b >> 32) as u32, s as u32, (s >> 32) as u32];
            write(philox(counter, self.key), chunk);
            self.block += 1;
        }
        out
    }
}

/// One block of Philox 4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

/// A word as a multiple of 2^-24 in [0, 1).
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two normals from two words.
///
/// Logarithm, sine and cosine are our own, made only of correctly rounded additions,
/// multiplications, divisions and square roots, so that a GPU can repeat them bit for bit.
fn box_muller(a: u32, b: u32) -> (f32, f32) {
    // (0, 1]: the smallest radius argument is 2^-32, so |normal| < 6.7.
    let u = (a as f32 + 1.0) * (1.0 / 4_294_967_296.0);
    let radius = (-2.0 * ln(u)).sqrt();
    let (sin, cos) = sin_cos_turns(unit(b));
    (radius * cos, radius * sin)
}

/// ln x for 2^-32 <= x <= 1, by `x = 2^e m` with m in [sqrt(1/2), sqrt 2) and
/// `ln m = 2 artanh((m - 1) / (m + 1))`; within 2 units in the last place.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let shifted = bits.wrapping_sub(0x3F35_04F3);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series = q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    e * std::f32::consts::LN_2 + (2.0 * s + 2.0 * s * series)
}

/// Sine and cosine of `2 pi t`, 0 <= t < 1, by Taylor series within an eighth of a turn.
fn sin_cos_turns(t: f32) -> (f32, f32) {
    let quarter = (t * 4.0 + 0.5).floor();
    // Exact: t is a multiple of 2^-24.
    let x = (t - quarter * 0.25) * std::f32::consts::TAU;
    let q = x * x;
    let sin = x * (1.0 - q * (1.0 / 6.0 - q * (1.0 / 120.0 - q * (1.0 / 5040.0 - q / 362_880.0))));
    let cos = 1.0 - q * (0.5 - q * (1.0 / 24.0 - q * (1.0 / 720.0 - q * (1.0 / 40_320.0))));
    match quarter as u32 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that Random123 publishes (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn elementary_functions_are_accurate() {
        for i in 1..=4096u32 {
            let x = i as f32 / 4096.0;
            let exact = f64::from(x).ln();
            assert!(
                (f64::from(ln(x)) - exact).abs() <= 3e-7 * exact.abs().max(1e-3),
                "ln {x}"
            );
        }
        assert!((ln(1.0 / 4_294_967_296.0) + 32.0 * std::f32::consts::LN_2).abs() < 2e-6);
        for i in 0..4096u32 {
            let t = i as f32 / 4096.0;
            let (s, c) = sin_cos_turns(t);
            let (es, ec) = (f64::from(t) * std::f64::consts::TAU).sin_cos();
            assert!(
                (f64::from(s) - es).abs() < 2e-7 && (f64::from(c) - ec).abs() < 2e-7,
                "{t}"
            );
        }
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let x = Noise::new(1, "test").at(0).normals(400_000);
        let n = x.len() as f64;
        let moment = |p: i32| x.iter().map(|v| f64::from(*v).powi(p)).sum::<f64>() / n;
        // Four standard errors each.
        assert!(moment(1).abs() < 4.0 / n.sqrt());
        assert!((moment(2) - 1.0).abs() < 4.0 * (2.0 / n).sqrt());
        assert!(moment(3).abs() < 4.0 * (15.0 / n).sqrt());
        assert!((moment(4) - 3.0).abs() < 4.0 * (96.0 / n).sqrt());
    }

    #[test]
    fn seeds_purposes_and_steps_differ_and_repeat() {
        let draw = |seed, purpose, step| Noise::new(seed, purpose).at(step).words(8);
        let base = draw(0, "a", 0);
        assert_eq!(base, draw(0, "a", 0));
        for other in [draw(1, "a", 0), draw(0, "b", 0), draw(0, "a", 1)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn f32_and_f64_draws_agree() -> Result<()> {
        let draw = |dtype| -> Result<Vec<f32>> {
            let mut noise = Noise::new(3, "t").at(5);
            let u = noise.uniform((3, 5), dtype, &Device::Cpu)?;
            let e = noise.normal(7, dtype, &Device::Cpu)?;
            Tensor::cat(&[u.flatten_all()?, e], 0)?
                .to_dtype(DType::F32)?
                .to_vec1()
        };
        assert_eq!(draw(DType::F32)?, draw(DType::F64)?);
        Ok(())
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Noise::new(0, "p").at(2).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }
}
