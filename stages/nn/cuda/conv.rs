//! Convolutions on a device, NHWC by HWIO: a 1x1 convolution is a product as it stands, others are
//! the library's (`Machine::convolve`) or, where it has none, products with gathered patches.

use candle_core::Result;

use super::channel::{Size, add_bias};
use super::machine::{Arg, At, Geometry, Machine, Pass, Product, Scalar, count, counts};
use super::source::Source;

pub static PATCHES: Source = Source {
    name: "patches",
    text: include_str!("../../kernels/patches.cu"),
};

/// Values of gathered patches in memory at once.
const PATCH_VALUES: usize = 1 << 26;

impl Geometry {
    fn arguments(&self) -> Result<[Arg; 10]> {
        counts([
            self.h,
            self.w,
            self.cin,
            self.kh,
            self.kw,
            self.stride,
            self.top,
            self.left,
            self.oh,
            self.ow,
        ])
    }

    pub(super) fn patch_values(&self) -> usize {
        self.kh * self.kw * self.cin
    }

    fn is_product(&self) -> bool {
        (self.kh, self.kw, self.stride) == (1, 1, 1) && (self.oh, self.ow) == (self.h, self.w)
    }

    pub(super) fn input(&self) -> Size {
        Size {
            rows: self.n * self.h * self.w,
            channels: self.cin,
        }
    }

    fn output(&self) -> Size {
        Size {
            rows: self.n * self.oh * self.ow,
            channels: self.cout,
        }
    }

    /// The same convolution on runs of images whose patches fit into memory: the run and its first
    /// image.
    fn runs(&self) -> impl Iterator<Item = (Self, usize)> + use<> {
        let per_image = self.oh * self.ow * self.patch_values();
        let (whole, step) = (*self, (PATCH_VALUES / per_image).max(1));
        (0..self.n).step_by(step).map(move |first| {
            let n = step.min(whole.n - first);
            (Self { n, ..whole }, first)
        })
    }
}

const PLAIN: Product = Product {
    m: 0,
    n: 0,
    k: 0,
    a_transposed: false,
    b_transposed: false,
    add: false,
};

/// `y = x * w`, plus the bias, if any.
pub fn forward<M: Machine, T: Scalar>(
    m: &M,
    g: &Geometry,
    x: At<T>,
    w: At<T>,
    bias: Option<At<T>>,
    y: At<T>,
) -> Result<()> {
    let (n, k) = (g.cout, g.patch_values());
    if g.is_product() {
        let size = Product {
            m: g.output().rows,
            n,
            k,
            ..PLAIN
        };
        m.product(size, x, w, y)?;
    } else if !m.convolve(Pass::Forward, g, x, w, y)? {
        for (run, first) in g.runs() {
            let rows = run.output().rows;
            let patches = m.alloc::<T>(rows * k)?;
            gather(m, &run, x.add(first * g.h * g.w * g.cin), m.at(&patches))?;
            let size = Product {
                m: rows,
                n,
                k,
                ..PLAIN
            };
            m.product(size, m.at(&patches), w, y.add(first * g.oh * g.ow * n))?;
        }
    }
    match bias {
        Some(bias) => add_bias(m, g.output(), bias, y),
        None => Ok(()),
    }
}

/// `dx` from `dy`; as the forward pass of the transposed convolution it takes a bias.
pub fn input_gradient<M: Machine, T: Scalar>(
    m: &M,
    g: &Geometry,
    dy: At<T>,
    w: At<T>,
    bias: Option<At<T>>,
    dx: At<T>,
) -> Result<()> {
    let (n, k) = (g.patch_values(), g.cout);
    let by_transpose = |rows: usize| Product {
        m: rows,
        n,
        k,
        b_transposed: true,
        ..PLAIN
    };
    if g.is_product() {
        m.product(by_transpose(g.output().rows), dy, w, dx)?;
    } else if !m.convolve(Pass::Input, g, dy, w, dx)? {
        for (run, first) in g.runs() {
            let rows = run.output().rows;
            let patches = m.alloc::<T>(rows * n)?;
            let dy = dy.add(first * g.oh * g.ow * k);
            m.product(by_transpose(rows), dy, w, m.at(&patches))?;
            scatter(
                m,
                &run,
                m.at(&patches),
                bias,
                dx.add(first * g.h * g.w * g.cin),
            )?;
        }
        return Ok(());
    }
    match bias {
        Some(bias) => add_bias(m, g.input(), bias, dx),
        None => Ok(()),
    }
}

/// `dw` from `x` and `dy`.
pub fn kernel_gradient<M: Machine, T: Scalar>(
    m: &M,
    g: &Geometry,
    x: At<T>,
    dy: At<T>,
    dw: At<T>,
) -> Result<()> {
    let from_patches = |rows: usize, add: bool| Product {
        m: g.patch_values(),
        n: g.cout,
        k: rows,
        a_transposed: true,
        add,
        ..PLAIN
    };
    if g.is_product() {
        return m.product(from_patches(g.output().rows, false), x, dy, dw);
    }
    if m.convolve(Pass::Kernel, g, x, dy, dw)? {
        return Ok(());
    }
    for (run, first) in g.runs() {
        let rows = run.output().rows;
        let patches = m.alloc::<T>(rows * g.patch_values())?;
        gather(m, &run, x.add(first * g.h * g.w * g.cin), m.at(&patches))?;
        let dy = dy.add(first * g.oh * g.ow * g.cout);
        m.product(from_patches(rows, first > 0), m.at(&patches), dy, dw)?;
    }
    Ok(())
}

fn gather<M: Machine, T: Scalar>(m: &M, g: &Geometry, x: At<T>, patches: At<T>) -> Result<()> {
    count(g.input().len())?;
    let args = [&g.arguments()?[..], &[x.arg(), patches.arg()]].concat();
    m.each::<T>(
        &PATCHES,
        "gather",
        g.output().rows * g.patch_values(),
        &args,
    )
}

fn scatter<M: Machine, T: Scalar>(
    m: &M,
    g: &Geometry,
    patches: At<T>,
    bias: Option<At<T>>,
    dx: At<T>,
) -> Result<()> {
    count(g.output().rows * g.patch_values())?;
    let bias = bias.unwrap_or(At::NULL).arg();
    let args = [&g.arguments()?[..], &[patches.arg(), bias, dx.arg()]].concat();
    m.each::<T>(&PATCHES, "scatter", g.input().len(), &args)
}
