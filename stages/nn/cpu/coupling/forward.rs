//! The way there.

use rayon::prelude::*;

use super::super::Real;
use super::super::conv::{Kernel, Placing, rows};
use super::super::micro::Finish;
use super::super::pack::padded;
use super::super::patches::{Plain, Window};
use super::{Hidden, Marked, Sizes, blocks, outside};

/// `y`, and what its gradient needs.
pub fn forward<T: Real>(s: &Sizes, x: &[T], parameters: &[T], keep: bool) -> (Vec<T>, Hidden<T>) {
    let [one, two, three] = s.layers(parameters);
    let (moved, pixels) = (s.moved(), s.h * s.w);
    let (w1, w2, w3) = (
        s.window(1, s.split + 1, 3),
        s.window(1, s.width, 1),
        s.window(1, s.width, 3),
    );
    let first = Kernel::new(
        &w1,
        s.width,
        |t, i, o| one.w[(t * w1.c + i) * s.width + o],
        Some(one.w),
    );
    let second = Kernel::new(&w2, s.width, |_, i, o| two.w[i * s.width + o], Some(two.w));
    // The rows of a tap but for the one of the mark.
    let last = Kernel::new(
        &w3,
        moved,
        |t, i, o| three.w[(t * (s.width + 1) + i) * moved + o],
        None,
    );
    let mut edge = vec![T::default(); pixels * moved];
    outside(s, |p, tap| {
        let w = &three.w[(tap * (s.width + 1) + s.width) * moved..];
        edge[p * moved..(p + 1) * moved]
            .iter_mut()
            .zip(w)
            .for_each(|(e, w)| *e += *w);
    });

    let kept = if keep { s.n * pixels * s.width } else { 0 };
    let mut hidden = Hidden {
        first: vec![T::default(); kept],
        second: vec![T::default(); kept],
        last: edge.repeat(s.n),
    };
    let mut y = vec![T::default(); x.len()];
    let affine = [&one, &two].map(|l| (padded(l.scale), padded(l.shift)));
    let group = s.group() * pixels;
    let work = |i: usize, y: &mut [T], h1: &mut [T], h2: &mut [T], sums: &mut [T]| {
        let n = sums.len() / moved / pixels;
        let x = &x[i * group * s.channels..][..y.len()];
        let relu = affine.each_ref().map(|(scale, shift)| Finish {
            add: false,
            scale: Some(scale),
            shift: Some(shift),
            slope: T::default(),
        });
        let add = Finish {
            add: true,
            ..Finish::plain()
        };
        let (w1, w2, w3) = (Window { n, ..w1 }, Window { n, ..w2 }, Window { n, ..w3 });
        let (wide, narrow) = (Placing::dense(&w1, s.width), Placing::dense(&w1, moved));
        let marked = Marked { x, sizes: *s };
        T::scratch(|scratch| {
            for r in blocks(&w1) {
                rows(
                    &w1,
                    &marked,
                    &first,
                    r.clone(),
                    &wide,
                    (&mut *h1, 0),
                    &relu[0],
                    scratch,
                );
                let source = Plain::new(&*h1, &w2);
                rows(
                    &w2,
                    &source,
                    &second,
                    r,
                    &wide,
                    (&mut *h2, 0),
                    &relu[1],
                    scratch,
                );
            }
            for r in blocks(&w3) {
                let source = Plain::new(&*h2, &w3);
                rows(
                    &w3,
                    &source,
                    &last,
                    r,
                    &narrow,
                    (&mut *sums, 0),
                    &add,
                    scratch,
                );
            }
        });
        let pixels = y
            .chunks_exact_mut(s.channels)
            .zip(x.chunks_exact(s.channels));
        for ((y, x), sums) in pixels.zip(sums.chunks_exact(moved)) {
            y.copy_from_slice(x);
            let terms = sums.iter().zip(three.scale).zip(three.shift);
            for (y, ((u, scale), shift)) in y[s.split..].iter_mut().zip(terms) {
                *y += *u * *scale + *shift;
            }
        }
    };
    let outputs = y
        .par_chunks_mut((group * s.channels).max(1))
        .zip(hidden.last.par_chunks_mut((group * moved).max(1)));
    if keep {
        outputs
            .zip(hidden.first.par_chunks_mut(group * s.width))
            .zip(hidden.second.par_chunks_mut(group * s.width))
            .enumerate()
            .for_each(|(i, (((y, u), h1), h2))| work(i, y, h1, h2, u));
    } else {
        outputs.enumerate().for_each(|(i, (y, u))| {
            let len = u.len() / moved * s.width;
            let mut maps = vec![T::default(); 2 * len];
            let (h1, h2) = maps.split_at_mut(len);
            work(i, y, h1, h2, u);
        });
    }
    (y, hidden)
}
