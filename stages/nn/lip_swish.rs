//! LipSwish as operations of candle: alone, with its slope, and with a tangent beside it.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, WithDType, bail};

use super::cpu::lip_swish::{self as cpu, Logistic};
use super::cpu::slice;
use super::slices::with_all;

const NAME: &str = "lip-swish";

/// `f(a) = a σ(b a) / 1.1`, `a = x + bias`, of `[.., c]` with `bias` `[c]` and `b` of one element. No
/// gradient.
pub fn lip_swish(x: &Tensor, bias: &Tensor, b: &Tensor) -> Result<Tensor> {
    let [x, bias, b] = [x, bias, b].map(Tensor::detach);
    if !x.device().is_cpu() {
        return Ok(composed(&x, &bias, &b)?.0);
    }
    let x = x.contiguous()?;
    by_dtype(&[&x, &bias, &b], Alone)?
        .into_iter()
        .next()
        .ok_or_else(none)
}

/// `f(a)` and `f'(a)` of the same. No gradient.
pub fn with_slope(x: &Tensor, bias: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let [x, bias, b] = [x, bias, b].map(Tensor::detach);
    if !x.device().is_cpu() {
        return composed(&x, &bias, &b);
    }
    let x = x.contiguous()?;
    let mut both = by_dtype(&[&x, &bias, &b], WithSlope)?.into_iter();
    both.next().zip(both.next()).ok_or_else(none)
}

/// Of values and as many tangents `[2n, .., c]`, one half after the other: `f(a)`, and `f'(a)` times the
/// tangent. Its gradient is that of both, so what was differentiated once along the tangent is
/// differentiated again.
pub fn with_tangent(x: &Tensor, bias: &Tensor, b: &Tensor) -> Result<Tensor> {
    if x.dim(0)? % 2 != 0 {
        bail!("{NAME}: {:?} is not values and tangents", x.dims());
    }
    if !x.device().is_cpu() {
        let n = x.dim(0)? / 2;
        let (y, slope) = composed(&x.narrow(0, 0, n)?, bias, b)?;
        return Tensor::cat(&[y, (x.narrow(0, n, n)? * slope)?], 0);
    }
    x.contiguous()?
        .apply_op3(&bias.contiguous()?, &b.flatten_all()?, Op)
}

/// `x y` of two tensors of one shape. No gradient.
pub fn product(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.detach() * y.detach();
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    if x.shape() != y.shape() {
        bail!("product: {:?} and {:?}", x.dims(), y.dims());
    }
    by_dtype(&[&x, &y], Product)?
        .into_iter()
        .next()
        .ok_or_else(none)
}

/// `b` from the number that is learned, which keeps it above zero: `ln(1 + e^raw)`.
pub fn softplus(raw: &Tensor) -> Result<Tensor> {
    (raw.exp()? + 1.0)?.log()
}

fn none() -> candle_core::Error {
    candle_core::Error::Msg(format!("BUG: {NAME}: no result"))
}

/// `f(a)` and `f'(a)` from operations that every device has, with their gradients.
fn composed(x: &Tensor, bias: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let a = x.broadcast_add(bias)?;
    let ba = a.broadcast_mul(b)?;
    // Beyond, the slope of an infinite exponential would be no number.
    let s = ((ba.clamp(-60.0, 60.0)?.neg()?.exp()? + 1.0)?).recip()?;
    let y = ((&a * &s)? / 1.1)?;
    let inner = ((&ba * (1.0 - &s)?)? + 1.0)?;
    Ok((y, ((s * inner)? / 1.1)?))
}

/// What is computed of slices: shapes of the results are that of the first.
trait Slices {
    fn run<T: Logistic>(&self, operands: &[&[T]]) -> Vec<Vec<T>>;
}

struct Alone;
impl Slices for Alone {
    fn run<T: Logistic>(&self, operands: &[&[T]]) -> Vec<Vec<T>> {
        let [x, bias, b] = operands else {
            return Vec::new();
        };
        vec![cpu::LipSwish::new(bias, b[0]).forward(x, false)]
    }
}

