//! Images drawn sub-pixel by sub-pixel on the CPU, in which nothing is computed twice: an image costs one
//! pass of the network (TABLE2 2.3). Before a row, the vertical stack takes up the row above it; for each
//! pixel and colour, every block adds one column of that colour's maps.

use anyhow::{Context, Result};
use candle_core::{Tensor, WithDType};
use rayon::prelude::*;

use super::network::{Block, Masked, Trunk};
use crate::nn::cpu::Real;
use crate::nn::cpu::conv::{Geometry, Kernel, Placing, rows};
use crate::nn::cpu::micro::{Finish, multiply};
use crate::nn::cpu::pack::{Packed, padded};
use crate::nn::cpu::patches::{Patches, Plain, Run};
use crate::nn::gate::gate_rows;

/// What the network is shown of a value x: `by x + plus`.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub by: f64,
    pub plus: f64,
}

/// From a number that is told to a sub-pixel to its features.
pub type Features<'a, T> = dyn Fn(f64, &mut [T]) + Send + Sync + 'a;

/// How a number that is told to a sub-pixel becomes features, and where they go.
pub struct ToldBy<'a, T> {
    pub features: Box<Features<'a, T>>,
    pub count: usize,
    /// What the head's first maps are multiplied with: weight `[features, maps]` and bias.
    pub head: Option<(&'a Tensor, &'a Tensor)>,
}

/// The maps of one colour: where they lie once all are sorted by colour.
#[derive(Clone, Copy, Debug)]
struct Group {
    first: usize,
    len: usize,
}

/// Maps sorted by colour.
struct Order {
    /// Which map of the network stands where.
    maps: Vec<usize>,
    groups: Vec<Group>,
}

impl Order {
    fn of(colour: &[usize], colours: usize) -> Self {
        let mut maps: Vec<usize> = (0..colour.len()).collect();
        maps.sort_by_key(|m| colour[*m]);
        let group = |c: usize| Group {
            first: colour.iter().filter(|o| **o < c).count(),
            len: colour.iter().filter(|o| **o == c).count(),
        };
        Self {
            groups: (0..colours).map(group).collect(),
            maps,
        }
    }
}

/// A 1x1 convolution, or one along a row, cut into the outputs of each colour.
struct ByColour<T> {
    weights: Vec<Packed<T>>,
    bias: Vec<T>,
}

struct Ready<T> {
    vertical: Kernel<T>,
    vertical_bias: Vec<T>,
    side: usize,
    inputs: usize,
    /// From a row of the vertical stack to both halves, sorted.
    down: Packed<T>,
    /// Biases of `down` and of the horizontal convolution.
    bias: Vec<T>,
    horizontal: Vec<Packed<T>>,
    out: Option<ByColour<T>>,
    skip: Option<ByColour<T>>,
    /// `[features, 2 width]`, columns sorted.
    told: Option<Vec<T>>,
    residual: bool,
}

/// A trunk whose weights lie as the sampler reads them.
pub struct Sampler<'a, T> {
    blocks: Vec<Ready<T>>,
    head: [ByColour<T>; 2],
    told: Option<ToldBy<'a, T>>,
    told_head: Option<(Vec<T>, Vec<T>)>,
    width: Order,
    both: Order,
    read: Order,
    inner: Order,
    outputs: usize,
    colours: usize,
    scale: Scale,
    vertical_residual: bool,
}

fn values<T: Real + WithDType>(t: &Tensor) -> Result<Vec<T>> {
    let dtype = T::DTYPE;
    Ok(t.detach().to_dtype(dtype)?.flatten_all()?.to_vec1::<T>()?)
}

fn bias<T: Real + WithDType>(conv: &Masked) -> Result<Vec<T>> {
    values(conv.bias.as_ref().context("BUG: a layer without a bias")?)
}

impl<T: Real + WithDType> ByColour<T> {
    /// Of a kernel `[1, 1, in, out]`, both sides sorted.
    fn new(conv: &Masked, from: &Order, to: &Order) -> Result<Self> {
        let (w, b) = (values::<T>(&conv.kernel()?)?, bias::<T>(conv)?);
        let (inputs, outputs) = (from.maps.len(), to.maps.len());
        let cut = |g: &Group| {
            let columns = &to.maps[g.first..g.first + g.len];
            Packed::of(inputs, g.len, |i, j| w[from.maps[i] * outputs + columns[j]])
        };
        Ok(Self {
            weights: to.groups.iter().map(cut).collect(),
            bias: to.maps.iter().map(|m| b[*m]).collect(),
        })
    }
}

