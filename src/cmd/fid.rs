//! `repro fid`: the distance between two sets of images, outside any pipeline.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use contract::Event;
use serde_json::Value;
use stages::tools::fid::{Request, fid};

use super::Ended;
use crate::base::plain;
use crate::base::read;
use crate::base::say::{self, say};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of pictures, .npy or .npz of uint8 images, .npz statistics, or an artifact
    real: PathBuf,
    /// The same, of the images to be judged
    fake: PathBuf,
    /// Weights (.pth, .safetensors) instead of the official Inception's; no FID then
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// How images reach the network's size: tf-legacy, pytorch-fid or clean
    #[arg(long, default_value = "tf-legacy")]
    resize: String,
    /// Images at a time
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    on: String,
    /// Where the official weights lie
    #[arg(long, value_name = "DIR", env = "REPRO_DATA")]
    data: Option<PathBuf>,
    /// Where they are downloaded to otherwise
    #[arg(long, value_name = "DIR", default_value = "artifacts/downloads")]
    downloads: PathBuf,
    /// Write the statistics of REAL here (.npz with mu, sigma and how they were made)
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Also the kernel distance (KID): 100 subsets of 1000 images, or of SIZE
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "1000")]
    kid: Option<usize>,
    /// Also precision and recall, with balls that reach to the third neighbour, or to the K-th
    #[arg(long, value_name = "K", num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    precision_recall: Option<usize>,
    /// Formats of pictures that are not to count, by ending; one that is not read is an error otherwise
    #[arg(long, value_name = "tiff,…", value_delimiter = ',')]
    leave_out: Vec<String>,
    /// Print the metric with its protocol
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<Ended> {
    for path in [Some(&args.real), Some(&args.fake), args.weights.as_ref()] {
        let Some(path) = path else { continue };
        // What is not there is told with more words by whoever opens it. A pipe would be waited for.
        if let Ok(meta) = std::fs::metadata(path).as_ref().map(|m| m.file_type())
            && !meta.is_dir()
        {
            read::regular(meta).with_context(|| format!("cannot read {}", path.display()))?;
        }
    }
    let request = Request {
        real: args.real.clone(),
        fake: args.fake.clone(),
        weights: args.weights.clone(),
        resize: args.resize.clone(),
        batch: args.batch,
        device: args.on.clone(),
        data: args.data.clone(),
        downloads: args.downloads.clone(),
        save: args.save.clone(),
        kid: args.kid,
        neighbours: args.precision_recall,
        leave_out: args.leave_out.clone(),
    };
    let metric = fid(&request, Box::new(talk), Arc::<AtomicBool>::default())?;
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&metric)?),
        false => std::iter::once(&metric)
            .chain(metric["others"].as_array().into_iter().flatten())
            .map(line)
            .collect(),
    };
    super::print(&text)?;
    Ok(Ended::Done)
}

fn line(metric: &Value) -> String {
    let label = metric["label"].as_str().unwrap_or_default();
    // JSON has it as 0.0.
    let value = match metric["value"].as_f64() {
        Some(0.0) => "0".into(),
        _ => metric["value"].to_string(),
    };
    match metric["std_error"].as_f64() {
        Some(error) => format!("{label}: {value} ± {error:.1e}\n"),
        None => format!("{label}: {value}\n"),
    }
}

/// An event as a person reads it, on standard error.
fn talk(event: &Event) {
    match event {
        Event::Note { text } => say!("{text}"),
        Event::Progress(p) if std::io::stderr().is_terminal() => {
            let end = if p.done == p.total { '\n' } else { '\r' };
            let bar = format!("{}/{} {}", p.done, p.total, p.unit);
            say::part(&plain::line(&bar));
            say::end(end);
        }
        _ => {}
    }
}
