//! Resizing on a GPU: bytes go over, pixels are made where the network reads them.

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, Result, Tensor};

use super::machine::At;
use super::resize::{self, Table};
use super::tensor::{make, tensor};

/// `[n, h, w, c]` laid end to end, to `[n, side, side, 3]`, still 0 to 255. For columns and rows: first
/// inputs, their numbers, weights (see metrics/resize.rs).
pub fn resize(
    device: &CudaDevice,
    images: &[u8],
    size: [usize; 4],
    side: usize,
    bilinear: bool,
    tables: &[(Vec<u32>, Vec<u32>, Vec<f64>); 2],
) -> Result<Tensor> {
    let stream = device.cuda_stream();
    let images = stream.clone_htod(images).w()?;
    let upload = |(first, count, weights): &(Vec<u32>, Vec<u32>, Vec<f64>)| {
        let (first, count) = (stream.clone_htod(first).w()?, stream.clone_htod(count).w()?);
        Ok::<_, candle_core::Error>((first, count, stream.clone_htod(weights).w()?))
    };
    let kept = [upload(&tables[0])?, upload(&tables[1])?];
    fn at<T>(slice: &CudaSlice<T>) -> At<T> {
        At::new(slice.device_ptr(slice.stream()).0)
    }
    let tables = kept.each_ref().map(|(first, count, weights)| Table {
        first: at(first),
        count: at(count),
        weights: at(weights),
        most: weights.len() / first.len().max(1),
    });
    let shape = (size[0], side, side, 3).into();
    let made = make::<f32>(device, shape, |m, out| {
        resize::resize(m, size, side, bilinear, tables, at(&images), out)
    })?;
    Ok(tensor(made))
}