impl<T: Real + WithDType> Ready<T> {
    fn new(block: &Block, width: &Order, both: &Order) -> Result<Self> {
        let kernel = block.vertical.kernel()?;
        let (seen, side, inputs, doubled) = kernel.dims4()?;
        let g = row_geometry(1, 1, side, inputs, doubled);
        let horizontal = values::<T>(&block.horizontal.kernel()?)?;
        // The image's channels are in their own order, the maps of a block are sorted.
        let from = |i: usize| if block.residual { width.maps[i] } else { i };
        let cut = |g: &Group| {
            let columns = &both.maps[g.first..g.first + g.len];
            Packed::of(seen * inputs, g.len, |i, j| {
                horizontal[(i / inputs * inputs + from(i % inputs)) * doubled + columns[j]]
            })
        };
        let down = values::<T>(&block.down.kernel()?)?;
        let (b, c) = (bias::<T>(&block.down)?, bias::<T>(&block.horizontal)?);
        let told = match &block.told {
            Some(told) => {
                let w = values::<T>(&told.weight)?;
                let row = |f: usize| both.maps.iter().map(move |m| f * doubled + m);
                let all = (0..w.len() / doubled).flat_map(row);
                Some(all.map(|i| w[i]).collect())
            }
            None => None,
        };
        Ok(Self {
            vertical: Kernel::forward(&g, &values::<T>(&kernel)?),
            vertical_bias: padded(&bias::<T>(&block.vertical)?),
            side,
            inputs,
            down: Packed::of(doubled, doubled, |i, j| down[i * doubled + both.maps[j]]),
            bias: both.maps.iter().map(|m| b[*m] + c[*m]).collect(),
            horizontal: both.groups.iter().map(cut).collect(),
            out: match &block.out {
                Some(out) => Some(ByColour::new(out, width, width)?),
                None => None,
            },
            skip: None,
            told,
            residual: block.residual,
        })
    }

    /// Columns to the left that a window sees.
    fn reach(&self) -> usize {
        self.side / 2
    }

    fn seen(&self) -> usize {
        self.side.div_ceil(2)
    }
}

/// The vertical convolution of one row of `n` images, from the rows that it sees.
fn row_geometry(n: usize, w: usize, side: usize, cin: usize, cout: usize) -> Geometry {
    let seen = side.div_ceil(2);
    Geometry {
        n,
        h: seen,
        w,
        cin,
        kh: seen,
        kw: side,
        cout,
        stride: 1,
        top: 0,
        left: side / 2,
        oh: 1,
        ow: w,
    }
}

impl<'a, T: Real + WithDType> Sampler<'a, T> {
    pub fn new(trunk: &Trunk, scale: Scale, told: Option<ToldBy<'a, T>>) -> Result<Self> {
        let (network, colours) = (&trunk.network, trunk.colours);
        let sorted = |maps: usize| Order::of(&network.colours.of(maps, colours), colours);
        let (width, read) = (sorted(network.width), sorted(network.read()));
        let (both, inner) = (
            Order::of(&network.halves(colours), colours),
            sorted(network.head),
        );
        let mut blocks = Vec::with_capacity(trunk.blocks.len());
        for block in &trunk.blocks {
            let mut ready = Ready::new(block, &width, &both)?;
            if let Some(skip) = &block.skip {
                ready.skip = Some(ByColour::new(skip, &width, &read)?);
            }
            blocks.push(ready);
        }
        let all = trunk.head[1].weight.dim(3)?;
        let outputs = all / colours;
        let given: Vec<usize> = (0..all).map(|i| i / outputs).collect();
        let given = Order::of(&given, colours);
        let told_head = match told.as_ref().and_then(|t| t.head) {
            Some((weight, bias)) => {
                let (w, b) = (values::<T>(weight)?, values::<T>(bias)?);
                let count = read.maps.len();
                let row = |f: usize| read.maps.iter().map(move |m| f * count + m);
                let w = (0..w.len() / count).flat_map(row).map(|i| w[i]).collect();
                Some((w, read.maps.iter().map(|m| b[*m]).collect()))
            }
            None => None,
        };
        Ok(Self {
            blocks,
            head: [
                ByColour::new(&trunk.head[0], &read, &inner)?,
                ByColour::new(&trunk.head[1], &inner, &given)?,
            ],
            told,
            told_head,
            width,
            both,
            read,
            inner,
            outputs,
            colours,
            scale,
            vertical_residual: network.vertical_residual,
        })
    }

