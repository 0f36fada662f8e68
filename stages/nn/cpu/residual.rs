//! A residual block of the VAE's ResNet as one operation: twice batch norm, ReLU and a 3x3
//! convolution, plus a 3x3 convolution of the input.
//!
//! What a norm and its ReLU give is never stored: convolutions apply them while they copy their
//! input to pad it. Between the two convolutions one map is kept.

use std::ops::Range;

use rayon::prelude::*;

use super::Real;
use super::channel::{Norm, moments, totals};
use super::conv::{Geometry, Kernel, Placing, apply, rows, summed_gradient};
use super::micro::Finish;
use super::pack::padded;
use super::patches::{Plain, Source};

/// Images `[n, h, w, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

/// Means and variances of a batch, per channel.
pub type Moments = (Vec<f64>, Vec<f64>);

/// What the gradient needs: what comes out of the first convolution, and both norms.
pub struct Kept<T> {
    hidden: Vec<T>,
    norms: [Norm<T>; 2],
}

/// In the order of the parameters: gain and offset of a norm, kernel and bias of the convolution
/// after it, twice; kernel and bias of the shortcut.
struct Parameters<'a, T> {
    gain: [&'a [T]; 2],
    offset: [&'a [T]; 2],
    kernel: [&'a [T]; 3],
    bias: [&'a [T]; 3],
}

impl Sizes {
    fn kernel(&self) -> usize {
        9 * self.c * self.c
    }

    fn split<'a, T>(&self, mut all: &'a [T]) -> Parameters<'a, T> {
        let mut take = |n: usize| {
            let (head, tail) = all.split_at(n);
            all = tail;
            head
        };
        let (c, k) = (self.c, self.kernel());
        let [one, two] = [(); 2].map(|()| [take(c), take(c), take(k), take(c)]);
        let shortcut = [take(k), take(c)];
        Parameters {
            gain: [one[0], two[0]],
            offset: [one[1], two[1]],
            kernel: [one[2], two[2], shortcut[0]],
            bias: [one[3], two[3], shortcut[1]],
        }
    }

    fn geometry(&self) -> Geometry {
        let Self { n, h, w, c } = *self;
        Geometry {
            n,
            h,
            w,
            cin: c,
            kh: 3,
            kw: 3,
            cout: c,
            stride: 1,
            top: 1,
            left: 1,
            oh: h,
            ow: w,
        }
    }
}

/// Images seen through a norm and its ReLU.
struct Normed<'a, T> {
    images: Plain<'a, T>,
    norm: &'a Norm<T>,
}

impl<T: Real> Source<T> for Normed<'_, T> {
    fn plain(&self) -> Option<&[T]> {
        None
    }

    fn copy(&self, image: usize, row: usize, columns: Range<usize>, to: &mut [T]) {
        self.norm.apply(self.images.pixels(image, row, columns), to);
    }

    fn outside(&self, to: &mut [T]) {
        to.fill(T::default());
    }
}

/// The result, what its gradient needs, and the statistics of both norms' inputs.
pub fn forward<T: Real>(
    s: &Sizes,
    x: &[T],
    parameters: &[T],
    epsilon: f64,
) -> (Vec<T>, Kept<T>, [Moments; 2]) {
    let p = s.split(parameters);
    let (g, c) = (s.geometry(), s.c);
    let window = g.window();
    let [first, second, shortcut] = p.kernel.map(|w| Kernel::forward(&g, w));
    let see = |x, norm| Normed {
        images: Plain::new(x, &window),
        norm,
    };
    let before = moments(x, c);
    let norm0 = Norm::new(&before, p.gain[0], p.offset[0], epsilon);
    let mut hidden = vec![T::default(); x.len()];
    let bias = padded(p.bias[0]);
    let finish = Finish {
        shift: Some(&bias),
        ..Finish::plain()
    };
    apply(
        &window,
        &see(x, &norm0),
        &first,
        (0, c),
        &finish,
        &mut hidden,
    );

    let between = moments(&hidden, c);
    let norm1 = Norm::new(&between, p.gain[1], p.offset[1], epsilon);
    let bias: Vec<T> = p.bias[1]
        .iter()
        .zip(p.bias[2])
        .map(|(a, b)| *a + *b)
        .collect();
    let bias = padded(&bias);
    let finish = Finish {
        shift: Some(&bias),
        ..Finish::plain()
    };
    let add = Finish {
        add: true,
        ..Finish::plain()
    };
    let mut y = vec![T::default(); x.len()];
    let (block, row, placing) = (window.block(), s.w * c, Placing::dense(&window, c));
    y.par_chunks_mut((block * row).max(1))
        .enumerate()
        .for_each(|(i, y)| {
            let start = i * block;
            let range = start..start + y.len() / row;
            let base = start * row;
            T::scratch(|scratch| {
                let source = see(&hidden, &norm1);
                rows(
                    &window,
                    &source,
                    &second,
                    range.clone(),
                    &placing,
                    (&mut *y, base),
                    &finish,
                    scratch,
                );
                let source = Plain::new(x, &window);
                rows(
                    &window,
                    &source,
                    &shortcut,
                    range,
                    &placing,
                    (&mut *y, base),
                    &add,
                    scratch,
                );
            });
        });
    let norms = [norm0, norm1];
    (y, Kept { hidden, norms }, [before, between])
}

/// `dx` and the gradient of the parameters.
pub fn backward<T: Real>(
    s: &Sizes,
    x: &[T],
    parameters: &[T],
    kept: &Kept<T>,
    dy: &[T],
) -> (Vec<T>, Vec<T>) {
    let p = s.split(parameters);
    let (g, c) = (s.geometry(), s.c);
    let (window, back) = (g.window(), g.turned());
    let plain = Finish::plain();
    let kernel_gradient = |source: &Normed<T>, dy: &[T]| {
        let mut dw = vec![T::default(); s.kernel()];
        summed_gradient(&window, source, c, dy, &mut dw);
        dw
    };
    let input_gradient = |w: &[T], dy: &[T], finish: &Finish<T>, dx: &mut [T]| {
        let kernel = Kernel::turned(&g, w);
        apply(&back, &Plain::new(dy, &back), &kernel, (0, c), finish, dx);
    };
    let see = |x, norm| Normed {
        images: Plain::new(x, &window),
        norm,
    };
    let bias = totals(dy, c);
    let dw1 = kernel_gradient(&see(&kept.hidden, &kept.norms[1]), dy);
    let mut d = vec![T::default(); x.len()];
    input_gradient(p.kernel[1], dy, &plain, &mut d);
    let (gain1, offset1) = kept.norms[1].backward(&kept.hidden, &mut d);

    let bias0 = totals(&d, c);
    let dw0 = kernel_gradient(&see(x, &kept.norms[0]), &d);
    let mut dx = vec![T::default(); x.len()];
    input_gradient(p.kernel[0], &d, &plain, &mut dx);
    let (gain0, offset0) = kept.norms[0].backward(x, &mut dx);

    drop(d);
    let mut dws = vec![T::default(); s.kernel()];
    summed_gradient(&window, &Plain::new(x, &window), c, dy, &mut dws);
    let add = Finish {
        add: true,
        ..Finish::plain()
    };
    input_gradient(p.kernel[2], dy, &add, &mut dx);
    let parts: [&[T]; 10] = [
        &gain0, &offset0, &dw0, &bias0, &gain1, &offset1, &dw1, &bias, &dws, &bias,
    ];
    (dx, parts.concat())
}
