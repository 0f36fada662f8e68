use super::*;
use crate::nn::bijector::check;
use crate::nn::noise::Noise;

fn images(dims: (usize, usize, usize, usize), dtype: DType) -> Result<Tensor> {
    Ok(Noise::new(1, "x").at(0).normal(dims, dtype, &Device::Cpu)?)
}

/// A flow with the other coupling networks (A5) and 1x1 convolutions (A6) as well.
fn forms(flow: &Flow) -> Vec<Flow> {
    let plain = Flow {
        network: CouplingNetwork::Plain,
        ..flow.clone()
    };
    let lu = Flow {
        inv_conv: InvConvForm::Lu,
        ..flow.clone()
    };
    vec![flow.clone(), plain, lu]
}

/// For images of three channels.
fn sized(flow: Flow, side: usize, w: &Weights) -> Result<Glow> {
    let image = [side, side, 3];
    Glow::new(&Config { flow, image }, w)
}

#[test]
fn a_small_glow_is_a_bijector() -> Result<()> {
    for coupling in [CouplingKind::Additive, CouplingKind::Affine] {
        for flow in forms(&Flow::official(2, 2, 6, coupling)) {
            let w = Weights::new(0, DType::F64, &Device::Cpu);
            let glow = sized(flow, 4, &w)?;
            let x = images((3, 4, 4, 3), DType::F64)?;
            glow.start(&x)?;
            check::disturb(&w, 0.05)?;
            check::round_trip("glow", &glow, &x, 1e-10)?;
            check::log_det("glow", &glow, &x)?;
        }
    }
    Ok(())
}

#[test]
fn a_deep_glow_is_inverted_in_f32() -> Result<()> {
    let w = Weights::new(0, DType::F32, &Device::Cpu);
    let flow = Flow::official(1, 32, 16, CouplingKind::Additive);
    let glow = sized(flow, 8, &w)?;
    let x = images((4, 8, 8, 3), DType::F32)?;
    glow.start(&x)?;
    check::disturb(&w, 0.01)?;
    check::round_trip("deep glow", &glow, &x, 1e-4)
}

/// The published model sizes.
#[test]
fn parameters_are_as_many_as_in_the_official_code() -> Result<()> {
    for (coupling, count) in [
        (CouplingKind::Additive, 38_395_668),
        (CouplingKind::Affine, 44_603_604),
    ] {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        sized(Flow::official(3, 32, 512, coupling), 32, &w)?;
        assert_eq!(w.count(), count);
    }
    // For 64x64 the reference has them to a tenth of a million.
    for (coupling, millions) in [(CouplingKind::Additive, 61.7), (CouplingKind::Affine, 75.0)] {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        sized(Flow::official(4, 32, 512, coupling), 64, &w)?;
        assert!((w.count() as f64 / 1e6 - millions).abs() < 0.05);
    }
    Ok(())
}

/// At temperature 0 there is one image; what is sampled is what has that noise.
#[test]
fn samples_are_the_inverse_of_scaled_noise() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let flow = Flow::official(2, 1, 4, CouplingKind::Additive);
    let glow = sized(flow, 4, &w)?;
    check::disturb(&w, 0.05)?;
    let draw = |t| -> Result<Tensor> {
        let x = glow.draw(2, t, &mut Noise::new(0, "s").at(0))?;
        Ok(glow.forward(&x)?.0)
    };
    let half = (draw(1.0)? * 0.5)?;
    assert!((half - draw(0.5)?)?.abs()?.sum_all()?.to_scalar::<f64>()? < 1e-10);
    assert!(draw(0.0)?.abs()?.sum_all()?.to_scalar::<f64>()? < 1e-10);
    Ok(())
}

#[test]
fn pixels_survive_the_way_in_and_out() -> Result<()> {
    let all: Vec<u8> = (0..=255).collect();
    let images = Tensor::from_vec(all.clone(), (1, 16, 16, 1), &Device::Cpu)?;
    let x = preprocess(&images.to_dtype(DType::F32)?, &mut Noise::new(0, "u").at(0))?;
    assert_eq!(
        pixels::to_bytes(&postprocess(&x)?)?
            .flatten_all()?
            .to_vec1::<u8>()?,
        all
    );
    Ok(())
}
