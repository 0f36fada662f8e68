use super::*;
use crate::models::gaussian;
use crate::nn::noise::Noise;

const CPU: Device = Device::Cpu;

fn resnet(side: usize, width: usize, blocks: usize, latent: usize) -> Config {
    let scales = if side == 64 { 4 } else { 3 };
    let network = Network::Resnet {
        width,
        scales,
        blocks,
        head: Head::AveragePool,
        dense: 512,
        max_width: 1024,
        norm_decay: 0.999,
    };
    let covariance = Covariance::Isotropic {};
    Config {
        shape: [side, side, 3],
        latent,
        network,
        covariance,
        range: Range::Unit,
        dequantise: true,
    }
}

fn flatten(config: &mut Config) {
    if let Network::Resnet { head, .. } = &mut config.network {
        *head = Head::Flatten;
    }
}

fn counts(config: &Config) -> Result<[usize; 3]> {
    let w = Weights::new(0, DType::F32, &CPU);
    Vae::new(config, &w)?;
    Ok([
        w.pp("encoder").part().count(),
        w.pp("decoder").part().count(),
        w.count(),
    ])
}

/// REFERENCE 2.2, 2.3.
#[test]
fn paper_sizes_have_the_known_numbers_of_parameters() -> Result<()> {
    let c = resnet(32, 16, 1, 64);
    assert_eq!(counts(&c)?, [564_400, 1_048_115, 1_612_516]);
    let c = resnet(32, 32, 1, 64);
    assert_eq!(counts(&c)?, [1_135_840, 4_054_627, 5_190_468]);
    let diagonal = Config {
        covariance: Covariance::DIAGONAL,
        ..c
    };
    assert_eq!(counts(&diagonal)?[2], 5_191_334);
    let per_channel = Config {
        covariance: Covariance::PerChannel {},
        ..diagonal
    };
    assert_eq!(counts(&per_channel)?[2], 5_190_468 + 2);
    assert_eq!(counts(&resnet(32, 32, 2, 64))?[2], 8_126_084);
    assert_eq!(counts(&resnet(32, 32, 1, 128))?[2], 5_387_204);
    assert_eq!(counts(&resnet(32, 64, 1, 64))?[2], 19_230_724);
    assert_eq!(counts(&resnet(64, 32, 1, 64))?[2], 19_321_668);
    assert_eq!(
        counts(&resnet(64, 32, 1, 128))?,
        [3_399_008, 16_250_467, 19_649_476]
    );

    // Both dense layers that read the last maps, of 8x8 and 128 channels, see all their values.
    let mut flat = resnet(32, 32, 1, 64);
    flatten(&mut flat);
    assert_eq!(counts(&flat)?[0], 1_135_840 + 2 * 512 * 128 * 63);

    let network = Network::Infogan {
        width: 64,
        dense: 1024,
        norm_decay: 0.999,
    };
    let fashion = Config {
        shape: [28, 28, 1],
        network: network.clone(),
        ..resnet(32, 1, 1, 64)
    };
    assert_eq!(
        counts(&fashion)?,
        [6_689_344, 6_642_241, 6_689_344 + 6_642_241 + 1]
    );
    let cifar = Config {
        network,
        ..resnet(32, 1, 1, 64)
    };
    assert_eq!(
        counts(&cifar)?,
        [8_657_472, 8_616_131, 8_657_472 + 8_616_131 + 1]
    );
    Ok(())
}

/// A12: deviations of channels enter the density channel by channel, as decoded ones do.
#[test]
fn channels_have_deviations_of_their_own() -> Result<()> {
    let config = Config {
        covariance: Covariance::PerChannel {},
        ..resnet(4, 4, 1, 3)
    };
    let w = Weights::new(1, DType::F64, &CPU);
    let vae = Vae::new(&config, &w)?;
    w.all()["log_gamma"].set(&Tensor::new(&[0.5, -1.0, 2.0], &CPU)?)?;
    let draw = |n: usize, d: &[usize]| Noise::new(n as u64, "x").at(0).normal(d, DType::F64, &CPU);
    let (z, y) = (draw(0, &[2, 3])?, draw(1, &[2, 4, 4, 3])?);
    let (mean, log_sigma) = vae.decode_in(&z, Mode::Eval)?;
    let density = gaussian::log_density(&y, &mean, &log_sigma)?.to_vec1::<f64>()?;
    let (mean, wide) = vae.decode(&z)?;
    assert_eq!(wide.dims(), [2, 4, 4, 3]);
    let rows = |t: &Tensor| t.flatten_all()?.to_vec1::<f64>();
    let (y, mean) = (rows(&y)?, rows(&mean)?);
    for (image, density) in density.iter().enumerate() {
        let terms = (image * 48..(image + 1) * 48).map(|i| {
            let s: f64 = [0.5, -1.0, 2.0][i % 3];
            -0.5 * ((y[i] - mean[i]) / s.exp()).powi(2) - s - gaussian::HALF_LN_TAU
        });
        assert!((density - terms.sum::<f64>()).abs() < 1e-10);
    }
    Ok(())
}

#[test]
fn bounds_in_the_wrong_order_are_refused() {
    let covariance = Covariance::Diagonal {
        form: covariance::Form::Log,
        start: covariance::Start::Drawn,
        log_min: 2.0,
        log_max: -7.0,
    };
    let config = Config {
        covariance,
        ..resnet(4, 4, 1, 3)
    };
    let error = Vae::new(&config, &Weights::new(0, DType::F64, &CPU)).err();
    let text = "covariance.log_min = 2 is not below covariance.log_max = -7";
    assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(text));
}

/// Of maps of one pixel the mean is all there is; of larger ones it is not.
#[test]
fn heads_agree_on_maps_of_one_pixel() -> Result<()> {
    for (side, equal) in [(4, true), (8, false)] {
        let pooled = resnet(side, 4, 1, 3);
        let mut flat = pooled.clone();
        flatten(&mut flat);
        let y = Noise::new(0, "y")
            .at(0)
            .uniform((2, side, side, 3), DType::F64, &CPU)?;
        let mut means = Vec::new();
        for config in [pooled, flat] {
            let vae = Vae::new(&config, &Weights::new(1, DType::F64, &CPU))?;
            means.push(vae.encode(&y)?.0.to_vec2::<f64>()?);
        }
        assert_eq!(means[0] == means[1], equal, "side {side}");
    }
    Ok(())
}
