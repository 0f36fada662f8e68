//! The inner loops against sums written out, at sizes that fill no tile and no vector.

use super::conv::{Geometry, forward, input_gradient, kernel_gradient};
use super::*;
use crate::nn::noise::Noise;

fn draw<T: Real>(purpose: &str, n: usize) -> Vec<T> {
    let normals = Noise::new(3, purpose).at(0).normals(n);
    normals.into_iter().map(|v| T::new(v.into())).collect()
}

/// Calls `f(position of y, of x, of w)` for every product of a convolution.
fn products(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let outputs = g.n * g.oh * g.ow;
    for p in 0..outputs {
        let (image, oy, ox) = (p / g.ow / g.oh, p / g.ow % g.oh, p % g.ow);
        for tap in 0..g.kh * g.kw {
            let (y, x) = (oy * g.stride + tap / g.kw, ox * g.stride + tap % g.kw);
            if y < g.top || x < g.left || y - g.top >= g.h || x - g.left >= g.w {
                continue;
            }
            let pixel = (image * g.h + y - g.top) * g.w + x - g.left;
            for i in 0..g.cin {
                for o in 0..g.cout {
                    f(
                        p * g.cout + o,
                        pixel * g.cin + i,
                        (tap * g.cin + i) * g.cout + o,
                    );
                }
            }
        }
    }
}

fn close<T: Real>(what: &str, g: &Geometry, ours: &[T], exact: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), exact.len());
    // Rounding grows with the root of the number of terms.
    let terms = g.kh * g.kw * g.cin.max(g.cout);
    let tolerance = tolerance * (terms as f64).sqrt();
    for (a, b) in ours.iter().zip(exact) {
        assert!(
            (a.f64() - b).abs() <= tolerance * (1.0 + b.abs()),
            "{what} {g:?}: {} is not {b}",
            a.f64()
        );
    }
}

fn check<T: Real>(g: &Geometry, tolerance: f64) {
    let x: Vec<T> = draw("x", g.n * g.h * g.w * g.cin);
    let dy: Vec<T> = draw("dy", g.n * g.oh * g.ow * g.cout);
    let w: Vec<T> = draw("w", g.kh * g.kw * g.cin * g.cout);
    let (b_out, b_in): (Vec<T>, Vec<T>) = (draw("b", g.cout), draw("b", g.cin));
    let bias = |b: &[T], len: usize| (0..len).map(|i| b[i % b.len()].f64()).collect::<Vec<_>>();
    let (mut y, mut dx) = (bias(&b_out, dy.len()), bias(&b_in, x.len()));
    let mut dw = vec![0.0; w.len()];
    products(g, |iy, ix, iw| {
        y[iy] += x[ix].f64() * w[iw].f64();
        dx[ix] += dy[iy].f64() * w[iw].f64();
        dw[iw] += x[ix].f64() * dy[iy].f64();
    });
    // Whatever was there before must not matter.
    let blank = |n: usize| vec![T::new(f64::NAN); n];
    let mut ours = blank(dy.len());
    forward(g, &x, &w, Some(&b_out), &mut ours);
    close("forward", g, &ours, &y, tolerance);
    let mut ours = blank(x.len());
    input_gradient(g, &dy, &w, Some(&b_in), &mut ours);
    close("input gradient", g, &ours, &dx, tolerance);
    let mut ours = blank(w.len());
    kernel_gradient(g, &x, &dy, &mut ours);
    close("kernel gradient", g, &ours, &dw, tolerance * 30.0);
}

/// A convolution whose output size follows from the rest.
fn sized(n: usize, [h, w]: [usize; 2], [cin, cout]: [usize; 2], k: [usize; 4]) -> Geometry {
    let [kh, kw, stride, pad] = k;
    Geometry {
        n,
        h,
        w,
        cin,
        kh,
        kw,
        cout,
        stride,
        top: pad,
        left: pad,
        oh: (h + 2 * pad - kh) / stride + 1,
        ow: (w + 2 * pad - kw) / stride + 1,
    }
}

#[test]
fn convolutions_equal_their_definition_at_odd_sizes() {
    let mut all = vec![];
    for k in [
        [1, 1, 1, 0],
        [3, 3, 1, 1],
        [3, 3, 1, 0],
        [3, 3, 1, 2],
        [3, 3, 2, 1],
        [3, 3, 2, 0],
        [2, 2, 3, 0],
        [1, 7, 1, 0],
        [5, 5, 1, 2],
        [4, 4, 2, 1],
        [3, 3, 3, 2],
    ] {
        for channels in [[1, 1], [2, 37], [19, 2], [35, 33], [7, 50]] {
            let side = if k[1] == 7 { [5, 9] } else { [5, 7] };
            all.push(sized(3, side, channels, k));
        }
    }
    // Several blocks, blocks across images, rows longer than a block.
    all.push(sized(2, [40, 33], [6, 3], [3, 3, 1, 1]));
    all.push(sized(40, [3, 3], [5, 17], [3, 3, 1, 1]));
    all.push(sized(1, [2, 400], [3, 4], [1, 1, 1, 0]));
    // Few outputs of long patches, and the other way round.
    for few in 1..9 {
        all.push(sized(2, [6, 5], [70, few], [3, 3, 1, 1]));
        all.push(sized(2, [6, 5], [few, 70], [3, 3, 1, 1]));
    }
    for g in &all {
        check::<f64>(g, 1e-13);
        check::<f32>(g, 1e-5);
    }
}

#[test]
fn sizes_of_zero_and_unequal_padding_are_fine() {
    check::<f64>(
        &Geometry {
            left: 0,
            ow: 6,
            ..sized(2, [6, 6], [3, 4], [3, 3, 1, 1])
        },
        1e-12,
    );
    check::<f64>(
        &Geometry {
            top: 2,
            left: 0,
            oh: 2,
            ow: 2,
            ..sized(1, [2, 2], [1, 1], [3, 3, 1, 1])
        },
        1e-12,
    );
}