    /// Turns numbers from 0 to 1, one for each sub-pixel of `[n, h, w, c]`, into values: `pick` gets what
    /// the network says of a sub-pixel and its number. How images are shared among threads changes no digit.
    pub fn fill(
        &self,
        [h, w]: [usize; 2],
        numbers: &mut [f64],
        pick: impl Fn(&[T], f64) -> f64 + Sync,
    ) {
        let image = h * w * self.colours;
        let n = numbers.len() / image;
        let each = n.div_ceil(rayon::current_num_threads()).max(1);
        numbers.par_chunks_mut(each * image).for_each(|numbers| {
            Drawing::new(self, numbers.len() / image, [h, w]).fill(numbers, &pick);
        });
    }
}

/// Images half drawn, and what of them is not computed again.
struct Drawing<'a, T> {
    s: &'a Sampler<'a, T>,
    n: usize,
    h: usize,
    w: usize,
    /// Of each block: the row at hand of its horizontal input, `[n, reach + w, inputs]`.
    row: Vec<Vec<T>>,
    /// Of each block: the rows of its vertical input that a window sees, `[n, seen, w, inputs]`.
    above: Vec<Vec<T>>,
    /// Of each block: what goes into its gate, `[n, w, 2 width]`.
    both: Vec<Vec<T>>,
    /// Of each block: what its gate gives, `[n, width]`: a colour reads those before it too.
    gated: Vec<Vec<T>>,
    /// `[n, read]`, `[n, head]`, `[n, outputs]`.
    read: Vec<T>,
    inner: Vec<T>,
    given: Vec<T>,
    features: Vec<T>,
    outs: Vec<usize>,
    offsets: Vec<usize>,
}

/// `y[outs[p]..] (+)= x[offsets[p]..] w`.
fn product<T: Real>(
    (x, offsets): (&[T], &[usize]),
    w: &Packed<T>,
    (y, outs): (&mut [T], &[usize]),
    finish: &Finish<T>,
) {
    let runs = [Run { start: 0, len: w.k }];
    let patches = Patches {
        x,
        offsets,
        runs: &runs,
    };
    multiply(&patches, w, y, outs, finish);
}

/// `first, first + step, ..` for each image.
fn places(to: &mut Vec<usize>, n: usize, first: usize, step: usize) {
    to.clear();
    to.extend((0..n).map(|i| first + i * step));
}

impl<'a, T: Real + WithDType> Drawing<'a, T> {
    fn new(s: &'a Sampler<'a, T>, n: usize, [h, w]: [usize; 2]) -> Self {
        let zeros = |len: usize| vec![T::default(); n * len];
        let row = |b: &Ready<T>| zeros((b.reach() + w) * b.inputs);
        let above = |b: &Ready<T>| zeros(b.seen() * w * b.inputs);
        let features = s.told.as_ref().map_or(0, |t| t.count);
        Self {
            n,
            h,
            w,
            row: s.blocks.iter().map(row).collect(),
            above: s.blocks.iter().map(above).collect(),
            both: s.blocks.iter().map(|b| b.bias.repeat(n * w)).collect(),
            gated: (s.blocks.iter())
                .map(|_| zeros(s.width.maps.len()))
                .collect(),
            read: zeros(s.read.maps.len()),
            inner: zeros(s.inner.maps.len()),
            given: zeros(s.outputs),
            features: zeros(features),
            outs: Vec::new(),
            offsets: Vec::new(),
            s,
        }
    }

    fn fill(mut self, numbers: &mut [f64], pick: &impl Fn(&[T], f64) -> f64) {
        let (image, c) = (self.h * self.w * self.s.colours, self.s.colours);
        for y in 0..self.h {
            if y > 0 {
                self.take_up_row();
            }
            for x in 0..self.w {
                for colour in 0..c {
                    let place = (y * self.w + x) * c + colour;
                    self.tell(numbers, (place, image));
                    self.step(x, colour);
                    let given = self.given.chunks_exact(self.s.outputs);
                    for (i, given) in given.enumerate() {
                        let number = &mut numbers[i * image + place];
                        *number = pick(given, *number);
                        let shown = self.s.scale.by * *number + self.s.scale.plus;
                        let reach = self.s.blocks[0].reach();
                        let at = (i * (reach + self.w) + reach + x) * c + colour;
                        self.row[0][at] = T::new(shown);
                    }
                }
            }
        }
    }

