//! What a pickle can hold.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Result, bail, ensure};

use super::class::{Class, Slice, Storage};

/// A value on the pickle machine's stack; copies are cheap.
#[derive(Debug, Clone)]
pub enum Value {
    Mark,
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(Rc<[u8]>),
    Float,
    Text(Rc<str>),
    Bytes(Rc<[u8]>),
    /// What can hold others, or be filled later, lies in the heap.
    Held(usize),
    Class(Class),
    Storage(Rc<Storage>),
    Tensor(Rc<Slice>),
    /// Something beside tensors that nobody asks for.
    Other,
}

/// What a number of [`Value::Held`] stands for.
#[derive(Debug)]
pub enum Cell {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// Numpy's element type, such as `<f8`.
    Dtype(String),
    Array(Box<ArrayCell>),
}

/// An array of numpy. Its state comes after it was made.
#[derive(Debug, Default)]
pub struct ArrayCell {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub columns_first: bool,
    /// Bytes of numbers, or a list of objects.
    pub content: Option<Value>,
}

/// Bytes that a pickle may have copied; what it holds itself does not count.
const COPIES: usize = 1 << 28;
/// Sizes of one tensor or arguments of one call.
const FEW: usize = 64;

/// All values that hold others.
#[derive(Debug, Default)]
pub struct Heap {
    cells: Vec<Cell>,
    copied: usize,
    storages: BTreeMap<Rc<str>, Rc<Storage>>,
}

impl Heap {
    pub fn hold(&mut self, cell: Cell) -> Value {
        self.cells.push(cell);
        Value::Held(self.cells.len() - 1)
    }

    /// The first storage of each name.
    pub fn storages(&self) -> &BTreeMap<Rc<str>, Rc<Storage>> {
        &self.storages
    }

    pub fn store(&mut self, storage: Storage) -> Value {
        let storage = Rc::new(storage);
        let known = self.storages.entry(storage.key.clone());
        known.or_insert_with(|| storage.clone());
        Value::Storage(storage)
    }

    /// Counts bytes about to be copied: a program may ask for the same copy again and again.
    pub fn copied(&mut self, bytes: usize) -> Result<()> {
        self.copied = self.copied.saturating_add(bytes);
        ensure!(
            self.copied <= COPIES,
            "more than {COPIES} bytes of copies; hint: no state dict needs them"
        );
        Ok(())
    }

    /// The items of a short tuple.
    pub fn arguments(&self, value: &Value) -> Result<Vec<Value>> {
        match self.tuple(value) {
            Some(items) if items.len() <= FEW => Ok(items.to_vec()),
            Some(items) => bail!("{} arguments", items.len()),
            None => bail!("{} where a tuple should be", self.describe(value)),
        }
    }

    pub fn cell(&self, value: &Value) -> Option<&Cell> {
        match value {
            Value::Held(at) => self.cells.get(*at),
            _ => None,
        }
    }

    pub fn cell_mut(&mut self, value: &Value) -> Option<&mut Cell> {
        match value {
            Value::Held(at) => self.cells.get_mut(*at),
            _ => None,
        }
    }

    pub fn tuple(&self, value: &Value) -> Option<&[Value]> {
        match self.cell(value) {
            Some(Cell::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// The items of a tuple or a list.
    pub fn items(&self, value: &Value) -> Option<&[Value]> {
        match self.cell(value) {
            Some(Cell::Tuple(items) | Cell::List(items)) => Some(items),
            _ => None,
        }
    }

    pub fn dict(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match self.cell(value) {
            Some(Cell::Dict(pairs)) => Some(pairs),
            _ => None,
        }
    }

    /// A tuple or a list of sizes.
    pub fn sizes(&self, value: &Value) -> Result<Vec<usize>> {
        let Some(items) = self.items(value) else {
            bail!("{} where sizes should be", self.describe(value))
        };
        ensure!(items.len() <= FEW, "{} sizes", items.len());
        let size = |value: &Value| match value {
            Value::Int(n) => Ok(usize::try_from(*n)?),
            other => bail!("{} where a size should be", self.describe(other)),
        };
        items.iter().map(size).collect()
    }

    /// A value in words.
    pub fn describe(&self, value: &Value) -> String {
        match value {
            Value::Mark => "a mark".into(),
            Value::None => "None".into(),
            Value::Bool(_) | Value::Int(_) | Value::Long(_) | Value::Float => "a number".into(),
            Value::Text(_) => "a text".into(),
            Value::Bytes(_) => "bytes".into(),
            Value::Class(class) => format!("the class {class:?}"),
            Value::Storage(_) => "a storage".into(),
            Value::Tensor(_) => "a tensor".into(),
            Value::Other => "an object".into(),
            Value::Held(_) => match self.cell(value) {
                Some(Cell::Tuple(_)) => "a tuple".into(),
                Some(Cell::List(_)) => "a list".into(),
                Some(Cell::Dict(_)) => "a dict".into(),
                Some(Cell::Dtype(_)) => "an element type".into(),
                Some(Cell::Array(_)) => "an array".into(),
                None => "nothing".into(),
            },
        }
    }
}

impl Value {
    /// Bytes; Python 2 has no other text.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}
