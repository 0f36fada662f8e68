use super::*;
use crate::nn::bijector::check;

fn layer(flow: &Flow, w: &Weights) -> Result<FlowLayer> {
    let flow = flow.clone();
    FlowLayer::new(&Config { flow, channels: 3 }, w)
}

fn images(n: usize, side: usize, dtype: DType) -> Result<Tensor> {
    let noise = &mut Noise::new(2, "x").at(0);
    Ok(noise.uniform((n, side, side, 3), dtype, &Device::Cpu)?)
}

/// A flow with every combination of A3, A5 and A6.
fn forms(flow: &Flow) -> Vec<Flow> {
    let splits = [
        ChannelSplit::ConditionOnOne,
        ChannelSplit::ConditionOnTwo,
        ChannelSplit::Alternate,
    ];
    let mut forms = Vec::new();
    for split in splits {
        for network in [CouplingNetwork::Official, CouplingNetwork::Plain] {
            for inv_conv in [InvConvForm::Plain, InvConvForm::Lu] {
                forms.push(Flow {
                    split,
                    network,
                    inv_conv,
                    ..flow.clone()
                });
            }
        }
    }
    forms
}

#[test]
fn parameters_are_as_many_as_they_should() -> Result<()> {
    for (width, count) in [
        (128, 689_312),
        (192, 1_426_592),
        (256, 2_426_016),
        (512, 9_045_152),
    ] {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        layer(&Flow::of(32, width, FlowStart::Identity), &w)?;
        assert_eq!(w.count(), count);
    }
    for flow in forms(&Flow::of(2, 16, FlowStart::Identity)) {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        layer(&flow, &w)?;
        // Channels that condition and that are transformed, in both steps together.
        let (c, t) = match flow.split {
            ChannelSplit::ConditionOnOne => (2, 4),
            ChannelSplit::ConditionOnTwo => (4, 2),
            ChannelSplit::Alternate => (3, 3),
        };
        // Kernels; then scales and shifts and the edge channel, or biases.
        let kernels = 9 * 16 * c + 2 * 16 * 16 + 9 * 16 * t;
        let rest = match flow.network {
            CouplingNetwork::Official => 2 * (9 * 16 + 2 * 16 + 2 * 16) + 9 * t + 2 * t,
            CouplingNetwork::Plain => 2 * (16 + 16) + t,
        };
        // Actnorms and 1x1 convolutions.
        assert_eq!(w.count(), kernels + rest + 2 * (6 + 9), "{flow:?}");
    }
    Ok(())
}

#[test]
fn is_a_bijection_of_constant_volume_change() -> Result<()> {
    for flow in forms(&Flow::of(3, 6, FlowStart::Data)) {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let layer = layer(&flow, &w)?;
        let x = images(3, 4, DType::F64)?;
        layer.start(&x)?;
        check::disturb(&w, 0.05)?;
        check::round_trip("flow layer", &layer, &x, 1e-10)?;
        check::log_det("flow layer", &layer, &x)?;
        // h w sum_k (sum_c 3 log_scale + ln|det W|), for every image.
        let mut expected = 0.0;
        for (name, var) in w.all() {
            if name.ends_with(".norm.log_scale") {
                expected += 3.0 * var.sum_all()?.to_scalar::<f64>()?;
            }
        }
        for step in &layer.steps {
            let matrix = step.mix().matrix()?.detach();
            expected += crate::nn::inv_conv::log_abs_det(&matrix)?.to_scalar::<f64>()?;
        }
        for claimed in layer.forward(&x)?.1.to_vec1::<f64>()? {
            assert!((claimed - 16.0 * expected).abs() < 1e-10, "{flow:?}");
        }
    }
    Ok(())
}

/// Before training the layer is the identity: bit for bit, or as a whole to rounding.
#[test]
fn starts_as_the_identity() -> Result<()> {
    for (start, limit) in [(FlowStart::Identity, 0.0), (FlowStart::Paired, 1e-5)] {
        for flow in forms(&Flow::of(4, 6, start)) {
            let w = Weights::new(0, DType::F32, &Device::Cpu);
            let layer = layer(&flow, &w)?;
            let x = images(3, 4, DType::F32)?;
            layer.start(&x)?;
            let (y, log_det) = layer.forward(&x)?;
            let moved = (y - &x)?.abs()?.max_all()?.to_scalar::<f32>()?;
            let change = log_det.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(
                moved <= limit && change <= limit,
                "{flow:?}: {moved} {change}"
            );
        }
    }
    Ok(())
}

#[test]
fn thirty_two_steps_are_inverted() -> Result<()> {
    for (dtype, limit) in [(DType::F64, 1e-10), (DType::F32, 1e-4)] {
        for flow in forms(&Flow::of(32, 16, FlowStart::Paired)) {
            let w = Weights::new(0, dtype, &Device::Cpu);
            let layer = layer(&flow, &w)?;
            let x = images(2, 8, dtype)?;
            layer.start(&x)?;
            check::disturb(&w, 0.01)?;
            check::round_trip("32 steps", &layer, &x, limit)?;
        }
    }
    Ok(())
}

/// What is read from a file is what was written, and not a fresh start.
#[test]
fn every_form_survives_its_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("flow");
    for flow in forms(&Flow::of(2, 4, FlowStart::Data)) {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        let layer = layer(&flow, &w)?;
        let x = images(2, 4, DType::F32)?;
        layer.start(&x)?;
        check::disturb(&w, 0.1)?;
        let config = Config { flow, channels: 3 };
        w.save(&path, &config)?;
        let (loaded, again) = FlowLayer::load(&path, DType::F32, &Device::Cpu)?;
        assert_eq!(again, config);
        let values = |flow: &FlowLayer| flow.forward(&x)?.0.flatten_all()?.to_vec1::<f32>();
        assert_eq!(values(&loaded)?, values(&layer)?);
    }
    Ok(())
}

#[test]
fn pairs_want_an_even_depth() {
    let w = Weights::new(0, DType::F32, &Device::Cpu);
    let error = layer(&Flow::of(3, 4, FlowStart::Paired), &w).err();
    assert!(error.is_some_and(|e| e.to_string().contains("wants an even flow.depth")));
}
