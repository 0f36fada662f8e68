//! The classes that tensors, arrays and what lies beside them need, and what each makes of its arguments.

use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;

use super::value::{ArrayCell, Cell, Heap, Value};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Class {
    Dict,
    /// `torch.Size`, a tuple.
    Size,
    RebuildTensor,
    /// Tensors whose type has no storage class of its own.
    RebuildTensorOfType,
    RebuildParameter,
    /// Tensors with attributes.
    RebuildSubclass,
    Storage(&'static Element),
    Element(&'static Element),
    /// `_codecs.encode`: bytes, as protocol 2 writes them.
    Encode,
    NumpyDtype,
    NumpyArray,
    NumpyFromBuffer,
    NumpyType,
    /// It says nothing of tensors: a date, a path, the arguments of a program.
    Other,
}

/// What a tensor is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Element {
    pub name: &'static str,
    /// In bytes.
    pub size: usize,
    /// Floats that we can compute with; what is not one of them is left out.
    pub float: Option<DType>,
}

const fn float(name: &'static str, size: usize, dtype: DType) -> Element {
    let float = Some(dtype);
    Element { name, size, float }
}

const fn other(name: &'static str, size: usize) -> Element {
    let float = None;
    Element { name, size, float }
}

/// PyTorch's storage class or none, and the element type as `torch` names it.
static ELEMENTS: [(&str, Element); 27] = [
    ("FloatStorage", float("float32", 4, DType::F32)),
    ("DoubleStorage", float("float64", 8, DType::F64)),
    ("HalfStorage", float("float16", 2, DType::F16)),
    ("BFloat16Storage", float("bfloat16", 2, DType::BF16)),
    ("LongStorage", other("int64", 8)),
    ("IntStorage", other("int32", 4)),
    ("ShortStorage", other("int16", 2)),
    ("CharStorage", other("int8", 1)),
    ("ByteStorage", other("uint8", 1)),
    ("BoolStorage", other("bool", 1)),
    ("ComplexDoubleStorage", other("complex128", 16)),
    ("ComplexFloatStorage", other("complex64", 8)),
    ("", other("complex32", 4)),
    ("QInt8Storage", other("qint8", 1)),
    ("QUInt8Storage", other("quint8", 1)),
    ("QInt32Storage", other("qint32", 4)),
    ("QUInt4x2Storage", other("quint4x2", 1)),
    ("QUInt2x4Storage", other("quint2x4", 1)),
    ("", other("uint16", 2)),
    ("", other("uint32", 4)),
    ("", other("uint64", 8)),
    ("", other("float8_e4m3fn", 1)),
    ("", other("float8_e5m2", 1)),
    ("", other("float8_e4m3fnuz", 1)),
    ("", other("float8_e5m2fnuz", 1)),
    ("", other("float8_e8m0fnu", 1)),
    ("UntypedStorage", other("bytes", 1)),
];

/// Where a tensor's numbers lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    pub key: Rc<str>,
    pub element: &'static Element,
    /// Elements of the whole storage.
    pub count: usize,
    /// Elements before the part that this is of it: tensors of PyTorch before 0.4 share storages so.
    pub offset: usize,
}

impl Storage {
    pub fn bytes(&self) -> Option<usize> {
        self.count.checked_mul(self.element.size)
    }
}

/// A tensor as a pickle describes it, in elements.
#[derive(Debug, Clone)]
pub struct Slice {
    pub storage: Rc<Storage>,
    pub element: &'static Element,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

impl Class {
    /// The class of this name, if anything that is read needs it.
    pub fn named(module: &str, name: &str) -> Result<Self> {
        let element = |wanted: &dyn Fn(&(&str, Element)) -> bool| {
            let found = ELEMENTS.iter().find(|e| wanted(e));
            found.map(|(_, element)| element)
        };
        if let "torch" | "torch.cuda" | "torch.storage" = module
            && name.ends_with("Storage")
            && let Some(element) = element(&|(storage, _)| *storage == name)
        {
            return Ok(Class::Storage(element));
        }
        if module == "torch"
            && let Some(element) = element(&|(_, element)| element.name == name)
        {
            return Ok(Class::Element(element));
        }
        Ok(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict" | "Counter") => Class::Dict,
            ("builtins" | "__builtin__", "dict") => Class::Dict,
            ("torch", "Size") => Class::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Class::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Class::RebuildTensorOfType,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Class::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Class::RebuildSubclass,
            ("_codecs", "encode") => Class::Encode,
            ("numpy", "dtype") => Class::NumpyDtype,
            ("numpy", "ndarray") => Class::NumpyType,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Class::NumpyArray
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Class::NumpyFromBuffer,
            _ if beside(module, name) => Class::Other,
            _ => bail!(
                "{module}.{name} is not a class that tensors need; hint: torch.save(net.state_dict(), \
                 file) saves tensors alone"
            ),
        })
    }

