//! What the kinds of stage compute with and read on this machine.

use std::path::Path;

use serde::Serialize;
use stages::tools::device::{self, Cuda};
use stages::tools::found::{self, Official};

use crate::base::human;

#[derive(Serialize)]
pub struct Kinds {
    cuda: Cuda,
    data_sets: Vec<Official>,
    weights: Vec<Official>,
}

impl Kinds {
    /// Asks the driver, and looks for official files in the folders.
    pub fn look(folders: &[&Path]) -> Self {
        Self {
            cuda: device::cuda(),
            data_sets: found::data_sets(folders),
            weights: found::weights(folders),
        }
    }

    pub fn problems(&self, wants_gpu: bool) -> Vec<String> {
        let driver = self.cuda.trouble.iter().filter(|_| wants_gpu);
        let gpus = self.cuda.gpus.iter().filter_map(|gpu| gpu.trouble.as_ref());
        driver.chain(gpus).cloned().collect()
    }

    /// Lines about GPUs and libraries, each with its name.
    pub fn computes_with(&self) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
        for (i, gpu) in self.cuda.gpus.iter().enumerate() {
            let free = gpu.free_bytes.map_or("?".into(), human::bytes);
            let all = human::bytes(gpu.memory_bytes);
            let capability = &gpu.compute_capability;
            line(
                &format!("cuda:{i}"),
                format!(
                    "{}, {free} of {all} free, compute capability {capability}",
                    gpu.name
                ),
            );
        }
        match (&self.cuda.trouble, self.cuda.built) {
            (_, false) => line(
                "cuda",
                "not in this build; hint: cargo build --release --features cuda".into(),
            ),
            (Some(trouble), true) => line("cuda", format!("not usable: {trouble}")),
            (None, true) => {}
        }
        for library in &self.cuda.libraries {
            let file = library.file.as_deref().unwrap_or("not loaded");
            line("", format!("{} {} ({file})", library.name, library.version));
        }
        lines
    }

    /// A line for each official file or folder.
    pub fn files(&self) -> Vec<String> {
        let all = self.data_sets.iter().chain(&self.weights);
        let line = |official: &Official| {
            let place = match &official.path {
                Some(path) => path.display().to_string(),
                None => {
                    let ways = official.ways.as_ref().map(|ways| format!("; {ways}"));
                    let ways = ways.unwrap_or_default();
                    format!("not here: will be downloaded when a stage wants it{ways}")
                }
            };
            format!("{} ({}): {place}", official.name, official.what)
        };
        all.map(line).collect()
    }
}
