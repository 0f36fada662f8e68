//! Where the values under a sliding window lie. Patches are never unfolded: a patch is a few runs
//! of consecutive values, in the image itself or in a copy with zeros around it.

use std::ops::Range;

use super::Real;

/// A window over images `[n, h, w, c]`: output (y, x) sees the `kh` by `kw` pixels from
/// `(stride y + top, stride x + left)` on. Outside the image is padding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: usize,
    pub top: isize,
    pub left: isize,
    pub oh: usize,
    pub ow: usize,
}

impl Window {
    /// Values of a patch.
    pub fn patch(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// Output rows of all images.
    pub fn rows(&self) -> usize {
        self.n * self.oh
    }

    /// Whether no output sees padding.
    fn inside(&self) -> bool {
        let end = |o: usize, k: usize, origin: isize| {
            origin + ((o.max(1) - 1) * self.stride + k) as isize
        };
        (self.top >= 0 && self.left >= 0)
            && end(self.oh, self.kh, self.top) <= self.h as isize
            && end(self.ow, self.kw, self.left) <= self.w as isize
    }

    /// Output rows a task takes at once, so that its inputs and outputs stay in the cache.
    pub fn block(&self) -> usize {
        POSITIONS.div_ceil(self.ow.max(1)).max(1)
    }
}

/// A multiple of both tile heights of the inner loops.
const POSITIONS: usize = 192;

/// Consecutive values of a patch, counted from the patch's first.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub start: usize,
    pub len: usize,
}

/// The patches of some positions: patch p is `x[offsets[p] + run]` for each run.
pub struct Patches<'a, T> {
    pub x: &'a [T],
    pub offsets: &'a [usize],
    pub runs: &'a [Run],
}

impl<T> Patches<'_, T> {
    /// Panics unless all patches lie inside the slice and are k long.
    pub fn check(&self, k: usize) {
        let end = self.runs.iter().map(|r| r.start + r.len).max().unwrap_or(0);
        assert_eq!(self.runs.iter().map(|r| r.len).sum::<usize>(), k);
        assert!(self.offsets.iter().all(|o| o + end <= self.x.len()));
    }
}

/// Memory of [`load`], used again from block to block.
#[derive(Default)]
pub struct Buffers<T> {
    x: Vec<T>,
    offsets: Vec<usize>,
    runs: Vec<Run>,
}

/// Images to be read through a window.
pub trait Source<T> {
    /// The values themselves, if they can be read where they are.
    fn plain(&self) -> Option<&[T]>;
    /// Copies pixels `columns` of a row; `to` has `c` values for each.
    fn copy(&self, image: usize, row: usize, columns: Range<usize>, to: &mut [T]);
    /// Fills pixels that lie outside.
    fn outside(&self, to: &mut [T]);
}

/// Images as they are, with zeros outside.
pub struct Plain<'a, T> {
    pub x: &'a [T],
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl<'a, T> Plain<'a, T> {
    pub fn new(x: &'a [T], window: &Window) -> Self {
        Self {
            x,
            h: window.h,
            w: window.w,
            c: window.c,
        }
    }

    /// Some pixels of a row.
    pub fn pixels(&self, image: usize, row: usize, columns: Range<usize>) -> &'a [T] {
        let start = (image * self.h + row) * self.w;
        &self.x[(start + columns.start) * self.c..(start + columns.end) * self.c]
    }
}

impl<T: Real> Source<T> for Plain<'_, T> {
    fn plain(&self) -> Option<&[T]> {
        Some(self.x)
    }

    fn copy(&self, image: usize, row: usize, columns: Range<usize>, to: &mut [T]) {
        to.copy_from_slice(self.pixels(image, row, columns));
    }

    fn outside(&self, to: &mut [T]) {
        to.fill(T::default());
    }
}

/// The patches of all positions of some output rows (counted through all images).
pub fn load<'a, T: Real>(
    window: &Window,
    source: &'a impl Source<T>,
    rows: Range<usize>,
    buffers: &'a mut Buffers<T>,
) -> Patches<'a, T> {
    let g = window;
    buffers.offsets.clear();
    buffers.runs.clear();
    if g.patch() == 0 {
        // No tap reaches these pixels (a stride longer than the kernel): nothing is read.
        buffers.offsets.resize(rows.len() * g.ow, 0);
        return Patches {
            x: &buffers.x,
            offsets: &buffers.offsets,
            runs: &buffers.runs,
        };
    }
    match source.plain() {
        Some(x) if g.inside() => {
            for row in rows {
                let (image, y) = (row / g.oh, row % g.oh);
                let y = y * g.stride + g.top as usize;
                let first = ((image * g.h + y) * g.w + g.left as usize) * g.c;
                let positions = (0..g.ow).map(|x| first + x * g.stride * g.c);
                buffers.offsets.extend(positions);
            }
            set_runs(g, g.w, &mut buffers.runs);
            Patches {
                x,
                offsets: &buffers.offsets,
                runs: &buffers.runs,
            }
        }
        _ => {
            let width = (g.ow.max(1) - 1) * g.stride + g.kw;
            copy_padded(g, source, rows, width, buffers);
            set_runs(g, width, &mut buffers.runs);
            Patches {
                x: &buffers.x,
                offsets: &buffers.offsets,
                runs: &buffers.runs,
            }
        }
    }
}

/// The runs of a patch in rows of `width` pixels: one, where its rows follow each other.
fn set_runs(g: &Window, width: usize, runs: &mut Vec<Run>) {
    if g.patch() == 0 {
        return;
    }
    match width == g.kw {
        true => runs.push(Run {
            start: 0,
            len: g.patch(),
        }),
        false => runs.extend((0..g.kh).map(|dy| Run {
            start: dy * width * g.c,
            len: g.kw * g.c,
        })),
    }
}

/// Copies the part of each image that the rows see, `width` pixels wide.
fn copy_padded<T: Real>(
    g: &Window,
    source: &impl Source<T>,
    rows: Range<usize>,
    width: usize,
    buffers: &mut Buffers<T>,
) {
    let (x, offsets) = (&mut buffers.x, &mut buffers.offsets);
    // Columns of the image that lie in the window's reach, counted from its left end.
    let from = (-g.left).clamp(0, width as isize) as usize;
    let to = (g.w as isize - g.left).clamp(from as isize, width as isize) as usize;
    let mut used = 0;
    let mut row = rows.start;
    while row < rows.end {
        let (image, y) = (row / g.oh, row % g.oh);
        let count = (g.oh - y).min(rows.end - row);
        let height = (count - 1) * g.stride + g.kh;
        let end = used + height * width * g.c;
        if x.len() < end {
            x.resize(end, T::default());
        }
        let part = &mut x[used..end];
        for (i, line) in part.chunks_exact_mut((width * g.c).max(1)).enumerate() {
            let y = (y * g.stride + i) as isize + g.top;
            if y < 0 || y >= g.h as isize || from == to {
                source.outside(line);
                continue;
            }
            source.outside(&mut line[..from * g.c]);
            let columns = (from as isize + g.left) as usize..(to as isize + g.left) as usize;
            source.copy(image, y as usize, columns, &mut line[from * g.c..to * g.c]);
            source.outside(&mut line[to * g.c..]);
        }
        for i in 0..count {
            let first = used + i * g.stride * width * g.c;
            offsets.extend((0..g.ow).map(|x| first + x * g.stride * g.c));
        }
        (used, row) = (end, row + count);
    }
}