    /// What it makes of its arguments.
    pub fn call(self, args: &[Value], heap: &mut Heap) -> Result<Value> {
        match (self, args) {
            (Class::Other, _) => Ok(Value::Other),
            (Class::Dict, args) => {
                // A list of pairs (Python 2), a dict (Counter) or none; first the factory of a defaultdict.
                let pairs = args.iter().find_map(|arg| heap.items(arg));
                let pair = |pair: &Value| match heap.items(pair) {
                    Some([key, value]) => Ok((key.clone(), value.clone())),
                    _ => bail!("{} where a pair should be", heap.describe(pair)),
                };
                let pairs: Vec<_> = pairs
                    .into_iter()
                    .flatten()
                    .map(pair)
                    .collect::<Result<_>>()?;
                heap.copied(pairs.len() * size_of::<(Value, Value)>())?;
                Ok(heap.hold(Cell::Dict(pairs)))
            }
            (Class::Size, [sizes]) => Ok(sizes.clone()),
            // storage, offset, shape, stride, then what says nothing of its numbers
            (
                Class::RebuildTensor,
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    shape,
                    stride,
                    ..,
                ],
            ) => slice(storage, storage.element, *offset, [shape, stride], heap),
            (
                Class::RebuildTensorOfType,
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    shape,
                    stride,
                    _,
                    _,
                    Value::Class(Class::Element(element)),
                    ..,
                ],
            ) => slice(storage, element, *offset, [shape, stride], heap),
            (Class::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
            // what makes it, its class, the arguments, its attributes
            (Class::RebuildSubclass, [Value::Class(class), _, args, _])
                if *class != Class::RebuildSubclass =>
            {
                let args = heap.arguments(args)?;
                class.call(&args, heap)
            }
            (Class::Encode, [Value::Text(text), ..]) => {
                let byte = |c: char| u8::try_from(u32::from(c)).context("a text that is no bytes");
                heap.copied(text.len())?;
                let bytes: Result<Vec<u8>> = text.chars().map(byte).collect();
                Ok(Value::Bytes(bytes?.into()))
            }
            (Class::NumpyDtype, [name, ..]) => {
                let name = name.text().context("an element type without a name")?;
                ensure!(
                    name.len() < 64,
                    "an element type with a name of {} letters",
                    name.len()
                );
                Ok(heap.hold(Cell::Dtype(format!("|{name}"))))
            }
            (Class::NumpyArray, _) => Ok(heap.hold(Cell::Array(Box::default()))),
            // bytes, element type, shape, order
            (Class::NumpyFromBuffer, [content, dtype, shape, order]) => {
                let Some(Cell::Dtype(dtype)) = heap.cell(dtype) else {
                    bail!("an array without an element type")
                };
                let cell = ArrayCell {
                    dtype: dtype.clone(),
                    shape: heap.sizes(shape)?,
                    columns_first: order.text() == Some("F"),
                    content: Some(content.clone()),
                };
                Ok(heap.hold(Cell::Array(Box::new(cell))))
            }
            (class, args) => {
                let args: Vec<_> = args.iter().map(|arg| heap.describe(arg)).collect();
                bail!("{class:?} of {}", args.join(", "))
            }
        }
    }
}

/// Classes of what programs keep beside their tensors. Nothing is made of them.
fn beside(module: &str, name: &str) -> bool {
    let plain = [
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
    ];
    match module {
        "builtins" | "__builtin__" => plain.contains(&name),
        "argparse" => name == "Namespace",
        "types" => name == "SimpleNamespace",
        "collections" => name == "deque",
        "copyreg" | "copy_reg" => name == "_reconstructor",
        "datetime" | "pathlib" | "pathlib._local" | "uuid" | "decimal" | "fractions" => true,
        "numpy.core.multiarray" | "numpy._core.multiarray" => name == "scalar",
        // Sparse and quantised tensors are none of a network that is read here.
        "torch._utils" => name.starts_with("_rebuild_"),
        "torch" => {
            [
                "device",
                "Tensor",
                "strided",
                "sparse_coo",
                "channels_last",
                "contiguous_format",
            ]
            .contains(&name)
                || name.starts_with("per_")
                || name.ends_with("Tensor")
        }
        "torch.nn.parameter" => ["Parameter", "Buffer"].contains(&name),
        "torch.serialization" => name == "_get_layout",
        _ => false,
    }
}

