//! The gradient of a convolution's input.

use rayon::prelude::*;

use super::super::Real;
use super::super::pack::padded;
use super::super::patches::{Plain, Window};
use super::{Geometry, Kernel, Placing, apply, biased, rows};

/// Gradient of the input, `dx` from `dy`; as the forward pass of the transposed convolution it
/// takes a bias.
pub fn input_gradient<T: Real>(g: &Geometry, dy: &[T], w: &[T], bias: Option<&[T]>, dx: &mut [T]) {
    if g.stride > 1 {
        return strided_input_gradient(g, dy, w, bias, dx);
    }
    let window = g.turned();
    let kernel = Kernel::turned(g, w);
    let bias = bias.map(padded);
    let finish = biased(bias.as_deref());
    apply(
        &window,
        &Plain::new(dy, &window),
        &kernel,
        (0, g.cin),
        &finish,
        dx,
    );
}

/// The pixels of `dx` that share their remainders by the stride see the same taps: each such phase
/// is a convolution of `dy` by those.
struct Phase<T> {
    window: Window,
    kernel: Kernel<T>,
    placing: Placing,
}

/// Along one axis: first tap, how many, and where the first pixel's window starts in `dy`.
fn taps(phase: usize, pad: usize, stride: usize, kernel: usize) -> (usize, usize, isize) {
    let first = (phase + pad) % stride;
    let count = kernel.saturating_sub(first).div_ceil(stride);
    let base = (phase + pad) / stride;
    (first, count, base as isize - (count as isize - 1))
}

fn phases<T: Real>(g: &Geometry, w: &[T]) -> Vec<Phase<T>> {
    let s = g.stride;
    let phase = |k: usize| {
        let (py, px) = (k / s, k % s);
        let (ty, kh, top) = taps(py, g.top, s, g.kh);
        let (tx, kw, left) = taps(px, g.left, s, g.kw);
        let window = Window {
            n: g.n,
            h: g.oh,
            w: g.ow,
            c: g.cout,
            kh,
            kw,
            stride: 1,
            top,
            left,
            oh: g.h.saturating_sub(py).div_ceil(s),
            ow: g.w.saturating_sub(px).div_ceil(s),
        };
        let at = |tap: usize, o: usize, i: usize| {
            let (y, x) = (ty + s * (kh - 1 - tap / kw), tx + s * (kw - 1 - tap % kw));
            w[((y * g.kw + x) * g.cin + i) * g.cout + o]
        };
        let placing = Placing {
            height: g.h,
            width: g.w,
            channels: g.cin,
            first: 0,
            step: s,
            top: py,
            left: px,
        };
        Phase {
            window,
            kernel: Kernel::new(&window, g.cin, at, None),
            placing,
        }
    };
    (0..s * s).map(phase).collect()
}

fn strided_input_gradient<T: Real>(
    g: &Geometry,
    dy: &[T],
    w: &[T],
    bias: Option<&[T]>,
    dx: &mut [T],
) {
    let phases = phases(g, w);
    let bias = bias.map(padded);
    let finish = biased(bias.as_deref());
    let image = g.h * g.w * g.cin;
    // Whole images: the phases of a pixel's neighbours interleave.
    let images = g.turned().block().div_ceil(g.h.max(1)).max(1);
    dx.par_chunks_mut((images * image).max(1))
        .enumerate()
        .for_each(|(i, dx)| {
            let count = dx.len() / image;
            for phase in &phases {
                let oh = phase.window.oh;
                let all = i * images * oh..(i * images + count) * oh;
                let source = Plain::new(dy, &phase.window);
                T::scratch(|scratch| {
                    for first in all.clone().step_by(phase.window.block()) {
                        let range = first..all.end.min(first + phase.window.block());
                        let to = (&mut *dx, i * images * image);
                        let (window, placing) = (&phase.window, &phase.placing);
                        rows(
                            window,
                            &source,
                            &phase.kernel,
                            range,
                            placing,
                            to,
                            &finish,
                            scratch,
                        );
                    }
                });
            }
        });
}
