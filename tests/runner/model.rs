//! Random graphs, random edits, random interruptions: what runs is what a simple model says, and
//! outputs equal those of a build from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;
use rustix::process::Signal;

use crate::common::{Space, eventually};
use crate::kills::{alive, kill, wanted};

/// A stage concatenates what it reads and appends its value, cut to `keep` characters: a short
/// one hides changes from those below it.
#[derive(Debug, Clone)]
struct Stage {
    needs: Vec<usize>,
    value: u8,
    keep: usize,
}

#[derive(Debug, Clone)]
enum Edit {
    Value(usize, u8),
    Keep(usize, usize),
    /// Removes an output behind the runner's back.
    Delete(usize),
}

fn pipeline(stages: &[Stage]) -> String {
    let mut text = String::new();
    for (i, stage) in stages.iter().enumerate() {
        let _ = writeln!(
            text,
            "[stage.s{i}]\nkind = 'command'\nout.x = 'x'\nparams.value = {}",
            stage.value
        );
        let inputs: Vec<String> = stage.needs.iter().map(|n| format!("'s{n}.x'")).collect();
        let read = if inputs.is_empty() {
            ""
        } else {
            "cat {in.all}; "
        };
        let _ = writeln!(
            text,
            "shell = '({read}echo {{params.value}}) | tr -d \"\\n\" | head -c {} > {{out.x}}'",
            stage.keep
        );
        if !inputs.is_empty() {
            let _ = writeln!(text, "in.all = [{}]", inputs.join(", "));
        }
    }
    text
}

fn contents(stages: &[Stage]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for stage in stages {
        let read: String = stage.needs.iter().map(|n| all[*n].as_str()).collect();
        let whole = format!("{read}{}", stage.value);
        all.push(whole.chars().take(stage.keep).collect());
    }
    all
}

/// What a stage's result depends on; equal causes have one result.
type Cause = (Vec<String>, u8, usize);

/// The model: a set of results that exist, by cause.
fn causes(stages: &[Stage]) -> Vec<Cause> {
    let contents = contents(stages);
    // A stage is told who its inputs are if there are several, and then that is a cause too.
    let input = |s: &Stage, n: usize| match s.needs.len() {
        1 => contents[n].clone(),
        _ => format!("s{n}: {}", contents[n]),
    };
    let cause = |s: &Stage| {
        (
            s.needs.iter().map(|n| input(s, *n)).collect(),
            s.value,
            s.keep,
        )
    };
    stages.iter().map(cause).collect()
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    prop::collection::vec(
        (prop::collection::vec(0usize..100, 0..3), 0u8..4, 1usize..5),
        1..6,
    )
    .prop_map(|raw| {
        let build = |(i, (needs, value, keep)): (usize, (Vec<usize>, u8, usize))| {
            let needs: BTreeSet<usize> = match i {
                0 => BTreeSet::new(),
                _ => needs.into_iter().map(|n| n % i).collect(),
            };
            Stage {
                needs: needs.into_iter().collect(),
                value,
                keep,
            }
        };
        raw.into_iter().enumerate().map(build).collect()
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0usize..100, 0u8..4).prop_map(|(i, v)| Edit::Value(i, v)),
        (0usize..100, 1usize..5).prop_map(|(i, k)| Edit::Keep(i, k)),
        (0usize..100).prop_map(Edit::Delete),
    ]
}

/// Kills a run after some milliseconds, before its end or not. Returns how many results it has left.
fn interrupted(space: &Space, milliseconds: u64) -> usize {
    let results = || std::fs::read_dir(space.path("artifacts/results")).map_or(0, Iterator::count);
    let before = results();
    let mut child = space.start(&["run"]);
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    kill(child.id(), Signal::KILL);
    child.wait().expect("ours");
    eventually("no process is left behind", || alive(space).is_empty());
    results() - before
}

proptest! {
    #![proptest_config(ProptestConfig { cases: wanted(12) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_runs_is_what_the_model_says(mut stages in stages(), edits in prop::collection::vec((edit(), prop::option::of(0u64..120)), 0..5)) {
        let space = Space::new(&pipeline(&stages));
        let mut exist: BTreeMap<Cause, String> = BTreeMap::new();
        let mut lost: BTreeSet<Cause> = BTreeSet::new();
        let start = (Edit::Value(0, stages[0].value), Some(10));
        for (edit, kill_after) in std::iter::once(start).chain(edits) {
            let n = stages.len();
            match edit {
                Edit::Value(i, v) => stages[i % n].value = v,
                Edit::Keep(i, k) => stages[i % n].keep = k,
                Edit::Delete(i) => {
                    let cause = causes(&stages)[i % n].clone();
                    if exist.contains_key(&cause) && !lost.contains(&cause) {
                        let path = space.result(&format!("s{}", i % n)).join("x");
                        std::fs::remove_file(path).expect("it is there");
                        lost.insert(cause);
                    }
                }
            }
            space.write("pipeline.toml", &pipeline(&stages));
            let contents = contents(&stages);
            let damaged = !lost.is_empty();
            let mut expected = 0;
            for (cause, content) in causes(&stages).into_iter().zip(&contents) {
                let copy = |lost: &BTreeSet<Cause>| exist.iter().any(|(c, bytes)| bytes == content && *c != cause && !lost.contains(c));
                let restored = lost.contains(&cause) && copy(&lost);
                if !exist.contains_key(&cause) || lost.contains(&cause) && !restored {
                    expected += 1;
                }
                lost.remove(&cause);
                exist.insert(cause, content.clone());
            }
            let done = kill_after.map_or(0, |ms| interrupted(&space, ms));
            let ran = space.run().len();
            if kill_after.is_some() && damaged {
                // What is made again in the place of a lost result cannot be told from it.
                prop_assert!(ran + done <= expected);
            } else {
                prop_assert_eq!(ran + done, expected);
            }
            for (i, content) in contents.iter().enumerate() {
                let output = space.output(&format!("s{i}"), "x");
                prop_assert_eq!(String::from_utf8_lossy(&output), content.as_str());
            }
        }
    }
}
