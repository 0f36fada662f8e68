//! What a program leaves beside its outputs.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::base::read;

/// A file's content, if it is there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match read::bytes(path, read::TOLD) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}
