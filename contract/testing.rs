//! Jobs in temporary folders, for tests of kinds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::{CheckpointEvery, Event, Job, JobSpec, Stage, define};

/// A folder in which a kind runs, again and again.
pub struct Bench {
    dir: tempfile::TempDir,
    spec: JobSpec,
}

impl Bench {
    /// Output files lie under their declared names in the folder.
    pub fn new<S: Stage>(inputs: &[(&str, &Path)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let given = |name: &str| {
            let files = inputs.iter().filter(|(n, _)| *n == name);
            files.map(|(_, path)| path.to_path_buf()).collect()
        };
        let at = |name: &str| dir.path().join(name);
        let spec = JobSpec {
            stage: S::KIND.into(),
            kind: S::KIND.into(),
            params: Value::Null,
            inputs: S::INPUTS
                .iter()
                .map(|i| (i.name.into(), given(i.name)))
                .collect(),
            outputs: S::OUTPUTS
                .iter()
                .map(|o| (o.name.into(), at(o.file)))
                .collect(),
            checkpoint: at("checkpoint"),
            state: at("state"),
            extends: None,
            device: "cpu".into(),
            threads: 2,
            data: None,
            downloads: at("downloads"),
            checkpoint_every: CheckpointEvery::default(),
        };
        Self { dir, spec }
    }

    pub fn spec(&mut self) -> &mut JobSpec {
        &mut self.spec
    }

    pub fn output<S: Stage>(&self, port: &str) -> PathBuf {
        let output = S::OUTPUTS.iter().find(|o| o.name == port).unwrap();
        self.dir.path().join(output.file)
    }

    /// Bytes of every output.
    pub fn bytes<S: Stage>(&self) -> Vec<Vec<u8>> {
        S::OUTPUTS
            .iter()
            .map(|o| std::fs::read(self.output::<S>(o.name)).unwrap())
            .collect()
    }

    /// A job here that is told to stop with its n-th event; the events it says are collected.
    pub fn job(&self, stop_after: Option<usize>) -> (Job, Arc<Mutex<Vec<u8>>>) {
        let stop = Arc::new(AtomicBool::new(stop_after == Some(0)));
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut left, flag, said) = (stop_after, stop.clone(), Arc::clone(&text));
        let events = move |event: &Event| {
            let mut said = said.lock().unwrap();
            serde_json::to_writer(&mut *said, event).unwrap();
            said.push(b'\n');
            if let Some(left) = &mut left {
                *left = left.saturating_sub(1);
                flag.store(*left == 0, Ordering::Relaxed);
            }
        };
        (Job::new(self.spec.clone(), Box::new(events), stop), text)
    }

    /// Runs the kind as the runner would.
    pub fn run<S: Stage>(&self, params: &Value) -> anyhow::Result<String> {
        let (mut job, text) = self.job(None);
        (define::<S>(&[]).run)(params, &mut job)?;
        let text = text.lock().unwrap().clone();
        Ok(String::from_utf8(text)?)
    }
}