fn slice(
    storage: &Rc<Storage>,
    element: &'static Element,
    offset: i64,
    [shape, stride]: [&Value; 2],
    heap: &Heap,
) -> Result<Value> {
    let offset = usize::try_from(offset)?.checked_add(storage.offset);
    let (shape, stride) = (heap.sizes(shape)?, heap.sizes(stride)?);
    if shape.len() != stride.len() {
        bail!(
            "a tensor of {} sizes and {} strides",
            shape.len(),
            stride.len()
        );
    }
    Ok(Value::Tensor(Rc::new(Slice {
        storage: storage.clone(),
        element,
        offset: offset.context("a tensor far beyond its storage")?,
        shape,
        stride,
    })))
}

/// `("storage", class, key, device, count)`, and before 1.6 what part of it is meant.
pub fn storage(id: &Value, heap: &mut Heap) -> Result<Value> {
    let parts = heap.arguments(id)?;
    let (parts, view) = match &parts[..] {
        [kind, class, key, device, count] => ([kind, class, key, device, count], &Value::None),
        [kind, class, key, device, count, view] => ([kind, class, key, device, count], view),
        _ => bail!("a storage of {} parts", parts.len()),
    };
    match parts {
        [
            kind,
            Value::Class(Class::Storage(element)),
            key,
            _,
            Value::Int(count),
        ] if kind.text() == Some("storage") => {
            let key = key.text().context("a storage without a name")?;
            ensure!(
                key.len() < 256 && !key.contains(['/', '\\']),
                "a storage named {:?}",
                key.chars().take(64).collect::<String>()
            );
            // its name, the elements before it, and how many it has
            let offset = match heap.tuple(view) {
                Some([_, Value::Int(offset), Value::Int(_)]) => usize::try_from(*offset)?,
                None if matches!(view, Value::None) => 0,
                _ => bail!("a part of a storage that is {}", heap.describe(view)),
            };
            let (key, count) = (key.into(), usize::try_from(*count)?);
            Ok(heap.store(Storage {
                key,
                element,
                count,
                offset,
            }))
        }
        _ => {
            let parts: Vec<_> = parts.iter().map(|part| heap.describe(part)).collect();
            bail!("a storage of {}", parts.join(", "))
        }
    }
}

/// What the state of an object adds to it. That of an array is its content; a state dict carries version
/// numbers, which nobody needs.
pub fn fill(object: &Value, state: &Value, heap: &mut Heap) -> Result<()> {
    if !matches!(heap.cell(object), Some(Cell::Dtype(_) | Cell::Array(_))) {
        return Ok(());
    }
    let state = heap.arguments(state)?;
    match (heap.cell(object), &state[..]) {
        // version, byte order, then what only records have
        (Some(Cell::Dtype(name)), [_, order, rest @ ..]) => {
            let order = order.text().filter(|order| order.len() == 1);
            let order = order.context("an element type without an order")?;
            let names = rest
                .get(1)
                .is_some_and(|names| !matches!(names, Value::None));
            let letters = if names { "V" } else { &name[1..] };
            let name = format!("{order}{letters}");
            if let Some(cell) = heap.cell_mut(object) {
                *cell = Cell::Dtype(name);
            }
        }
        // version, shape, element type, order, content
        (Some(Cell::Array(_)), [_, shape, dtype, Value::Bool(columns_first), content]) => {
            let Some(Cell::Dtype(dtype)) = heap.cell(dtype) else {
                bail!("an array without an element type")
            };
            let cell = ArrayCell {
                dtype: dtype.clone(),
                shape: heap.sizes(shape)?,
                columns_first: *columns_first,
                content: Some(content.clone()),
            };
            if let Some(at) = heap.cell_mut(object) {
                *at = Cell::Array(Box::new(cell));
            }
        }
        (Some(Cell::Array(_)), _) => bail!("an array of another kind"),
        _ => {}
    }
    Ok(())
}
