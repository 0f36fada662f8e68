use candle_core::{DType, Device, Var};

use super::super::noise::Noise;
use super::*;

fn var(step: u64, dims: &[usize]) -> Result<Var> {
    Var::from_tensor(
        &Noise::new(4, "channel")
            .at(step)
            .normal(dims, DType::F64, &Device::Cpu)?,
    )
}

/// candle's own operations, one at a time.
fn plain(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    normal: bool,
    act: Activation,
) -> Result<Tensor> {
    let dims: Vec<usize> = (0..x.rank() - 1).collect();
    let x = if normal {
        let x = x.broadcast_sub(&x.mean_keepdim(dims.clone())?)?;
        x.broadcast_div(&(x.sqr()?.mean_keepdim(dims)? + 1e-5)?.sqrt()?)?
    } else {
        x.clone()
    };
    let y = x.broadcast_mul(scale)?.broadcast_add(shift)?;
    match act {
        Activation::None => Ok(y),
        Activation::Relu => y.relu(),
        Activation::Leaky(s) => y.relu()? - (y.neg()?.relu()? * s)?,
    }
}

#[test]
fn equals_the_plain_operations_and_so_do_the_gradients() -> Result<()> {
    // More rows than a task takes at once.
    for dims in [vec![3, 5, 4, 6], vec![7, 3], vec![2, 90, 80, 5]] {
        let c = dims[dims.len() - 1];
        let (x, scale, shift) = (var(0, &dims)?, var(1, &[c])?, var(2, &[c])?);
        let r = var(3, &dims)?.as_detached_tensor();
        for act in [Activation::None, Activation::Relu, Activation::Leaky(0.2)] {
            for normal in [false, true] {
                let ours = match normal {
                    false => affine(&x, &scale, &shift, act)?,
                    true => batch_norm(&x, &scale, &shift, 1e-5, act)?.0,
                };
                let theirs = plain(&x, &scale, &shift, normal, act)?;
                let far = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f64>();
                assert!(far(&ours, &theirs)? < 1e-12);
                let a = (&ours * &r)?.sum_all()?.backward()?;
                let b = (&theirs * &r)?.sum_all()?.backward()?;
                for v in [&x, &scale, &shift] {
                    let (a, b) = (a.get(v).unwrap(), b.get(v).unwrap());
                    let size = b.abs()?.max_all()?.to_scalar::<f64>()?;
                    assert!(
                        far(a, b)? < 1e-11 * (1.0 + size),
                        "{dims:?} {act:?} {normal}"
                    );
                }
            }
        }
    }
    Ok(())
}