struct WithSlope;
impl Slices for WithSlope {
    fn run<T: Logistic>(&self, operands: &[&[T]]) -> Vec<Vec<T>> {
        let [x, bias, b] = operands else {
            return Vec::new();
        };
        cpu::LipSwish::new(bias, b[0]).with_slope(x).into()
    }
}

struct Product;
impl Slices for Product {
    fn run<T: Logistic>(&self, operands: &[&[T]]) -> Vec<Vec<T>> {
        let [x, y] = operands else {
            return Vec::new();
        };
        vec![cpu::product(x, y)]
    }
}

/// On the CPU, of contiguous tensors of one dtype.
fn by_dtype(operands: &[&Tensor], what: impl Slices) -> Result<Vec<Tensor>> {
    match operands[0].dtype() {
        candle_core::DType::F32 => of_type::<f32>(operands, what),
        candle_core::DType::F64 => of_type::<f64>(operands, what),
        other => bail!("{NAME}: wants f32 or f64, got {other:?}"),
    }
}

fn of_type<T: Logistic + WithDType>(
    operands: &[&Tensor],
    what: impl Slices,
) -> Result<Vec<Tensor>> {
    let shape = operands[0].shape();
    let results = with_all(NAME, operands, |slices| what.run::<T>(slices))?.into_iter();
    results
        .map(|values| Tensor::from_vec(values, shape.clone(), &Device::Cpu))
        .collect()
}

/// [`with_tangent`] on the CPU.
struct Op;

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        bias: &CpuStorage,
        l: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if xl.dims().last() != Some(&l.shape().elem_count()) || bl.shape().elem_count() != 1 {
            bail!("{NAME}: bias {:?} for {:?}", l.dims(), xl.dims());
        }
        macro_rules! run {
            ($kind:ident, $x:expr, $bias:expr, $b:expr) => {{
                let (x, bias) = (slice(NAME, $x, xl)?, slice(NAME, $bias, l)?);
                let f = cpu::LipSwish::new(bias, slice(NAME, $b, bl)?[0]);
                CpuStorage::$kind(f.forward(x, true))
            }};
        }
        let y = match (x, bias, b) {
            (CpuStorage::F32(x), CpuStorage::F32(bias), CpuStorage::F32(b)) => {
                run!(F32, x, bias, b)
            }
            (CpuStorage::F64(x), CpuStorage::F64(bias), CpuStorage::F64(b)) => {
                run!(F64, x, bias, b)
            }
            _ => bail!("{NAME}: wants three f32 or three f64 tensors"),
        };
        Ok((y, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let operands = [x, bias, b, &dy];
        let (dx, dbias, db) = match x.dtype() {
            candle_core::DType::F32 => gradients::<f32>(operands)?,
            _ => gradients::<f64>(operands)?,
        };
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((wanted(x, dx), wanted(bias, dbias), wanted(b, db)))
    }
}

