//! Models against numbers that others have computed: `tests/golden/*.py` with PyTorch, and on real
//! CIFAR-10.

mod cifar;
mod flow_parity;
mod golden;
mod parity;
mod pixel_parity;
mod residual_flow_parity;
pub mod stream;
mod vae_with_flow;
mod vae_with_flow_parity;
