//! A VAE that learned x / 255 without noise, and the flow layer on it, which learns with noise: the
//! alternative of A13.

use anyhow::Result;
use contract::history;
use serde_json::json;

use super::phase2::{Setting, params};
use crate::data::images::Images;
use crate::flow_layer::FlowLayer;
use crate::models::vae_with_flow::VaeWithFlow;
use crate::sample::Sample;
use crate::vae::Vae;

#[test]
fn phase_2_has_noise_where_phase_1_had_none() -> Result<()> {
    let setting = Setting::of(false)?;
    let first = history::load(&setting.phase1.output::<Vae>("history"))?;
    assert!(
        !first[0].train.contains_key("bits/dim"),
        "no bound, so no bits"
    );
    let bench = setting.phase2();
    bench.run::<FlowLayer>(&params("identity"))?;
    let epochs = history::load(&bench.output::<FlowLayer>("history"))?;
    assert!(epochs[1].valid["bits/dim"] < epochs[0].valid["bits/dim"]);
    // The bound holds for either model, since images are dequantised for it.
    let flow = bench.output::<FlowLayer>("flow");
    let value = |m: serde_json::Value| m["value"].as_f64().unwrap();
    let (alone, with) = (
        value(setting.bits(None, 1)?),
        value(setting.bits(Some(&flow), 1)?),
    );
    assert!(with < alone, "{with} {alone}");

    let (vae, prior) = (setting.vae(), setting.prior());
    for flow in [None, Some(&flow)] {
        let mut inputs = vec![("vae", vae.as_path()), ("prior", &prior)];
        inputs.extend(flow.map(|f| ("flow", f.as_path())));
        let drawn = contract::testing::Bench::new::<Sample<VaeWithFlow>>(&inputs);
        let params =
            json!({ "seed": 0, "n": 3, "batch": 3, "temperature": 1.0, "pixels": "bytes" });
        drawn.run::<Sample<VaeWithFlow>>(&params)?;
        assert_eq!(
            Images::load(&drawn.output::<Sample<VaeWithFlow>>("images"))?.n,
            3
        );
    }
    Ok(())
}
