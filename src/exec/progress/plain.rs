//! One line for each transition and a beat now and then: for CI and cluster logs.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use contract::Event;

use super::{End, Progress, fullness, run_of, values};
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::store::Holder;

/// Seconds between two lines about one running stage.
const BEAT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Plain {
    beats: HashMap<String, Instant>,
    /// How full the GPU of each stage is.
    memory: HashMap<String, String>,
    /// Stages that other runs work on.
    elsewhere: HashSet<String>,
}

fn line(what: &str, stage: &str, rest: &str) {
    say!(
        "{}",
        format!("{} {what:<6} {stage}  {}", human::now(), plain::line(rest)).trim_end()
    );
}

impl Progress for Plain {
    fn begin(&mut self, _total: usize, _cached: usize) {}

    fn next(&mut self, _stages: &[&str]) {}

    fn start(&mut self, stage: &str, why: &str) {
        self.elsewhere.remove(stage);
        self.beats.insert(stage.into(), Instant::now());
        line("start", stage, why);
    }

    fn event(&mut self, stage: &str, event: &Event) {
        match event {
            Event::Progress(progress) => {
                let due = self.beats.get(stage).is_none_or(|t| t.elapsed() >= BEAT);
                if due {
                    self.beats.insert(stage.into(), Instant::now());
                    let done = format!("{}/{} {}", progress.done, progress.total, progress.unit);
                    let memory = self.memory.get(stage).map_or("", String::as_str);
                    line(
                        "beat",
                        stage,
                        &format!("{done}  {}  {memory}", values(progress)),
                    );
                }
            }
            Event::Note { text } => line("note", stage, text),
            Event::Resumed { at, unit } => line("resume", stage, &format!("at {unit} {at}")),
            Event::Device { .. } | Event::Versions { .. } | Event::Checkpoint { .. } => {}
        }
    }

    fn memory(&mut self, stage: &str, used: u64, total: u64) {
        self.memory.insert(stage.into(), fullness(used, total));
    }

    fn end(&mut self, stage: &str, end: &End) {
        self.beats.remove(stage);
        self.memory.remove(stage);
        match end {
            End::Done { seconds, bytes } => {
                let text = format!("{}  {}", human::seconds(*seconds), human::bytes(*bytes));
                line("done", stage, &text);
            }
            End::Failed { cause, tail, log } => {
                line("FAIL", stage, cause);
                for text in tail {
                    say!("  | {text}");
                }
                say!("  log: {log}");
            }
            End::Stopped { kept: true } => line("stop", stage, "a checkpoint was kept"),
            End::Stopped { kept: false } => line("stop", stage, ""),
        }
    }

    fn waits(&mut self, stage: &str, holder: &Holder) {
        self.elsewhere.insert(stage.into());
        say!(
            "{}",
            plain::line(&format!("{stage} waits for {}", run_of(holder)))
        );
    }

    fn fresh(&mut self, stage: &str) {
        let why = match self.elsewhere.remove(stage) {
            true => "another run has made it",
            false => "its inputs have not changed",
        };
        line("fresh", stage, why);
    }

    fn say(&mut self, text: &str) {
        say!("{text}");
    }

    fn finish(&mut self) {}
}