fn gradients<T: Logistic + WithDType>(operands: [&Tensor; 4]) -> Result<(Tensor, Tensor, Tensor)> {
    let made = with_all::<T, _>(NAME, &operands, |slices| {
        cpu::LipSwish::new(slices[1], slices[2][0]).backward(slices[0], slices[3])
    })?;
    let of = |values, like: &Tensor| Tensor::from_vec(values, like.shape().clone(), &Device::Cpu);
    let [x, bias, b, _] = operands;
    Ok((
        of(made.dx, x)?,
        of(made.dbias, bias)?,
        of(vec![made.db], b)?,
    ))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::nn::noise::Noise;

    fn numbers(x: &Tensor) -> Result<Vec<f64>> {
        x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
    }

    /// Oracle R1, and the steepest slope, by which it is 1-Lipschitz.
    #[test]
    fn values_and_slopes_are_those_of_the_paper() -> Result<()> {
        let x = Tensor::new(&[-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], &Device::Cpu)?;
        let zero = Tensor::new(&[0.0], &Device::Cpu)?;
        let raw = Var::new(&[0.5], &Device::Cpu)?;
        let b = softplus(raw.as_tensor())?;
        assert!((numbers(&b)?[0] / 0.97407698418 - 1.0).abs() < 1e-9);
        let x = x.reshape((7, 1))?;
        let (y, slope) = with_slope(&x, &zero, &b)?;
        let values = [
            -0.139269506,
            -0.2491532901,
            -0.1729961232,
            0.0,
            0.2815493314,
            0.659937619,
            2.588003221,
        ];
        let slopes = [
            -0.08230854775,
            0.07297374714,
            0.24161476,
            0.4545454545,
            0.6674761491,
            0.836117162,
            0.9913994568,
        ];
        for (found, expected) in [(&y, values), (&slope, slopes)] {
            for (a, b) in numbers(found)?.into_iter().zip(expected) {
                assert!((a - b).abs() <= 1e-9 * b.abs(), "{a} {b}");
            }
        }
        assert_eq!(numbers(&lip_swish(&x, &zero, &b)?)?, numbers(&y)?);
        let both = with_tangent(&Tensor::cat(&[&x, &x], 0)?, &zero, &b)?;
        let grads = both.narrow(0, 0, 7)?.sum_all()?.backward()?;
        let of_raw = grads
            .get(&raw)
            .map(numbers)
            .transpose()?
            .unwrap_or_default();
        assert!((of_raw[0] / 0.7854425289 - 1.0).abs() < 1e-9, "{of_raw:?}");

        let fine: Vec<f64> = (-100_000..100_000).map(|i| f64::from(i) * 1e-4).collect();
        let fine = Tensor::from_vec(fine, (200_000, 1), &Device::Cpu)?;
        let slopes = numbers(&with_slope(&fine, &zero, &b)?.1)?;
        let steepest = slopes.iter().map(|s| s.abs()).fold(0.0, f64::max);
        assert!((steepest / 0.999853927385 - 1.0).abs() < 1e-8, "{steepest}");
        Ok(())
    }

    /// The one operation against those it is made of: values and all gradients, in both precisions, for
    /// numbers of channels that fill rows and that do not.
    #[test]
    fn the_operation_equals_its_parts() -> Result<()> {
        for (dtype, limit) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            for (n, side, c) in [(1, 1, 1), (2, 3, 3), (3, 20, 65), (2, 40, 12)] {
                let draw = |step, shape: &[usize]| {
                    let mut noise = Noise::new(3, "lip-swish").at(step);
                    noise.normal(shape, dtype, &Device::Cpu)
                };
                let x = Var::from_tensor(&(draw(0, &[2 * n, side, side, c])? * 2.0)?)?;
                let bias = Var::from_tensor(&draw(1, &[c])?)?;
                let b = Var::from_tensor(&(draw(2, &[1])?.abs()? + 0.3)?)?;
                let r = draw(4, x.dims())?;
                let one = with_tangent(&x, &bias, &b)?;
                let (y, slope) = composed(&x.narrow(0, 0, n)?, &bias, &b)?;
                let parts = Tensor::cat(&[y.clone(), (x.narrow(0, n, n)? * &slope)?], 0)?;
                let far = |a: &Tensor, b: &Tensor| -> Result<f64> {
                    let (a, b) = (numbers(a)?, numbers(b)?);
                    let size = b.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
                    let gaps = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
                    Ok(gaps.fold(0.0, f64::max) / size)
                };
                assert!(far(&one, &parts)? < limit);
                let half = x.narrow(0, 0, n)?;
                assert!(far(&with_slope(&half, &bias, &b)?.1, &slope)? < limit);
                assert!(far(&lip_swish(&half, &bias, &b)?, &y)? < limit);
                assert!(far(&product(&half, &half)?, &half.sqr()?)? < limit);
                let ours = (one * &r)?.sum_all()?.backward()?;
                let theirs = (parts * &r)?.sum_all()?.backward()?;
                for (name, var) in [("x", &x), ("bias", &bias), ("b", &b)] {
                    let (Some(a), Some(b)) = (ours.get(var), theirs.get(var)) else {
                        panic!("no gradient of {name}");
                    };
                    let gap = far(a, b)?;
                    // A sum of many in f32 by candle, in f64 by us.
                    assert!(gap < 10.0 * limit, "{name} of {n} {side} {c}: {gap:e}");
                }
            }
        }
        Ok(())
    }
}
