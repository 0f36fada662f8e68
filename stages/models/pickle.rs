//! PyTorch's `.pth` files: a zip archive with a pickle of a state dict and one file per tensor.
//!
//! Unpickling runs whatever program the file holds. This reader knows only the instructions and
//! the four classes that a state dict of plain tensors needs, calls nothing, and stops at
//! anything else.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use zip::ZipArchive;

/// A value on the pickle machine's stack.
#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Bool,
    Int(i64),
    Text(String),
    Tuple(Vec<Value>),
    List,
    Dict(Vec<(Value, Value)>),
    /// A class we know, by name.
    Class(Class),
    /// Storage key, dtype.
    Storage(String, DType),
    Tensor(Slice),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Class {
    OrderedDict,
    RebuildTensor,
    Storage(DType),
}

/// A tensor as a state dict describes it.
#[derive(Debug, Clone)]
struct Slice {
    storage: String,
    dtype: DType,
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

/// All floating-point tensors of a state dict, on the host, by name. Integers (PyTorch's counters
/// of batches) are left out.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut zip = ZipArchive::new(file).with_context(|| {
        format!("{name} is not a whole .pth file (a zip archive, as PyTorch writes since 1.6)")
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

/// Where the program is, and what it has made.
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

fn run(program: &[u8]) -> Result<Value> {
    let mut machine = Machine {
        rest: program,
        stack: vec![],
        memo: HashMap::new(),
    };
    loop {
        let at = program.len() - machine.rest.len();
        let opcode = machine.byte()?;
        match machine.step(opcode) {
            Ok(false) => {}
            Ok(true) => return machine.pop(),
            Err(error) => {
                return Err(error.context(format!("pickle opcode {opcode:#04x} at byte {at}")));
            }
        }
    }
}

impl Machine<'_> {
    /// Carries out one instruction; true once the program ends.
    fn step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            // PROTO, FRAME
            0x80 => {
                self.byte()?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'.' => return Ok(true),
            b'(' => self.stack.push(Value::Mark),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let bytes = self.array::<4>()?;
                self.stack
                    .push(Value::Int(i64::from(i32::from_le_bytes(bytes))));
            }
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(i64::from(value)));
            }
            b'M' => {
                let bytes = self.array::<2>()?;
                self.stack
                    .push(Value::Int(i64::from(u16::from_le_bytes(bytes))));
            }
            0x8a => {
                let n = usize::from(self.byte()?);
                ensure!(n <= 8, "an integer of {n} bytes");
                let bytes = self.take(n)?;
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut whole = [if negative { 0xff } else { 0 }; 8];
                whole[..n].copy_from_slice(bytes);
                self.stack.push(Value::Int(i64::from_le_bytes(whole)));
            }
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let n = u32::from_le_bytes(self.array()?) as usize;
                self.text(n)?;
            }
            0x8c => {
                let n = usize::from(self.byte()?);
                self.text(n)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE; BINGET, LONG_BINGET
            b'q' => {
                let key = u32::from(self.byte()?);
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = u32::from(self.byte()?);
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE; EMPTY_LIST, EMPTY_DICT
            b')' => self.stack.push(Value::Tuple(vec![])),
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let from = self
                    .stack
                    .len()
                    .checked_sub(n)
                    .context("the stack is empty")?;
                let items = self.stack.split_off(from);
                self.stack.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.stack.push(Value::Tuple(items));
            }
            b']' => self.stack.push(Value::List),
            b'}' => self.stack.push(Value::Dict(vec![])),
            // SETITEM, SETITEMS
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.put(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.put(items)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.class(&module, &name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.class(&module, &name)?,
                _ => bail!("a class without a name"),
            },
            // BINPERSID, REDUCE, BUILD
            b'Q' => {
                let id = self.pop()?;
                self.stack.push(storage(id)?);
            }
            b'R' => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.stack.push(build(callee, args)?);
            }
            // A state dict carries its version numbers as an attribute; nothing of ours has any.
            b'b' => {
                self.pop()?;
            }
            _ => bail!("it is not needed for tensors, so it is not carried out"),
        }
        Ok(false)
    }

    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .context("the pickle is cut off")?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<String> {
        let n = self
            .rest
            .iter()
            .position(|&b| b == b'\n')
            .context("the pickle is cut off")?;
        let line = String::from_utf8(self.take(n)?.to_vec())?;
        self.byte()?;
        Ok(line)
    }

    fn text(&mut self, n: usize) -> Result<()> {
        let text = String::from_utf8(self.take(n)?.to_vec())?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().context("the stack is empty")
    }

    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark));
        let items = self.stack.split_off(mark.context("there is no mark")? + 1);
        self.stack.pop();
        Ok(items)
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let value = self.stack.last().context("the stack is empty")?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let value = self
            .memo
            .get(&key)
            .context("nothing was remembered there")?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn put(&mut self, items: Vec<Value>) -> Result<()> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else {
            bail!("there is no dict")
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            dict.push((key, value));
        }
        Ok(())
    }

    fn class(&mut self, module: &str, name: &str) -> Result<()> {
        let class = match (module, name) {
            ("collections", "OrderedDict") => Class::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Class::RebuildTensor,
            ("torch", "FloatStorage") => Class::Storage(DType::F32),
            ("torch", "DoubleStorage") => Class::Storage(DType::F64),
            ("torch", "HalfStorage") => Class::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Class::Storage(DType::BF16),
            ("torch", "LongStorage") => Class::Storage(DType::I64),
            _ => bail!("{module}.{name} is not a class that tensors need"),
        };
        self.stack.push(Value::Class(class));
        Ok(())
    }
}

