//! What PyTorch wrote before 1.6, and what it writes on request since: a magic number, a protocol, facts about the
//! system, the object and the list of its storages, each a pickle; then a count and the numbers of each storage,
//! whatever the system, in little-endian order.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Seek, SeekFrom};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::cut;
use super::state::{State, find};
use crate::data::pickle::{Heap, Value, run};

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Whether a file that begins so is one of these: the magic number stands in its first pickle.
pub fn begins(start: &[u8]) -> bool {
    let start = &start[..start.len().min(32)];
    start.first() == Some(&0x80) && start.windows(MAGIC.len()).any(|part| part == MAGIC)
}

pub fn read(mut file: impl BufRead + Seek, wanted: &dyn Fn(&str) -> bool) -> Result<State> {
    let mut part = |name: &'static str| run(&mut file).context(name);
    match part("the magic number")?.0 {
        Value::Long(bytes) if *bytes == MAGIC => {}
        _ => bail!("it does not begin with PyTorch's magic number"),
    }
    match part("the protocol")?.0 {
        Value::Int(PROTOCOL) => {}
        Value::Int(other) => bail!(
            "it has protocol {other}, and {PROTOCOL} is read; hint: save it with a newer PyTorch"
        ),
        _ => bail!("it has no protocol"),
    }
    part("the facts about the system")?;
    let (root, heap) = part("the state dict")?;
    let keys = keys(part("the list of storages")?)?;
    let found = find(&root, &heap, wanted)?;
    let wanted: HashSet<&str> = found
        .slices
        .iter()
        .map(|(_, slice)| &*slice.storage.key)
        .collect();
    let storages = heap.storages();
    let mut contents: HashMap<String, Vec<u8>> = HashMap::new();
    let mut left = {
        let at = file.stream_position()?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(at))?;
        end - at
    };
    let mut taken = 0;
    for key in keys {
        let storage = storages.get(&*key);
        let storage = storage.with_context(|| format!("storage {key:?} belongs to no tensor"))?;
        let bytes = storage.bytes().context("a storage is too large")?;
        let cut_off = || format!("it ends inside of storage {key}; hint: copy it again");
        left = left.checked_sub(8).with_context(cut_off)?;
        let mut count = [0; 8];
        file.read_exact(&mut count).with_context(cut_off)?;
        let count = u64::from_le_bytes(count);
        ensure!(
            count == storage.count as u64,
            "storage {key} holds {count} numbers, and tensors say {}; hint: copy it again",
            storage.count
        );
        left = left.checked_sub(bytes as u64).with_context(cut_off)?;
        if wanted.contains(&*key) {
            taken = super::spend(taken, Some(bytes))?;
            let mut content = vec![0; bytes];
            file.read_exact(&mut content).with_context(cut_off)?;
            contents.insert(key.to_string(), content);
        } else {
            file.seek_relative(bytes as i64)?;
        }
    }
    let tensors = cut(&found.slices, |slice| {
        let bytes = contents.remove(&*slice.storage.key);
        bytes.with_context(|| format!("storage {} is not in the file", slice.storage.key))
    })?;
    Ok(State {
        tensors,
        place: found.place,
    })
}

fn keys((list, heap): (Value, Heap)) -> Result<Vec<Rc<str>>> {
    let keys = heap.items(&list).context("the list of storages is none")?;
    let key = |key: &Value| Ok(Rc::from(key.text().context("a storage without a name")?));
    keys.iter().map(key).collect()
}
