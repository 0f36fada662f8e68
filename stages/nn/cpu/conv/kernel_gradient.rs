//! The gradient of a convolution's kernel.

use std::ops::Range;

use rayon::prelude::*;

use super::super::pack::pack_rows;
use super::super::patches::{self, Plain, Source, Window};
use super::super::{Real, Scratch, micro, simd};
use super::Geometry;

/// How many parts of the work sum a gradient of `len` values for themselves, to be added in order:
/// few when that would move much memory.
pub fn parts(len: usize) -> usize {
    ((1 << 20) / len.max(1)).clamp(4, 16)
}

/// Gradient of the kernel: `dw` from `x` and `dy`, summed over positions in a fixed order.
pub fn kernel_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    if g.stride == 1 && 2 * g.cout <= simd::lanes::<T>() && g.cin > g.cout {
        return turned_kernel_gradient(g, x, dy, dw);
    }
    let window = g.window();
    summed_gradient(&window, &Plain::new(x, &window), g.cout, dy, dw);
}

/// With few outputs, lanes run along the inputs instead: the gradient of the turned kernel, in
/// which x and dy have changed places.
fn turned_kernel_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    let window = g.turned();
    let mut turned = vec![T::default(); dw.len()];
    summed_gradient(&window, &Plain::new(dy, &window), g.cin, x, &mut turned);
    let taps = g.kh * g.kw;
    for (i, d) in dw.iter_mut().enumerate() {
        let (tap, input, output) = (i / g.cout / g.cin, i / g.cout % g.cin, i % g.cout);
        *d = turned[((taps - 1 - tap) * g.cout + output) * g.cin + input];
    }
}

/// The gradient of a kernel from `source` through `window` to n channels.
pub fn summed_gradient<T: Real>(
    window: &Window,
    source: &(impl Source<T> + Sync),
    n: usize,
    dy: &[T],
    dw: &mut [T],
) {
    let block = window.block();
    let blocks = window.rows().div_ceil(block);
    let parts = parts(dw.len()).min(blocks).max(1);
    let per_part = blocks.div_ceil(parts);
    let mut sums = vec![T::default(); dw.len() * parts];
    sums.par_chunks_mut(dw.len().max(1))
        .enumerate()
        .for_each(|(part, sum)| {
            T::scratch(|scratch| {
                for i in part * per_part..blocks.min((part + 1) * per_part) {
                    let range = i * block..window.rows().min((i + 1) * block);
                    let dy = &dy[range.start * window.ow * n..range.end * window.ow * n];
                    add_gradient(window, source, n, dy, range, sum, scratch);
                }
            });
        });
    add_parts(&sums, dw);
}

/// Adds the kernel gradient of some rows; `dy` is of theirs alone.
pub fn add_gradient<T: Real>(
    window: &Window,
    source: &impl Source<T>,
    n: usize,
    dy: &[T],
    rows: Range<usize>,
    sum: &mut [T],
    scratch: &mut Scratch<T>,
) {
    pack_rows(dy, n, &mut scratch.panels);
    let patches = patches::load(window, source, rows, &mut scratch.patches);
    micro::columns(&patches, &scratch.panels, n, sum);
}

/// `to` becomes the sum of its parts, each as long as it is, added in order.
pub fn add_parts<T: Real>(parts: &[T], to: &mut [T]) {
    let len = to.len();
    let chunk = 1 << 12;
    to.par_chunks_mut(chunk).enumerate().for_each(|(i, to)| {
        let first = i * chunk;
        to.copy_from_slice(&parts[first..first + to.len()]);
        for part in parts[len.min(parts.len())..].chunks_exact(len) {
            for (t, v) in to.iter_mut().zip(&part[first..]) {
                *t += *v;
            }
        }
    });
}
