//! The readers of files from outside, for tests that ask whether any bytes make them panic.

use std::path::Path;

use anyhow::Result;

use super::sets;
use crate::models::inception_weights;

/// Weights of a feature network, in any of their forms.
pub fn weights(path: &Path) -> Result<()> {
    inception_weights::read(path).map(drop)
}

/// Images or statistics that `repro fid` compares.
pub fn set(path: &Path) -> Result<()> {
    sets::open(path, &[]).map(drop)
}
