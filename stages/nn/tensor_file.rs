//! Named tensors on disk: safetensors, whole or not at all, equal contents in equal bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

/// The one metadata key: the header's map has no order, so more would not give equal bytes.
const KEY: &str = "repro";

/// Writes tensors and a text (JSON by convention) that explains them, by rename.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>, text: Option<&str>) -> Result<()> {
    let metadata = text.map(|text| HashMap::from([(KEY.to_owned(), text.to_owned())]));
    let contiguous: BTreeMap<_, _> = tensors
        .iter()
        .map(|(name, t)| Ok((name.as_str(), t.contiguous()?)))
        .collect::<candle_core::Result<_>>()?;
    let bytes = safetensors::serialize(contiguous.iter(), metadata)
        .with_context(|| format!("{}: cannot be serialised", path.display()))?;
    write_bytes(path, &bytes)
}

/// Writes a file that appears whole or not at all, also after a power failure.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("BUG: an output has no directory")?;
    let context = || format!("{}: cannot be written", path.display());
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(context)?;
    file.write_all(bytes).with_context(context)?;
    file.as_file().sync_all().with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(())
}

/// Reads all tensors, on the host in their stored dtypes, and the text.
pub fn read(path: &Path) -> Result<(BTreeMap<String, Tensor>, Option<String>)> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("{name}: cannot be read"))?;
    let broken = || format!("{name}: not a complete safetensors file; hint: was it truncated?");
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(broken)?;
    let text = header.metadata().as_ref().and_then(|m| m.get(KEY).cloned());
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
    Ok((tensors.with_context(broken)?.into_iter().collect(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("t.safetensors");
        let f = Tensor::new(&[[1f64, 2.0], [3.0, 4.0]], &Device::Cpu)?;
        let u = Tensor::new(&[7u8, 8], &Device::Cpu)?;
        // A transposed view is written by its values.
        let tensors = BTreeMap::from([("f".to_owned(), f.t()?), ("u".to_owned(), u)]);
        write(&path, &tensors, Some("{}"))?;
        let (read, text) = read(&path)?;
        assert_eq!(text.as_deref(), Some("{}"));
        assert_eq!(read["f"].to_vec2::<f64>()?, [[1.0, 3.0], [2.0, 4.0]]);
        assert_eq!(read["u"].to_vec1::<u8>()?, [7, 8]);
        Ok(())
    }

    #[test]
    fn a_truncated_file_is_named() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("t.safetensors");
        let tensors = BTreeMap::from([("f".to_owned(), Tensor::new(&[1f32; 64], &Device::Cpu)?)]);
        write(&path, &tensors, None)?;
        let bytes = std::fs::read(&path)?;
        for keep in [0, 4, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..keep])?;
            let error = read(&path).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(
                error.contains("t.safetensors: not a complete"),
                "{keep}: {error}"
            );
        }
        Ok(())
    }
}
