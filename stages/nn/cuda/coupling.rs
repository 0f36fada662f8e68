//! Launches of `coupling.cu` and `coupling_grad.cu`: the additive coupling of Glow, whose hidden maps
//! stay inside of a block.

use candle_core::Result;

use super::machine::{Arg, At, Grid, Machine, Scalar, count, counts};
use super::source::Source;
pub use crate::nn::cpu::coupling::Sizes;

/// The sources for each width: with exact products, and with those of tensor cores.
macro_rules! sources {
    ($($width:literal)*) => {
        [$([
            sources!($width, "", ""),
            sources!($width, "-tf32", "#define TF32\n"),
        ]),*]
    };
    ($width:literal, $name:literal, $more:literal) => {
        Source {
            name: concat!("coupling-", $width, $name),
            text: concat!(
                "#define WIDTH ", $width, "\n", $more,
                include_str!("../../kernels/tile.cu"),
                include_str!("../../kernels/coupling.cu"),
                include_str!("../../kernels/coupling_grad.cu"),
            ),
        }
    };
}

/// Chooses by hidden channels, which are filled up to the next of [`WIDTHS`], and by precision.
pub static SOURCES: [[Source; 2]; 4] = sources!(64 128 192 256);
const WIDTHS: [usize; 4] = [64, 128, 192, 256];

/// TILE and THREADS of the kernels.
const TILE: usize = 64;
const THREADS: u32 = 256;
/// Two blocks on each multiprocessor of an H100; four parts of the square kernel.
const BLOCKS: [usize; 2] = [256, 64];

/// One coupling on a device.
#[derive(Clone, Copy, Debug)]
pub struct Coupling {
    sizes: Sizes,
    /// Whether products are those of tensor cores.
    tf32: bool,
    /// `sizes.width`, filled up.
    width: usize,
    /// At most so many blocks sum gradients for themselves, by the shape alone so that sums are
    /// repeatable; of the square kernel, so many for each part.
    pub blocks: [usize; 2],
}

impl Coupling {
    /// None if the sizes are not for these kernels on this device.
    pub fn new<M: Machine, T: Scalar>(m: &M, sizes: Sizes, tf32: bool) -> Result<Option<Self>> {
        let Some(width) = WIDTHS.into_iter().find(|w| *w >= sizes.width) else {
            return Ok(None);
        };
        let this = Self {
            sizes,
            tf32: tf32 && T::NAME == "float",
            width,
            blocks: BLOCKS,
        };
        let largest = this.grad_memory::<T>().max(this.square_memory::<T>());
        let fits = this.pixels() > 0 && largest <= m.tile_memory()?;
        Ok(fits.then_some(this))
    }

