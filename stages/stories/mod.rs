//! Stages run one after another, as a pipeline would.

mod phase1;
mod phase2;
