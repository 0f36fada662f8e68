//! What our operations need of a device: memory, launches of our kernels, products of matrices.

use candle_core::{Result, bail};

use super::source::Source;
pub use crate::nn::cpu::{Real, conv::Geometry};

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    Address(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

/// What memory of a GPU may hold.
#[cfg(feature = "cuda")]
pub use candle_core::cuda::cudarc::driver::DeviceRepr as Plain;
#[cfg(not(feature = "cuda"))]
pub trait Plain {}
#[cfg(not(feature = "cuda"))]
impl<T> Plain for T {}

/// f32 or f64, as kernels are compiled for.
pub trait Scalar: Real + Plain {
    /// The type's name in C.
    const NAME: &'static str;
    fn arg(value: f64) -> Arg;
}

impl Scalar for f32 {
    const NAME: &'static str = "float";
    fn arg(value: f64) -> Arg {
        Arg::F32(value as Self)
    }
}

impl Scalar for f64 {
    const NAME: &'static str = "double";
    fn arg(value: f64) -> Arg {
        Arg::F64(value)
    }
}

/// Values on a device, by their address. Whoever makes one keeps the memory alive.
#[derive(Debug)]
pub struct At<T>(pub u64, std::marker::PhantomData<T>);

impl<T> Clone for At<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for At<T> {}

impl<T> At<T> {
    pub const NULL: Self = Self::new(0);

    pub const fn new(address: u64) -> Self {
        Self(address, std::marker::PhantomData)
    }

    /// `count` values further on.
    pub fn add(self, count: usize) -> Self {
        Self::new(self.0 + (count * size_of::<T>()) as u64)
    }

    pub fn arg(self) -> Arg {
        Arg::Address(self.0)
    }
}

/// Blocks in x and y; threads of a block, and bytes of shared memory that the launch gives it.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub x: u32,
    pub y: u32,
    pub threads: u32,
    pub shared: u32,
}

impl Grid {
    /// A thread for each of `n` elements.
    pub fn each(n: usize) -> Self {
        Self {
            x: (n as u32).div_ceil(256),
            y: 1,
            threads: 256,
            shared: 0,
        }
    }
}

/// A product of row-major matrices, `c = a b + beta c` of sizes (m, n, k); a factor may be stored
/// transposed.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a_transposed: bool,
    pub b_transposed: bool,
    pub add: bool,
}

/// Which of a convolution's three maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// y from x and w.
    Forward,
    /// dx from dy and w.
    Input,
    /// dw from x and dy.
    Kernel,
}

/// A GPU, or in tests an emulation of one. Work runs in the order in which it is given.
pub trait Machine {
    /// Memory that is freed with its owner, once the work given so far is done.
    type Memory<T>;

    /// Room for `len` values of any content.
    fn alloc<T: Scalar>(&self, len: usize) -> Result<Self::Memory<T>>;

    fn at<T>(&self, memory: &Self::Memory<T>) -> At<T>;

    /// Starts a kernel of `source`, compiled for T.
    fn launch<T: Scalar>(
        &self,
        source: &'static Source,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()>;

    /// Bytes of shared memory that a block may be given; none where the instructions of `tile.cu`
    /// are missing.
    fn tile_memory(&self) -> Result<usize>;

    fn product<T: Scalar>(&self, size: Product, a: At<T>, b: At<T>, c: At<T>) -> Result<()>;

    /// The library's own convolution, where it has one for these sizes: true if it was started.
    fn convolve<T: Scalar>(
        &self,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<bool>;

    /// `kernel` for each of `n` elements, n being its first argument.
    fn each<T: Scalar>(
        &self,
        source: &'static Source,
        kernel: &'static str,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let all = [&[Arg::U32(count(n)?)], args].concat();
        self.launch::<T>(source, kernel, Grid::each(n), &all)
    }
}

/// A number of elements as kernels count them.
pub fn count(n: usize) -> Result<u32> {
    if n >= 1 << 31 {
        bail!("{n} elements at once are more than the kernels can count; hint: a smaller batch");
    }
    Ok(n as u32)
}

/// Several numbers of elements as arguments.
pub fn counts<const N: usize>(n: [usize; N]) -> Result<[Arg; N]> {
    for n in n {
        count(n)?;
    }
    Ok(n.map(|n| Arg::U32(n as u32)))
}
