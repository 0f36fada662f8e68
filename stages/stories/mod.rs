//! Stages run one after another, as a pipeline would.

mod every_model;
pub mod phase1;
pub mod phase2;
mod without_noise;

use serde_json::{Value, json};

/// A table `train` without early stopping, of which the last weights are kept.
pub fn training(epochs: u64, batch: usize, last_batch: &str, optim: Value) -> Value {
    json!({
        "epochs": epochs, "batch": batch, "last_batch": last_batch, "patience": 0,
        "keep": { "kind": "last" }, "optim": optim,
    })
}

/// A decoded covariance, as in pipeline.toml.
pub fn diagonal() -> Value {
    json!({ "kind": "diagonal", "form": "log", "start": "zero", "log_min": -7.0, "log_max": 2.0 })
}

/// A flow on latents, with the choices of pipeline.toml.
pub fn latent_flow(layers: usize, width: usize) -> Value {
    json!({
        "layers": layers, "width": width, "split": "halves", "permutation": "random",
        "coupling": "affine", "max_log_scale": 2.0,
    })
}

/// The same, to be trained with a VAE.
pub fn flow_prior(layers: usize, width: usize) -> Value {
    let mut prior = latent_flow(layers, width);
    prior["kind"] = json!("flow");
    prior
}