    /// The features of the numbers of one sub-pixel.
    fn tell(&mut self, numbers: &[f64], (place, image): (usize, usize)) {
        if let Some(told) = &self.s.told {
            for (i, features) in self.features.chunks_exact_mut(told.count).enumerate() {
                (told.features)(numbers[i * image + place], features);
            }
        }
    }

    /// The row that has just been drawn goes through the vertical stacks.
    fn take_up_row(&mut self) {
        let (s, n, w) = (self.s, self.n, self.w);
        let width = s.width.maps.len();
        let first = &s.blocks[0];
        let mut fresh: Vec<T> = (self.row[0].chunks_exact((first.reach() + w) * first.inputs))
            .flat_map(|row| &row[first.reach() * first.inputs..])
            .copied()
            .collect();
        for (i, block) in s.blocks.iter().enumerate() {
            let (len, all) = (w * block.inputs, block.seen() * w * block.inputs);
            for (above, fresh) in self.above[i]
                .chunks_exact_mut(all)
                .zip(fresh.chunks_exact(len))
            {
                above.copy_within(len.., 0);
                above[all - len..].copy_from_slice(fresh);
            }
            let g = row_geometry(n, w, block.side, block.inputs, 2 * width);
            let window = g.window();
            let mut a = vec![T::default(); n * w * 2 * width];
            let finish = Finish {
                shift: Some(&block.vertical_bias),
                ..Finish::plain()
            };
            T::scratch(|scratch| {
                let source = Plain::new(&self.above[i], &window);
                let placing = Placing::dense(&window, 2 * width);
                let (kernel, to) = (&block.vertical, (&mut a[..], 0));
                rows(
                    &window,
                    &source,
                    kernel,
                    0..n,
                    &placing,
                    to,
                    &finish,
                    scratch,
                );
            });
            for both in self.both[i].chunks_exact_mut(2 * width) {
                both.copy_from_slice(&block.bias);
            }
            places(&mut self.offsets, n * w, 0, 2 * width);
            let add = Finish {
                add: true,
                ..Finish::plain()
            };
            let to = (&mut self.both[i][..], &self.offsets[..]);
            product((&a, &self.offsets), &block.down, to, &add);
            if i + 1 < s.blocks.len() {
                let mut z = vec![T::default(); n * w * width];
                gate_rows(&a, &mut z, width);
                if s.vertical_residual && block.residual {
                    z.iter_mut().zip(&fresh).for_each(|(z, v)| *z += *v);
                }
                fresh = z;
            }
        }
    }

    /// What the network says of `colour` of the pixels in column x of the row at hand.
    fn step(&mut self, x: usize, colour: usize) {
        let (s, n, w) = (self.s, self.n, self.w);
        let (width, doubled) = (s.width.maps.len(), s.both.maps.len());
        let (own, pair) = (s.width.groups[colour], s.both.groups[colour]);
        let (of_read, read) = (s.read.groups[colour], s.read.maps.len());
        let add = Finish {
            add: true,
            ..Finish::plain()
        };
        let mut skipped = false;
        for (i, block) in s.blocks.iter().enumerate() {
            let columns = block.reach() + w;
            // The window ends at column x, which is `reach` further right in the row.
            places(
                &mut self.offsets,
                n,
                x * block.inputs,
                columns * block.inputs,
            );
            places(&mut self.outs, n, x * doubled + pair.first, w * doubled);
            let to = (&mut self.both[i][..], &self.outs[..]);
            let weights = &block.horizontal[colour];
            product((&self.row[i], &self.offsets), weights, to, &add);
            if let (Some(told), Some(by)) = (&block.told, &s.told) {
                for (features, out) in self.features.chunks_exact(by.count).zip(&self.outs) {
                    let both = &mut self.both[i][*out..*out + pair.len];
                    for (f, row) in features.iter().zip(told.chunks_exact(doubled)) {
                        let row = &row[pair.first..pair.first + pair.len];
                        both.iter_mut().zip(row).for_each(|(b, r)| *b += *f * *r);
                    }
                }
            }
            for (image, out) in self.outs.iter().enumerate() {
                let both = &self.both[i][*out..*out + pair.len];
                let at = image * width + own.first;
                gate_rows(both, &mut self.gated[i][at..at + own.len], own.len);
            }
            places(&mut self.offsets, n, 0, width);
            if let Some(skip) = &block.skip {
                places(&mut self.outs, n, of_read.first, read);
                if !skipped {
                    skipped = true;
                    self.fill_read(colour);
                }
                let to = (&mut self.read[..], &self.outs[..]);
                product(
                    (&self.gated[i], &self.offsets),
                    &skip.weights[colour],
                    to,
                    &add,
                );
            }
            if let Some(out) = &block.out {
                self.put_out(i, out, x, colour);
            }
        }
        if !skipped {
            places(&mut self.outs, n, of_read.first, read);
        }
        for (i, out) in self.outs.iter().enumerate() {
            let maps = &mut self.read[*out..*out + of_read.len];
            for v in maps.iter_mut() {
                *v = if *v > T::default() { *v } else { T::default() };
            }
            if let (Some((weight, bias)), Some(by)) = (&s.told_head, &s.told) {
                let features = &self.features[i * by.count..][..by.count];
                for (m, v) in maps.iter_mut().enumerate() {
                    let at = of_read.first + m;
                    let mut e = bias[at];
                    for (f, row) in features.iter().zip(weight.chunks_exact(read)) {
                        e += *f * row[at];
                    }
                    *v *= e;
                }
            }
        }
        self.head(colour);
    }

