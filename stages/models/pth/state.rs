//! The state dict somewhere in what a file holds.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

use crate::data::pickle::{Heap, Slice, Value};

/// The tensors that were wanted.
#[derive(Debug)]
pub struct State {
    pub tensors: BTreeMap<String, Tensor>,
    /// Where in a checkpoint they lay, such as `model`; nothing if the file is a state dict itself.
    pub place: String,
}

/// Where the wanted tensors are.
#[derive(Debug)]
pub struct Found {
    pub slices: Vec<(String, Rc<Slice>)>,
    pub place: String,
}

/// How deep a checkpoint may keep its state dict.
const DEPTH: usize = 6;
/// Letters of a tensor's name.
const LONGEST: usize = 1000;

/// The one dict with wanted tensors: the file's, or one that a checkpoint keeps beside epochs, losses and others. Where
/// none is wanted it is the largest, so that an error can say what is missing.
pub fn find(root: &Value, heap: &Heap, wanted: &dyn Fn(&str) -> bool) -> Result<Found> {
    let mut dicts = dicts(root, heap);
    if dicts.is_empty() {
        bail!(
            "it holds {} without tensors and no state dict; hint: wanted is torch.save(net.state_dict(), file)",
            heap.describe(root)
        );
    }
    let count =
        |slices: &[(String, Rc<Slice>)]| slices.iter().filter(|(name, _)| wanted(name)).count();
    let fitting: Vec<&str> = dicts
        .iter()
        .filter(|found| count(&found.slices) > 0)
        .map(|found| &*found.place)
        .collect();
    ensure!(
        fitting.len() < 2,
        "it holds {} state dicts, {}; hint: save the one you mean alone",
        fitting.len(),
        fitting
            .iter()
            .map(|place| match place.is_empty() {
                true => "its own".to_string(),
                false => format!("`{place}`"),
            })
            .collect::<Vec<_>>()
            .join(" and ")
    );
    let best = (0..dicts.len()).max_by_key(|&i| {
        let slices = &dicts[i].slices;
        (count(slices), slices.len(), usize::MAX - i)
    });
    let mut found = dicts.swap_remove(best.unwrap_or_default());
    found
        .slices
        .retain(|(name, slice)| slice.element.float.is_some() && wanted(name));
    Ok(found)
}

/// Every dict that holds tensors by name, the outermost first.
fn dicts(root: &Value, heap: &Heap) -> Vec<Found> {
    let mut all = vec![];
    let mut seen = HashSet::new();
    let mut open = VecDeque::new();
    let mut look = |open: &mut VecDeque<_>, place: Rc<str>, depth: usize, value: &Value| {
        if let Value::Held(at) = value
            && depth <= DEPTH
            && seen.insert(*at)
        {
            open.push_back((place, depth, value.clone()));
        }
    };
    look(&mut open, "".into(), 0, root);
    while let Some((place, depth, value)) = open.pop_front() {
        for item in heap.items(&value).unwrap_or_default() {
            look(&mut open, place.clone(), depth + 1, item);
        }
        let mut slices = vec![];
        for (key, value) in heap.dict(&value).unwrap_or_default() {
            let name = key.text().filter(|name| name.len() <= LONGEST);
            match (name, value) {
                (Some(name), Value::Tensor(slice)) => slices.push((name.into(), slice.clone())),
                (_, Value::Held(_)) => {
                    let name: String = name.unwrap_or("?").chars().take(40).collect();
                    let below = match place.is_empty() {
                        true => name,
                        false => format!("{place}.{name}"),
                    };
                    look(&mut open, below.into(), depth + 1, value);
                }
                _ => {}
            }
        }
        if !slices.is_empty() {
            let place = place.to_string();
            all.push(Found { slices, place });
        }
    }
    all
}
