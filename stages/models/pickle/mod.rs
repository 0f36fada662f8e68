//! PyTorch's `.pth` files: a zip archive with a pickle of a state dict and one file per tensor.
//!
//! Unpickling runs whatever program the file holds. This reader knows only the instructions and
//! the four classes that a state dict of plain tensors needs, calls nothing, and stops at
//! anything else.

mod machine;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use zip::ZipArchive;

use machine::run;
use value::{Slice, Value};

/// All floating-point tensors of a state dict, on the host, by name. Integers (PyTorch's counters
/// of batches) are left out.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut zip = ZipArchive::new(file).with_context(|| {
        format!("{name} is not a whole .pth file (a zip archive, as PyTorch writes since 1.6); hint: copy it again, or save it with a newer PyTorch")
    })?;
    let mut names = zip.file_names().flatten();
    let pickle = names
        .find(|n| n.ends_with("/data.pkl"))
        .map(|n| n.to_string());
    let pickle = pickle.with_context(|| format!("{name} has no data.pkl"))?;
    drop(names);
    let root = pickle.trim_end_matches("data.pkl").to_string();
    let mut member = |inner: &str| -> Result<Vec<u8>> {
        let mut bytes = vec![];
        let mut entry = zip
            .by_name(inner)
            .with_context(|| format!("{name}: {inner}"))?;
        entry
            .read_to_end(&mut bytes)
            .with_context(|| format!("{name}: {inner}"))?;
        Ok(bytes)
    };
    let program = member(&pickle)?;
    let slices = tensors(run(&program).with_context(|| format!("{name}: {pickle}"))?)
        .with_context(|| name.to_string())?;
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    let mut out = BTreeMap::new();
    for (tensor, slice) in slices {
        if !slice.dtype.is_float() {
            continue;
        }
        if !storages.contains_key(&slice.storage) {
            let bytes = member(&format!("{root}data/{}", slice.storage))?;
            storages.insert(slice.storage.clone(), bytes);
        }
        let value = slice.cut(&storages[&slice.storage]);
        out.insert(
            tensor.clone(),
            value.with_context(|| format!("{name}: tensor {tensor}"))?,
        );
    }
    Ok(out)
}

impl Slice {
    fn cut(&self, storage: &[u8]) -> Result<Tensor> {
        let count: usize = self.shape.iter().product();
        let mut contiguous = 1;
        for (size, stride) in self.shape.iter().zip(&self.stride).rev() {
            ensure!(*size == 1 || *stride == contiguous, "it is not contiguous");
            contiguous *= size;
        }
        let size = self.dtype.size_in_bytes();
        let bytes = self
            .offset
            .checked_mul(size)
            .zip(count.checked_mul(size))
            .and_then(|(from, len)| storage.get(from..from.checked_add(len)?))
            .context("its storage is too short")?;
        Ok(Tensor::from_raw_buffer(
            bytes,
            self.dtype,
            &self.shape,
            &Device::Cpu,
        )?)
    }
}

/// Name and place of every tensor of the unpickled dict.
fn tensors(value: Value) -> Result<Vec<(String, Slice)>> {
    let Value::Dict(items) = value else {
        bail!("it does not hold a state dict")
    };
    let mut out = vec![];
    for item in items {
        match item {
            (Value::Text(name), Value::Tensor(slice)) => out.push((name, slice)),
            (key, _) => bail!("its entry {key:?} is not a named tensor"),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use std::io::Write;

    /// Written by `tests/golden/pickle_state.py`: a state dict of `a.weight` [[0, 1, 2], [3, 4, 5]],
    /// `a.half` [0.5], `a.num_batches_tracked` 7 and `b.part`, the last two of a storage of four.
    const STATE: &[u8] = include_bytes!("../../../tests/golden/state.pth");

    fn zip_of(pickle: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = zip::ZipWriter::new(file.as_file_mut());
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("archive/data.pkl", options).unwrap();
        zip.write_all(pickle).unwrap();
        zip.finish().unwrap();
        file
    }

    #[test]
    fn it_reads_what_pytorch_wrote() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("state.pth");
        std::fs::write(&path, STATE)?;
        let state = read(&path)?;
        let names: Vec<&str> = state.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.half", "a.weight", "b.part"]);
        let weight = state["a.weight"].to_vec2::<f32>()?;
        assert_eq!(weight, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        assert_eq!(
            state["a.half"].to_dtype(DType::F32)?.to_vec1::<f32>()?,
            [0.5]
        );
        assert_eq!(state["b.part"].to_vec1::<f32>()?, [2.0, 3.0]);

        std::fs::write(&path, &STATE[..STATE.len() - 30])?;
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("state.pth is not a whole .pth file"),
            "{error}"
        );
        Ok(())
    }

    #[test]
    fn a_program_is_not_run() {
        // os.system("true"): what an unpickler would carry out.
        let file = zip_of(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.");
        let error = format!("{:#}", read(file.path()).unwrap_err());
        let text = "data.pkl: pickle opcode 0x63 at byte 2: os.system is not a class that tensors need; hint:";
        assert!(error.contains(text), "{error}");
        // INST, which we do not know at all.
        let file = zip_of(b"\x80\x02(ios\nsystem\n.");
        let error = format!("{:#}", read(file.path()).unwrap_err());
        assert!(
            error.contains("pickle opcode 0x69 at byte 3: it is not needed"),
            "{error}"
        );
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        for program in [
            &b""[..],
            b"\x80",
            b"\x85.",
            b"K\x01.",
            b"X\xff\xff\xff\xff",
            b"u.",
            b"h\x05.",
        ] {
            assert!(read(zip_of(program).path()).is_err(), "{program:?}");
        }
    }
}
