//! What a person or a script sees of a run while it lasts.

mod json;
mod plain;
mod terminal;

use std::io::IsTerminal;

use contract::Event;

use crate::base::human;
use crate::base::provenance;
use crate::store::Holder;
pub use json::Json;
pub use plain::Plain;
pub use terminal::Terminal;

/// How a run of one stage ended.
#[derive(Debug, Clone)]
pub enum End {
    Done {
        seconds: f64,
        bytes: u64,
    },
    /// What went wrong, the last lines of its log, and where the log is.
    Failed {
        cause: String,
        tail: Vec<String>,
        log: String,
    },
    /// It was asked to stop; `kept` if a checkpoint lets it go on.
    Stopped {
        kept: bool,
    },
}

/// Receives what happens, in order, from one thread.
pub trait Progress {
    /// `total` stages may have to run; `cached` are fresh already.
    fn begin(&mut self, total: usize, cached: usize);
    fn start(&mut self, stage: &str, why: &str);
    fn event(&mut self, stage: &str, event: &Event);
    /// Bytes in use on the GPU that the stage runs on, and what it has.
    fn memory(&mut self, stage: &str, used: u64, total: u64);
    fn end(&mut self, stage: &str, end: &End);
    /// The stages that start as soon as there is room, the first one first.
    fn next(&mut self, stages: &[&str]);
    /// Another run works on the stage; what it makes counts here too.
    fn waits(&mut self, stage: &str, holder: &Holder);
    /// The stage turned out to be fresh once its inputs were known, or another run has made it.
    fn fresh(&mut self, stage: &str);
    /// A sentence about the run as a whole.
    fn say(&mut self, text: &str);
    fn finish(&mut self);
}

/// Bars on a terminal, lines elsewhere, JSON where asked for.
pub fn choose(json: bool) -> Box<dyn Progress> {
    if json {
        Box::new(Json)
    } else if std::io::stderr().is_terminal() {
        Box::new(Terminal::default())
    } else {
        Box::new(Plain::default())
    }
}

/// `epoch 4/200  loss 3.21  bits/dim 4.01`.
pub fn values(progress: &contract::Progress) -> String {
    let mut parts = Vec::new();
    if let (Some(epoch), Some(epochs)) = (progress.epoch, progress.epochs) {
        parts.push(format!("epoch {epoch}/{epochs}"));
    }
    parts.extend(
        progress
            .values
            .iter()
            .map(|(name, value)| format!("{name} {}", short(*value))),
    );
    parts.join("  ")
}

/// `the run of process 1234`, and where that is.
fn run_of(holder: &Holder) -> String {
    match holder.host == provenance::host() {
        true => format!("the run of process {}", holder.pid),
        false => format!("the run of process {} on {}", holder.pid, holder.host),
    }
}

/// `31 of 80 GiB`.
fn fullness(used: u64, total: u64) -> String {
    format!("GPU {} of {}", human::bytes(used), human::bytes(total))
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if (1e-3..1e5).contains(&a) => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}