    fn source(&self) -> &'static Source {
        &SOURCES[self.width / 64 - 1][usize::from(self.tf32)]
    }

    fn pixels(&self) -> usize {
        self.sizes.n * self.sizes.h * self.sizes.w
    }

    /// Values of a pixel's first patch, of its gradient, and columns of the last product.
    fn patches(&self) -> [usize; 3] {
        let Sizes {
            channels, split, ..
        } = self.sizes;
        [9 * (split + 1), 9 * split, 9 * (channels - split)]
    }

    fn filled(&self) -> [usize; 3] {
        self.patches().map(|n| n.next_multiple_of(8))
    }

    /// Values in a block's copies of both ends' patches.
    fn ends(&self) -> usize {
        let [first, _, last] = self.filled();
        TILE * (first + 4 + last + 4)
    }

    /// Bytes of shared memory of `network_grad`; `network` takes less.
    fn grad_memory<T>(&self) -> usize {
        let slices = 2 * (64 / size_of::<T>()) * (self.width + 8);
        (TILE * (self.width + 4) + slices + self.ends()) * size_of::<T>()
    }

    /// Rows and columns of the square kernel whose gradient one block makes.
    fn part(&self) -> usize {
        if self.width.is_multiple_of(128) {
            128
        } else {
            64
        }
    }

    /// Bytes of shared memory of `square_grad`.
    fn square_memory<T>(&self) -> usize {
        (2 * TILE * (self.part() + 8) + self.ends()) * size_of::<T>()
    }

    /// Lengths of what `Kernels` and `Sums` in the kernels describe.
    fn lengths(&self) -> [usize; 2] {
        let ([inputs, _, _], [first, back, last], w) = (self.patches(), self.filled(), self.width);
        let Sizes {
            channels, split, ..
        } = self.sizes;
        let moved = channels - split;
        let kernels = 2 * w * w + w * (first + back + 2 * last) + 2 * w + 9 * moved + moved;
        let sums = w * (inputs.next_multiple_of(16) + last) + 2 * w + last;
        [kernels, sums]
    }

    fn tiles(&self) -> usize {
        self.pixels().div_ceil(TILE)
    }

    /// What every kernel over images takes first: their number of pixels, or n.
    fn images(&self, n: usize) -> Result<[Arg; 5]> {
        let Sizes {
            h,
            w,
            channels,
            split,
            ..
        } = self.sizes;
        counts([n, h, w, channels, split])
    }

    fn grid(&self, x: usize, y: usize, shared: usize) -> Grid {
        Grid {
            x: x as u32,
            y: y as u32,
            threads: THREADS,
            shared: shared as u32,
        }
    }

    fn prepare<M: Machine, T: Scalar>(&self, m: &M, parameters: At<T>) -> Result<M::Memory<T>> {
        let [length, _] = self.lengths();
        let kernels = m.alloc::<T>(length)?;
        let [c, split, width] = counts([self.sizes.channels, self.sizes.split, self.sizes.width])?;
        let args = [c, split, width, parameters.arg(), m.at(&kernels).arg()];
        m.each::<T>(self.source(), "prepare", length, &args)?;
        Ok(kernels)
    }

    /// `y = x + [0, f(x1)]`, as nn/coupling/op.rs has it.
    pub fn forward<M: Machine, T: Scalar>(
        &self,
        m: &M,
        x: At<T>,
        parameters: At<T>,
        y: At<T>,
    ) -> Result<()> {
        let (pixels, [_, _, outputs]) = (self.pixels(), self.patches());
        count(pixels * outputs)?;
        let kernels = self.prepare(m, parameters)?;
        let columns = m.alloc::<T>(pixels * outputs)?;
        let [kernels, columns] = [m.at(&kernels).arg(), m.at(&columns).arg()];
        let args = [&self.images(pixels)?[..], &[x.arg(), kernels, columns]].concat();
        let grid = self.grid(self.tiles(), 1, self.grad_memory::<T>());
        m.launch::<T>(self.source(), "network", grid, &args)?;
        let n = pixels * self.sizes.channels;
        let more = [x.arg(), kernels, columns, y.arg()];
        let args = [&self.images(n)?[1..], &more].concat();
        m.each::<T>(self.source(), "add_network", n, &args)
    }

    /// `dx` and the gradient of the parameters.
    pub fn backward<M: Machine, T: Scalar>(
        &self,
        m: &M,
        [x, parameters, dy]: [At<T>; 3],
        dx: At<T>,
        gradient: At<T>,
    ) -> Result<()> {
        let (source, pixels, w) = (self.source(), self.pixels(), self.width);
        let ([_, back, _], [_, sums], tiles) = (self.patches(), self.lengths(), self.tiles());
        count(pixels * back.max(self.sizes.channels))?;
        let kernels = self.prepare(m, parameters)?;
        let columns = m.alloc::<T>(pixels * back)?;
        // Eight bytes each.
        let positive = m.alloc::<f64>(tiles * THREADS as usize)?;
        let [kernels, columns, positive] = [
            m.at(&kernels).arg(),
            m.at(&columns).arg(),
            m.at(&positive).arg(),
        ];
        let images = self.images(pixels)?;

        let blocks = tiles.min(self.blocks[0]);
        let partial = m.alloc::<T>(blocks * sums)?;
        let [length] = counts([sums])?;
        let more = [
            length,
            x.arg(),
            dy.arg(),
            kernels,
            columns,
            positive,
            m.at(&partial).arg(),
        ];
        let grid = self.grid(blocks, 1, self.grad_memory::<T>());
        m.launch::<T>(source, "network_grad", grid, &[&images[..], &more].concat())?;
        let all = self.total(m, sums, blocks, m.at(&partial))?;

        let n = pixels * self.sizes.channels;
        let more = [dy.arg(), columns, dx.arg()];
        let args = [&self.images(n)?[1..], &more].concat();
        m.each::<T>(source, "add_network_grad", n, &args)?;

        let blocks = tiles.min(self.blocks[1]);
        let partial = m.alloc::<T>(blocks * w * w)?;
        let more = [x.arg(), dy.arg(), kernels, positive, m.at(&partial).arg()];
        let parts = (w / self.part()).pow(2);
        let grid = self.grid(blocks, parts, self.square_memory::<T>());
        m.launch::<T>(source, "square_grad", grid, &[&images[..], &more].concat())?;
        let square = self.total(m, w * w, blocks, m.at(&partial))?;

        let [c, split, width] = counts([self.sizes.channels, self.sizes.split, self.sizes.width])?;
        let args = [
            c,
            split,
            width,
            parameters.arg(),
            m.at(&all).arg(),
            m.at(&square).arg(),
            gradient.arg(),
        ];
        m.each::<T>(source, "kernel_grads", self.sizes.parameters(), &args)?;
        let scales = 2 * self.sizes.width + self.sizes.channels - self.sizes.split;
        m.launch::<T>(source, "scale_grads", self.grid(scales, 1, 0), &args)
    }

    /// `n` sums over the parts of blocks, in order.
    fn total<M: Machine, T: Scalar>(
        &self,
        m: &M,
        n: usize,
        blocks: usize,
        partial: At<T>,
    ) -> Result<M::Memory<f64>> {
        let all = m.alloc::<f64>(n)?;
        let [parts] = counts([blocks])?;
        let args = [parts, partial.arg(), m.at(&all).arg()];
        m.each::<T>(self.source(), "total", n, &args)?;
        Ok(all)
    }
}