/// `("storage", class, key, device, count)`.
fn storage(id: Value) -> Result<Value> {
    let Value::Tuple(parts) = id else {
        bail!("a storage that is no tuple")
    };
    match &parts[..] {
        [
            Value::Text(kind),
            Value::Class(Class::Storage(dtype)),
            Value::Text(key),
            _,
            _,
        ] if kind == "storage" && !key.contains(['/', '\\']) => {
            Ok(Value::Storage(key.clone(), *dtype))
        }
        _ => bail!("a storage of {parts:?}"),
    }
}

fn build(callee: Value, args: Value) -> Result<Value> {
    let (Value::Class(class), Value::Tuple(args)) = (callee, args) else {
        bail!("a call of something that is no class")
    };
    match (class, &args[..]) {
        (Class::OrderedDict, []) => Ok(Value::Dict(vec![])),
        // storage, offset, shape, stride, requires_grad, hooks
        (
            Class::RebuildTensor,
            [
                Value::Storage(storage, dtype),
                Value::Int(offset),
                Value::Tuple(shape),
                Value::Tuple(stride),
                ..,
            ],
        ) => Ok(Value::Tensor(Slice {
            storage: storage.clone(),
            dtype: *dtype,
            offset: usize::try_from(*offset)?,
            shape: sizes(shape)?,
            stride: sizes(stride)?,
        })),
        _ => bail!("a call of {class:?} with {args:?}"),
    }
}

fn sizes(values: &[Value]) -> Result<Vec<usize>> {
    let size = |value: &Value| match value {
        Value::Int(n) => Ok(usize::try_from(*n)?),
        other => bail!("{other:?} is no size"),
    };
    values.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Written by `tests/golden/pickle_state.py`: a state dict of `a.weight` [[0, 1, 2], [3, 4, 5]],
    /// `a.half` [0.5], `a.num_batches_tracked` 7 and `b.part`, the last two of a storage of four.
    const STATE: &[u8] = include_bytes!("../../tests/golden/state.pth");

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
        let text =
            "data.pkl: pickle opcode 0x63 at byte 2: os.system is not a class that tensors need";
        assert!(error.ends_with(text), "{error}");
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
