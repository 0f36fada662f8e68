use candle_core::Var;

use super::*;
use crate::nn::noise::Noise;

const FORMS: [InvConvForm; 2] = [InvConvForm::Plain, InvConvForm::Lu];

fn far(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
}

fn images(n: usize, dtype: DType) -> Result<Tensor> {
    let noise = &mut Noise::new(0, "x").at(0);
    Ok(noise.normal((2, 3, 3, n), dtype, &Device::Cpu)?)
}

#[test]
fn a_random_start_is_orthogonal() -> Result<()> {
    for (form, n) in FORMS.into_iter().flat_map(|f| [3, 12, 48].map(|n| (f, n))) {
        let w = Weights::new(1, DType::F64, &Device::Cpu);
        let layer = InvConv::new(form, n, Init::Orthogonal, &w)?;
        let gram = layer.matrix()?.t()?.matmul(&layer.matrix()?)?;
        let error = (gram - Tensor::eye(n, DType::F64, &Device::Cpu)?)?
            .abs()?
            .sum_all()?;
        assert!(error.to_scalar::<f64>()? < 1e-10);
        assert!(layer.log_det()?.to_scalar::<f64>()?.abs() < 1e-10);
    }
    Ok(())
}

/// Both forms start with the same matrix; of the same matrix, at the start and after L, U and s have
/// moved, they are the same map with the same log-determinant and inverse.
#[test]
fn the_lu_form_agrees() -> Result<()> {
    for n in [3, 12, 48] {
        let stores = FORMS.map(|_| Weights::new(1, DType::F64, &Device::Cpu));
        let plain = InvConv::new(InvConvForm::Plain, n, Init::Orthogonal, &stores[0])?;
        let lu = InvConv::new(InvConvForm::Lu, n, Init::Orthogonal, &stores[1])?;
        assert_eq!(stores[0].count(), stores[1].count());
        let x = images(n, DType::F64)?;
        for moved in [false, true] {
            if moved {
                let packed = &stores[1].all()["lu"];
                let noise = Noise::new(5, "lu").at(0);
                let noise = noise.clone().normal((n, n), DType::F64, &Device::Cpu)?;
                packed.set(&(packed.as_detached_tensor() + (noise * 0.02)?)?)?;
                plain.set(&lu.matrix()?.detach())?;
            }
            let (a, b) = (plain.forward(&x)?, lu.forward(&x)?);
            assert!(far(&a.0, &b.0)? < 1e-12);
            // The sum is over nine pixels.
            assert!(far(&a.1, &b.1)? < 9e-12);
            assert!(far(&plain.inverse(&x)?, &lu.inverse(&x)?)? < 1e-12);
        }
    }
    Ok(())
}

/// L, U and P are what they are called: of a matrix that needs pivoting, by hand.
#[test]
fn factors_are_those_of_the_matrix() -> Result<()> {
    let w = Weights::new(1, DType::F64, &Device::Cpu);
    let lu = InvConv::new(InvConvForm::Lu, 2, Init::Identity, &w)?;
    lu.set(&Tensor::new(&[[1f64, 2.0], [-4.0, 4.0]], &Device::Cpu)?)?;
    let get = |name: &str| w.all()[name].flatten_all()?.to_vec1::<f64>();
    assert_eq!(get("permutation")?, [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(get("sign")?, [-1.0, 1.0]);
    assert_eq!(get("lu")?, [4f64.ln(), 4.0, -0.25, 3f64.ln()]);
    // Only L, U and ln |s| are learned.
    let learned: Vec<_> = w.trained().into_iter().map(|(name, _)| name).collect();
    assert_eq!(learned, ["lu"]);
    // A second model on the same weights takes them as they are.
    let again = InvConv::new(InvConvForm::Lu, 2, Init::Orthogonal, &w)?;
    assert_eq!(far(&again.matrix()?, &lu.matrix()?)?, 0.0);
    Ok(())
}

/// Gradients with respect to L, U and ln |s| against differences.
#[test]
fn gradients_of_the_factors_are_right() -> Result<()> {
    let w = Weights::new(1, DType::F64, &Device::Cpu);
    let layer = InvConv::new(InvConvForm::Lu, 3, Init::Orthogonal, &w)?;
    let x = images(3, DType::F64)?;
    let loss = || -> Result<Tensor> {
        let (y, log_det) = layer.forward(&x)?;
        Ok((y.sqr()?.sum_all()? + (log_det.sum_all()? * 0.7)?)?)
    };
    let packed = &w.all()["lu"];
    let at = packed.as_detached_tensor().copy()?;
    let gradient = loss()?.backward()?;
    let gradient = gradient.get(packed).unwrap().flatten_all()?;
    for (i, claimed) in gradient.to_vec1::<f64>()?.into_iter().enumerate() {
        let mut step = vec![0f64; 9];
        step[i] = 1e-5;
        let step = Tensor::from_vec(step, (3, 3), &Device::Cpu)?;
        let mut ends = [0.0; 2];
        for (end, moved) in ends.iter_mut().zip([(&at + &step)?, (&at - &step)?]) {
            packed.set(&moved)?;
            *end = loss()?.to_scalar::<f64>()?;
        }
        let slope = (ends[0] - ends[1]) / 2e-5;
        assert!((claimed - slope).abs() < 1e-6, "{claimed} {slope}");
    }
    Ok(())
}

/// The gradient against differences.
#[test]
fn the_gradient_of_log_det_is_the_transposed_inverse() -> Result<()> {
    let draw = Noise::new(0, "w")
        .at(0)
        .normal((5, 5), DType::F64, &Device::Cpu)?;
    let w = Var::from_tensor(&draw)?;
    let gradient = log_abs_det(&w)?.backward()?;
    let gradient = gradient.get(&w).unwrap().flatten_all()?.to_vec1::<f64>()?;
    for (i, claimed) in gradient.into_iter().enumerate() {
        let mut unit = vec![0f64; 25];
        unit[i] = 1e-6;
        let unit = Tensor::from_vec(unit, (5, 5), &Device::Cpu)?;
        let at = |w: Tensor| -> Result<f64> { Ok(log_abs_det(&w)?.to_scalar()?) };
        let slope = (at((&draw + &unit)?)? - at((&draw - &unit)?)?) / 2e-6;
        assert!((claimed - slope).abs() < 1e-7, "{claimed} {slope}");
    }
    Ok(())
}

#[test]
fn the_identity_changes_no_bit() -> Result<()> {
    for form in FORMS {
        let w = Weights::new(1, DType::F32, &Device::Cpu);
        let x = images(3, DType::F32)?;
        let (y, log_det) = InvConv::new(form, 3, Init::Identity, &w)?.forward(&x)?;
        assert_eq!(
            y.flatten_all()?.to_vec1::<f32>()?,
            x.flatten_all()?.to_vec1::<f32>()?
        );
        assert_eq!(log_det.to_vec1::<f32>()?, [0.0, 0.0]);
    }
    Ok(())
}
