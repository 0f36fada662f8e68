//! Pictures, wherever they lie, to the moments of their features.

use std::path::Path;

use anyhow::{Context, Result};
use contract::{Interrupted, Job, Progress};
use half::bf16;

use super::sets::Pictures;
use crate::data::gaussian::Gaussian;
use crate::data::vectors::Vectors;
use crate::metrics::moments::Moments;
use crate::metrics::resize::Resize;
use crate::models::extractor::Extractor;

/// What is known of one side: its moments, and its vectors where they were asked for and could be
/// computed.
pub struct Side {
    pub gaussian: Gaussian,
    pub vectors: Option<Vectors>,
}

/// How pictures become features.
pub struct Way<'a> {
    pub network: &'a Extractor,
    pub resize: Resize,
    pub batch: usize,
    pub keep_vectors: bool,
}

/// The features of all pictures, which lie at `path`.
pub fn measure(pictures: &Pictures, path: &Path, way: &Way, job: &mut Job) -> Result<Side> {
    let &Way {
        network,
        resize,
        batch,
        keep_vectors,
    } = way;
    let n = pictures.len();
    let ranges: Vec<_> = (0..n)
        .step_by(batch)
        .map(|i| i..(i + batch).min(n))
        .collect();
    let read = |i: usize| {
        ranges
            .get(i)
            .map(|r| pictures.pixels(r.clone(), resize, network.side()))
    };
    let mut moments: Option<Moments> = None;
    let (mut values, mut rounded) = (vec![], vec![]);
    let mut next = read(0);
    for (i, range) in ranges.iter().enumerate() {
        if job.should_stop() {
            return Err(Interrupted.into());
        }
        let pixels = next.take().context("BUG: a batch was not read")??;
        // The next batch is decoded while the network looks at this one.
        let (features, ahead) = rayon::join(|| network.of_pixels(pixels, resize), || read(i + 1));
        next = ahead;
        let features = features?;
        let d = features.len() / range.len();
        let moments = moments.get_or_insert_with(|| Moments::new(d));
        moments
            .push(&features)
            .with_context(|| path.display().to_string())?;
        rounded.extend(features.iter().copied().map(bf16::from_f32));
        if keep_vectors {
            values.extend(features);
        }
        job.progress(Progress {
            done: range.end as u64,
            total: n as u64,
            unit: "image".into(),
            ..Progress::default()
        });
    }
    let moments = moments.with_context(|| format!("{} holds no images", path.display()))?;
    let (mean, cov) = moments
        .finish()
        .with_context(|| path.display().to_string())?;
    if moments.n() <= mean.len() {
        job.note(format!(
            "{}: {} images for {} features; a distance from so few is biased upwards",
            path.display(),
            moments.n(),
            mean.len()
        ));
    }
    let (source, protocol) = (Some(path.display().to_string()), network.protocol(resize));
    let vectors = keep_vectors.then(|| Vectors {
        d: mean.len(),
        values,
        source: source.clone(),
        protocol: protocol.clone(),
    });
    let gaussian = Gaussian {
        n: moments.n(),
        mean,
        cov,
        vectors: rounded,
        source,
        protocol,
    };
    Ok(Side { gaussian, vectors })
}
