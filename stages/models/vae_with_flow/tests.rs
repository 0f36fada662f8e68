use super::super::flow_layer::{Flow, FlowStart};
use super::super::vae::{Config, Covariance, Network, Range};
use super::super::{flow_layer, prior, vae};
use super::*;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;

const DIM: usize = 3;

/// A VAE in f64 whose decoder does not look at z, so that `p(y)` is known: one Gaussian for each
/// channel, of mean 1/2 and deviation e^-1. All that its encoder says is a loss: the gap of the
/// bound is the divergence of q from p(z).
fn blind(range: Range, dequantise: bool) -> Result<VaeWithFlow> {
    let w = Weights::new(3, DType::F64, &Device::Cpu);
    let config = Config {
        shape: [4, 4, 1],
        latent: DIM,
        network: Network::Infogan {
            width: 2,
            dense: 4,
            norm_decay: 0.999,
        },
        covariance: Covariance::DIAGONAL,
        range,
        dequantise,
    };
    let vae = vae::Vae::new(&config, &w)?;
    let all = w.all();
    let output = &all["decoder.deconv1.weight"];
    output.set(&output.zeros_like()?)?;
    let bias = Tensor::new(&[0.0, -1.0], &Device::Cpu)?;
    all["decoder.deconv1.bias"].set(&bias)?;
    // Far enough from p(z) that the bounds differ, and wide enough that weights stay bounded.
    let head = &all["encoder.dense1.bias"];
    head.set(&Tensor::new(
        &[0.8, -0.9, 0.4, 1.0, 1.1, 1.2],
        &Device::Cpu,
    )?)?;
    let prior = Prior::new(&prior::Config::Normal { dim: DIM }, &w)?;
    Ok(VaeWithFlow {
        vae,
        prior,
        flow: None,
    })
}

/// The bounds of an evidence that is known: at one draw the gap is the KL divergence, by either
/// formula; it shrinks as draws grow, towards zero, and no bound lies above the evidence.
#[test]
fn more_draws_come_closer_to_a_known_evidence() -> Result<()> {
    let model = blind(Range::Unit, true)?;
    let (images, rounds) = (8, 60);
    let mut pixels = Noise::new(0, "pixels").at(0);
    let x = (pixels.uniform((images, 4, 4, 1), DType::F64, &Device::Cpu)? * 255.0)?.round()?;
    let nats = |bits: &Tensor| -> Result<Vec<f64>> {
        Ok(((bits - 8.0)? * (16.0 * std::f64::consts::LN_2))?.to_vec1()?)
    };
    // Gaps between bound and evidence, in nats: mean and standard error.
    let gap = |bound: &dyn Fn(&mut Draws) -> Result<Tensor>| -> Result<(f64, f64)> {
        let mut gaps = Vec::new();
        for round in 0..rounds {
            let noise = Noise::new(1, "bound").at(round);
            let y = model.vae.prepare(&x, &mut noise.clone())?;
            let mean = y.zeros_like()?.affine(1.0, 0.5)?;
            let evidence = gaussian::log_density(&y, &mean, &mean.affine(0.0, -1.0)?)?;
            let bound = nats(&bound(&mut noise.clone())?)?;
            gaps.extend(
                bound
                    .iter()
                    .zip(evidence.to_vec1::<f64>()?)
                    .map(|(b, e)| b + e),
            );
        }
        let (mean, error) = crate::metrics::bits::mean_and_error(&gaps);
        Ok((mean, error.unwrap_or_default()))
    };
    let y = model.vae.prepare(&x, &mut Noise::new(1, "bound").at(0))?;
    let (mean, log_std) = model.vae.encode(&y)?;
    // The encoder is nearly constant here, so that one draw of the noise stands for all.
    let divergence = gaussian::divergence(&mean, &log_std)?
        .mean_all()?
        .to_scalar::<f64>()?;
    let (one, error) = gap(&|noise| model.bound(&x, 1, noise))?;
    assert!(
        (one - divergence).abs() < 5.0 * error,
        "{one} {divergence} {error}"
    );
    let (again, error) = gap(&|noise| {
        let y = model.vae.prepare(&x, noise)?;
        let e = noise.normal((images, DIM), DType::F64, &Device::Cpu);
        model.importance_weighted(&y, std::iter::once(e))
    })?;
    assert!(
        (again - divergence).abs() < 5.0 * error,
        "{again} {divergence} {error}"
    );
    let mut last = one;
    for draws in [2, 8, 32] {
        let (more, error) = gap(&|noise| model.bound(&x, draws, noise))?;
        assert!(
            more < last && more > -4.0 * error,
            "{draws} draws: {more}, before {last}"
        );
        last = more;
    }
    assert!(last < 0.2 * one, "{last} of {one}");
    Ok(())
}

/// That there is a flow layer is what counts; images of one channel do not go through it.
fn with_a_flow(model: VaeWithFlow) -> Result<VaeWithFlow> {
    let config = flow_layer::Config {
        flow: Flow::of(1, 2, FlowStart::Identity),
        channels: 2,
    };
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let flow = Some(FlowLayer::new(&config, &w)?);
    Ok(VaeWithFlow { flow, ..model })
}

/// Every byte comes back from where a model sees it, in either range, with and without noise.
#[test]
fn bytes_come_back() -> Result<()> {
    let x = Tensor::arange(0f64, 256.0, &Device::Cpu)?.reshape((16, 4, 4, 1))?;
    for range in [Range::Unit, Range::Centred] {
        for dequantise in [true, false] {
            let model = blind(range, dequantise)?;
            let y = model.vae.prepare(&x, &mut Noise::new(0, "y").at(0))?;
            let low = y.min_all()?.to_scalar::<f64>()?;
            let expected = if range == Range::Unit { 0.0 } else { -0.5 };
            assert!((low - expected).abs() < 1.0 / 256.0, "{low}");
            let back = model.quantise(&y)?.flatten_all()?.to_vec1::<u8>()?;
            assert!(back.iter().copied().eq(0..=255), "{range:?} {back:?}");
            // The flow layer always learns with noise, so its images come back from there.
            let model = with_a_flow(model)?;
            let y = model.vae.dequantise(&x, &mut Noise::new(0, "y").at(0))?;
            let back = model.quantise(&y)?.flatten_all()?.to_vec1::<u8>()?;
            assert!(back.iter().copied().eq(0..=255), "{range:?} {back:?}");
        }
    }
    Ok(())
}
