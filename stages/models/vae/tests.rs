use super::*;

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
    let covariance = Covariance::Isotropic;
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
        covariance: Covariance::Diagonal,
        ..c
    };
    assert_eq!(counts(&diagonal)?[2], 5_191_334);
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

/// Of maps of one pixel the mean is all there is; of larger ones it is not.
#[test]
fn heads_agree_on_maps_of_one_pixel() -> Result<()> {
    for (side, equal) in [(4, true), (8, false)] {
        let pooled = resnet(side, 4, 1, 3);
        let mut flat = pooled.clone();
        flatten(&mut flat);
        let y = crate::nn::noise::Noise::new(0, "y").at(0).uniform(
            (2, side, side, 3),
            DType::F64,
            &CPU,
        )?;
        let mut means = Vec::new();
        for config in [pooled, flat] {
            let vae = Vae::new(&config, &Weights::new(1, DType::F64, &CPU))?;
            means.push(vae.encode(&y)?.0.to_vec2::<f64>()?);
        }
        assert_eq!(means[0] == means[1], equal, "side {side}");
    }
    Ok(())
}
