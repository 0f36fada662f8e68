//! The values of tensors on the CPU, lent to what computes over slices.

use candle_core::{Result, Storage, Tensor, WithDType, bail};

use super::cpu::slice;

/// Lends the values of contiguous tensors on the CPU to an operation of this name.
pub fn with_slices<T: WithDType, const N: usize, R>(
    name: &str,
    operands: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> R,
) -> Result<R> {
    with_all(name, &operands, |slices| {
        let mut slices = slices.iter().copied();
        f([(); N].map(|()| slices.next().unwrap_or_default()))
    })
}

/// The same for a number of operands that is not known before.
pub fn with_all<T: WithDType, R>(
    name: &str,
    operands: &[&Tensor],
    f: impl FnOnce(&[&[T]]) -> R,
) -> Result<R> {
    let stored: Vec<_> = operands.iter().map(|t| t.storage_and_layout()).collect();
    let mut slices = Vec::with_capacity(stored.len());
    for (storage, layout) in &stored {
        let Storage::Cpu(storage) = &**storage else {
            bail!("{name}: wants tensors on the CPU")
        };
        slices.push(slice(name, storage.as_slice::<T>()?, layout)?);
    }
    Ok(f(&slices))
}
