//! What a pickle of a state dict can hold, and the two calls that make tensors of it.

use anyhow::{Result, bail};
use candle_core::DType;

/// A value on the pickle machine's stack.
#[derive(Debug, Clone)]
pub enum Value {
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
pub enum Class {
    OrderedDict,
    RebuildTensor,
    Storage(DType),
}

/// A tensor as a state dict describes it.
#[derive(Debug, Clone)]
pub struct Slice {
    pub storage: String,
    pub dtype: DType,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

impl Class {
    /// The class of this name, if tensors need it.
    pub fn named(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Class::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Class::RebuildTensor,
            ("torch", "FloatStorage") => Class::Storage(DType::F32),
            ("torch", "DoubleStorage") => Class::Storage(DType::F64),
            ("torch", "HalfStorage") => Class::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Class::Storage(DType::BF16),
            ("torch", "LongStorage") => Class::Storage(DType::I64),
            _ => bail!(
                "{module}.{name} is not a class that tensors need; hint: save net.state_dict(), \
                 not the network"
            ),
        })
    }
}

/// `("storage", class, key, device, count)`.
pub fn storage(id: Value) -> Result<Value> {
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

/// What a class makes of its arguments.
pub fn build(callee: Value, args: Value) -> Result<Value> {
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