    /// The biases of all skips.
    fn fill_read(&mut self, colour: usize) {
        let (group, read) = (self.s.read.groups[colour], self.s.read.maps.len());
        let skips = self.s.blocks.iter().filter_map(|b| b.skip.as_ref());
        let mut bias = vec![T::default(); group.len];
        for skip in skips {
            let own = &skip.bias[group.first..group.first + group.len];
            bias.iter_mut().zip(own).for_each(|(b, v)| *b += *v);
        }
        for row in self.read.chunks_exact_mut(read) {
            row[group.first..group.first + group.len].copy_from_slice(&bias);
        }
    }

    /// The block's output goes into the next block's row, or, of the last one, to the head.
    fn put_out(&mut self, i: usize, out: &ByColour<T>, x: usize, colour: usize) {
        let (s, n, w) = (self.s, self.n, self.w);
        let (own, width) = (s.width.groups[colour], s.width.maps.len());
        let (before, after) = self.row.split_at_mut(i + 1);
        let last = i + 1 == s.blocks.len();
        let (to, first, step) = match last {
            true => (&mut self.read, own.first, width),
            false => {
                let reach = s.blocks[i + 1].reach();
                let first = (reach + x) * width + own.first;
                (&mut after[0], first, (reach + w) * width)
            }
        };
        let reach = s.blocks[i].reach();
        let bias = &out.bias[own.first..own.first + own.len];
        for image in 0..n {
            let to = &mut to[first + image * step..][..own.len];
            to.copy_from_slice(bias);
            if s.blocks[i].residual {
                let from = (image * (reach + w) + reach + x) * width + own.first;
                let from = &before[i][from..from + own.len];
                to.iter_mut().zip(from).for_each(|(t, f)| *t += *f);
            }
        }
        places(&mut self.outs, n, first, step);
        let add = Finish {
            add: true,
            ..Finish::plain()
        };
        let to = (&mut to[..], &self.outs[..]);
        product(
            (&self.gated[i], &self.offsets),
            &out.weights[colour],
            to,
            &add,
        );
    }

    fn head(&mut self, colour: usize) {
        let (s, n) = (self.s, self.n);
        let (group, inner) = (s.inner.groups[colour], s.inner.maps.len());
        places(&mut self.offsets, n, 0, s.read.maps.len());
        places(&mut self.outs, n, group.first, inner);
        let [first, second] = &s.head;
        let shift = padded(&first.bias[group.first..group.first + group.len]);
        let finish = Finish {
            shift: Some(&shift),
            slope: T::default(),
            ..Finish::plain()
        };
        let to = (&mut self.inner[..], &self.outs[..]);
        product(
            (&self.read, &self.offsets),
            &first.weights[colour],
            to,
            &finish,
        );
        places(&mut self.offsets, n, 0, inner);
        places(&mut self.outs, n, 0, s.outputs);
        let shift = padded(&second.bias[colour * s.outputs..(colour + 1) * s.outputs]);
        let finish = Finish {
            shift: Some(&shift),
            ..Finish::plain()
        };
        let to = (&mut self.given[..], &self.outs[..]);
        product(
            (&self.inner, &self.offsets),
            &second.weights[colour],
            to,
            &finish,
        );
    }
}
