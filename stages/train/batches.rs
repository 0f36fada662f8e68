//! Work over many images in batches, outside training: reported, and taken up where an interrupted
//! job left it.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use contract::{Event, Interrupted, Job, Progress};

use crate::nn::tensor_file::write_bytes;

/// Calls `work` for each batch of `0..n`, in order, with the batch's number and images, and
/// collects the bytes it returns: `size` for each image.
pub fn in_batches(
    job: &mut Job,
    n: usize,
    batch: usize,
    size: usize,
    mut work: impl FnMut(u64, Range<usize>) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    ensure!(n > 0 && batch > 0, "{n} images in batches of {batch}");
    let dir = job.spec().checkpoint.clone();
    let path = dir.join("done.bin");
    let mut done = Vec::with_capacity(n * size);
    if path.exists() {
        done = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
        ensure!(
            done.len() <= n * size && done.len() % (batch * size) == 0,
            "{}: not a checkpoint of this job",
            path.display()
        );
        job.say(&Event::Resumed {
            at: (done.len() / size) as u64,
            unit: "image".into(),
        });
    }
    while done.len() < n * size {
        let first = done.len() / size;
        if job.checkpoint_due() {
            std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
            write_bytes(&path, &done)?;
            job.checkpointed(first as u64);
            if job.should_stop() {
                return Err(Interrupted.into());
            }
        }
        let images = first..n.min(first + batch);
        let bytes = work((first / batch) as u64, images.clone())?;
        ensure!(
            bytes.len() == images.len() * size,
            "BUG: {} bytes from {} images",
            bytes.len(),
            images.len()
        );
        done.extend(bytes);
        job.progress(Progress {
            done: images.end as u64,
            total: n as u64,
            unit: "image".into(),
            ..Default::default()
        });
    }
    Ok(done)
}

/// As [`in_batches`], one number for each image.
pub fn numbers_in_batches(
    job: &mut Job,
    n: usize,
    batch: usize,
    mut work: impl FnMut(u64, Range<usize>) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let bytes = in_batches(job, n, batch, size_of::<f64>(), |i, images| {
        let numbers = work(i, images)?;
        Ok(numbers.into_iter().flat_map(f64::to_le_bytes).collect())
    })?;
    let (numbers, _) = bytes.as_chunks();
    Ok(numbers.iter().map(|b| f64::from_le_bytes(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::testing::Bench;
    use contract::{Input, Output, Stage};

    struct Toy;
    impl Stage for Toy {
        const KIND: &'static str = "toy";
        const ABOUT: &'static str = "Nothing.";
        const INPUTS: &'static [Input] = &[];
        const OUTPUTS: &'static [Output] = &[];
        type Params = u64;
        fn run(_: &u64, _: &mut Job) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_interrupted_job_goes_on_where_it_was() -> Result<()> {
        let bench = Bench::new::<Toy>(&[]);
        let mut seen = Vec::new();
        let mut stop_after = Some(1);
        let done = loop {
            let (mut job, _) = bench.job(stop_after);
            let result = in_batches(&mut job, 7, 2, 1, |i, images| {
                seen.push(i);
                Ok(images.map(|k| k as u8).collect())
            });
            match result {
                Ok(done) => break done,
                Err(e) => assert!(e.is::<Interrupted>()),
            }
            stop_after = None;
        };
        assert_eq!(done, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(seen, [0, 1, 2, 3]);
        Ok(())
    }
}
