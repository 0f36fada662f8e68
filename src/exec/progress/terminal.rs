//! A bar for each running stage above one for the whole; what has ended scrolls away above them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use contract::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{End, Progress, fullness, run_of, values};
use crate::base::human;
use crate::base::plain;
use crate::store::Holder;

pub struct Terminal {
    bars: MultiProgress,
    whole: ProgressBar,
    running: HashMap<String, Running>,
    /// Stages that were fresh from the start.
    cached: usize,
    /// Stages that other runs work on, and these runs.
    elsewhere: BTreeMap<String, String>,
}

struct Running {
    bar: ProgressBar,
    since: Instant,
    /// What was done when the first progress came: a resumed stage does not start at 0.
    first: Option<(u64, Instant)>,
    /// What the stage said last, and how full its GPU is.
    text: String,
    memory: String,
}

impl Running {
    fn show(&self) {
        self.bar
            .set_message(plain::line(&format!("{}{}", self.text, self.memory)).into_owned());
    }
}

/// Shorter stages do not flash up.
const PATIENCE: Duration = Duration::from_millis(200);

impl Default for Terminal {
    fn default() -> Self {
        let bars = MultiProgress::new();
        let whole = bars.add(ProgressBar::new(0));
        whole.set_style(style("{bar:24} {pos}/{len} stages  {elapsed}  {wide_msg}"));
        Self {
            bars,
            whole,
            running: HashMap::new(),
            cached: 0,
            elsewhere: BTreeMap::new(),
        }
    }
}

impl Terminal {
    fn print(&self, text: &str) {
        // Lines are lost only with the terminal itself.
        let _ = self.bars.println(plain::clean(text));
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

impl Progress for Terminal {
    fn begin(&mut self, total: usize, cached: usize) {
        self.cached = cached;
        self.whole.set_length(total as u64);
        self.next(&[]);
        self.whole.enable_steady_tick(Duration::from_millis(500));
    }

    fn start(&mut self, stage: &str, why: &str) {
        self.elsewhere.remove(stage);
        let bar = self.bars.insert_before(&self.whole, ProgressBar::new(0));
        bar.set_style(style("  {prefix:24} {elapsed:>4}  {msg}"));
        bar.set_prefix(stage.to_owned());
        bar.set_message(plain::line(why).into_owned());
        bar.enable_steady_tick(PATIENCE);
        let running = Running {
            bar,
            since: Instant::now(),
            first: None,
            text: why.to_owned(),
            memory: String::new(),
        };
        self.running.insert(stage.into(), running);
    }

    fn event(&mut self, stage: &str, event: &Event) {
        let Some(running) = self.running.get_mut(stage) else {
            return;
        };
        match event {
            Event::Progress(progress) => {
                let (first, since) = *running.first.get_or_insert((progress.done, Instant::now()));
                if running.bar.length() == Some(0) {
                    running
                        .bar
                        .set_style(style("  {prefix:24} {bar:16} {elapsed:>4}  {msg}"));
                }
                let rate = progress.done.saturating_sub(first) as f64
                    / since.elapsed().as_secs_f64().max(1e-3);
                let mut text = values(progress);
                if rate > 0.0 {
                    let left = progress.total.saturating_sub(progress.done) as f64 / rate;
                    text += &format!(
                        "  {rate:.0} {}/s  {} left",
                        progress.unit,
                        human::seconds(left)
                    );
                }
                running.bar.set_length(progress.total);
                running.bar.set_position(progress.done);
                running.text = text;
                running.show();
            }
            Event::Note { text } => self.print(&format!("  {stage}: {}", plain::line(text))),
            Event::Resumed { at, unit } => {
                self.print(&format!("  {stage}: resumed at {unit} {at}"))
            }
            Event::Device { .. } | Event::Versions { .. } | Event::Checkpoint { .. } => {}
        }
    }

    fn memory(&mut self, stage: &str, used: u64, total: u64) {
        if let Some(running) = self.running.get_mut(stage) {
            running.memory = format!("  {}", fullness(used, total));
            running.show();
        }
    }

    fn end(&mut self, stage: &str, end: &End) {
        self.whole.inc(1);
        let since = self.running.remove(stage).map(|running| {
            running.bar.finish_and_clear();
            self.bars.remove(&running.bar);
            running.since
        });
        match end {
            End::Done { seconds, bytes } => self.print(&format!(
                "  done  {stage:24} {:>8}  {}",
                human::seconds(*seconds),
                human::bytes(*bytes)
            )),
            End::Failed { cause, tail, log } => {
                let after = since.map_or(0.0, |s| s.elapsed().as_secs_f64());
                self.print(&format!(
                    "  FAIL  {stage}  after {}: {cause}",
                    human::seconds(after)
                ));
                for line in tail {
                    self.print(&format!("        | {line}"));
                }
                self.print(&format!("        log: {log}"));
            }
            End::Stopped { kept } => {
                let note = if *kept { "a checkpoint was kept" } else { "" };
                self.print(&format!("  stop  {stage:24} {note}"));
            }
        }
    }

    fn next(&mut self, stages: &[&str]) {
        let mut parts = Vec::new();
        if self.cached > 0 {
            parts.push(format!("{} cached", self.cached));
        }
        if let Some((stage, run)) = self.elsewhere.iter().next() {
            let more = match self.elsewhere.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            parts.push(format!("{stage}{more}: waiting for {run}"));
        }
        // Cut off by the width of the terminal.
        if !stages.is_empty() {
            parts.push(format!("next: {}", stages.join(", ")));
        }
        self.whole.set_message(parts.join("  "));
    }

    fn waits(&mut self, stage: &str, holder: &Holder) {
        let run = run_of(holder);
        self.print(&format!("  wait  {stage} waits for {run}"));
        self.elsewhere.insert(stage.into(), run);
    }

    fn fresh(&mut self, stage: &str) {
        if self.elsewhere.remove(stage).is_some() {
            self.print(&format!("  fresh {stage:24} another run has made it"));
        }
        self.whole.inc(1);
    }

    fn say(&mut self, text: &str) {
        self.print(text);
    }

    fn finish(&mut self) {
        self.whole.finish_and_clear();
    }
}
