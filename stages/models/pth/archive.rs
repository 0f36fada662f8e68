//! The zip archives that PyTorch writes since 1.6.

use std::io::{BufReader, Read, Seek};

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

use super::cut;
use super::state::{State, find};
use crate::data::pickle::run;

pub fn read(file: impl Read + Seek, wanted: &dyn Fn(&str) -> bool) -> Result<State> {
    let mut zip = ZipArchive::new(file).context(
        "it is not a whole .pth file, whose list of parts stands at its end; hint: copy it again",
    )?;
    let names: Vec<String> = zip.file_names().flatten().map(|n| n.to_string()).collect();
    let ends = |end: &str| {
        names
            .iter()
            .find(|name| name.rsplit('/').next() == Some(end))
    };
    ensure!(
        ends("constants.pkl").is_none(),
        "it is a TorchScript archive, which holds a program; hint: save torch.jit.load(file).state_dict() instead"
    );
    let Some(pickle) = ends("data.pkl") else {
        match names.first().is_some_and(|name| name.ends_with(".npy")) {
            true => {
                bail!("it is a .npz of numpy; hint: wanted is torch.save(net.state_dict(), file)")
            }
            false => bail!(
                "it is a zip archive without data.pkl; hint: wanted is torch.save(net.state_dict(), file)"
            ),
        }
    };
    let root = pickle.trim_end_matches("data.pkl");
    let (root_value, heap) = {
        let program = zip.by_name(pickle).with_context(|| pickle.clone())?;
        run(&mut BufReader::new(program)).with_context(|| pickle.clone())?
    };
    let order = format!("{root}byteorder");
    let big = names.contains(&order) && {
        let mut text = String::new();
        zip.by_name(&order)?.take(8).read_to_string(&mut text)?;
        text.trim() == "big"
    };
    let found = find(&root_value, &heap, wanted)?;
    let tensors = cut(&found.slices, |slice| {
        let inner = format!("{root}data/{}", slice.storage.key);
        let length = slice.storage.bytes().context("its storage is too large")?;
        let mut bytes = vec![];
        zip.by_name(&inner)
            .map_err(std::io::Error::other)
            .and_then(|entry| entry.take(length as u64).read_to_end(&mut bytes))
            .with_context(|| inner.clone())?;
        ensure!(
            bytes.len() == length,
            "{inner} ends after {} of {length} bytes; hint: copy it again",
            bytes.len()
        );
        if big {
            let numbers = bytes.chunks_exact_mut(slice.storage.element.size);
            numbers.for_each(|number| number.reverse());
        }
        Ok(bytes)
    })?;
    Ok(State {
        tensors,
        place: found.place,
    })
}
