//! One JSON object a line on standard output: `repro run --json`.

use contract::Event;
use serde_json::{Value, json};

use super::{End, Progress};
use crate::base::human;
use crate::base::say;
use crate::store::Holder;

pub struct Json;

fn tell(mut object: Value) {
    object["time"] = human::now().into();
    say::data(&format!("{object}\n"));
}

impl Progress for Json {
    fn begin(&mut self, total: usize, cached: usize) {
        tell(json!({"event": "begin", "stages": total, "cached": cached}));
    }

    fn next(&mut self, _stages: &[&str]) {}

    fn start(&mut self, stage: &str, why: &str) {
        tell(json!({"event": "start", "stage": stage, "why": why}));
    }

    fn event(&mut self, stage: &str, event: &Event) {
        if let Ok(mut object) = serde_json::to_value(event) {
            object["stage"] = stage.into();
            tell(object);
        }
    }

    fn memory(&mut self, stage: &str, used: u64, total: u64) {
        tell(json!({"event": "gpu-memory", "stage": stage, "used": used, "total": total}));
    }

    fn end(&mut self, stage: &str, end: &End) {
        tell(match end {
            End::Done { seconds, bytes } => {
                json!({"event": "done", "stage": stage, "seconds": seconds, "bytes": bytes})
            }
            End::Failed { cause, tail, log } => {
                json!({"event": "failed", "stage": stage, "cause": cause, "tail": tail, "log": log})
            }
            End::Stopped { kept } => {
                json!({"event": "stopped", "stage": stage, "checkpoint": kept})
            }
        });
    }

    fn waits(&mut self, stage: &str, holder: &Holder) {
        tell(json!({"event": "waits", "stage": stage, "process": holder.pid, "host": holder.host}));
    }

    fn fresh(&mut self, stage: &str) {
        tell(json!({"event": "fresh", "stage": stage}));
    }

    fn say(&mut self, text: &str) {
        say::line(text);
    }

    fn finish(&mut self) {}
}
