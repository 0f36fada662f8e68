//! Stages that really train: killed, resumed or continued, they end with the bytes of a run that
//! was left alone.
//!
//! `REPRO_KILLS=200 cargo test --release --test runner kill` is the full length.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::{Said, Space, eventually, said};
use crate::kills::{alive, kill, next, wanted};

const TINY: &str = include_str!("training.toml");

/// The stages that train, each after those it reads from.
const TRAINED: [&str; 9] = [
    "extractor",
    "vae",
    "prior",
    "second-vae",
    "flow",
    "glow",
    "pixelcnn",
    "pixeliqn",
    "residual-flow",
];

/// A checkpoint at every step.
const RUN: [&str; 3] = ["run", "--checkpoint-every", "0"];

/// Digests of all files of all results, but for those that tell when and where they were made.
fn files(space: &Space) -> BTreeMap<String, String> {
    let all: Value = serde_json::from_str(&space.repro(&["status", "--json"]).out).expect("JSON");
    let mut files = BTreeMap::new();
    for stage in all["stages"].as_array().expect("a list") {
        let name = stage["stage"].as_str().expect("a name");
        let fingerprint = stage["fingerprint"].as_str();
        let fingerprint = fingerprint.unwrap_or_else(|| panic!("{name} is not fresh"));
        let folder = space.path("artifacts/results").join(fingerprint);
        for entry in walkdir::WalkDir::new(&folder).into_iter().flatten() {
            let inside = entry.path().strip_prefix(&folder).expect("below");
            let inside = inside.display().to_string();
            if entry.file_type().is_file() && inside != "record.json" && inside != "log" {
                let bytes = fs::read(entry.path()).expect("readable");
                let digest = blake3::hash(&bytes).to_hex().to_string();
                files.insert(format!("{name}/{inside}"), digest);
            }
        }
    }
    files
}

/// What a run that nothing disturbed leaves.
fn undisturbed() -> &'static BTreeMap<String, String> {
    static FILES: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let space = Space::new(TINY);
        space.run();
        files(&space)
    })
}

/// Fails with the names of the files that differ.
#[track_caller]
fn assert_same(space: &Space) {
    let (found, expected) = (files(space), undisturbed());
    let differ: Vec<&String> = (found.keys().chain(expected.keys()))
        .filter(|name| found.get(*name) != expected.get(*name))
        .collect();
    assert!(differ.is_empty(), "other bytes: {differ:?}");
}

/// The processes that a runner has started for its stages.
fn workers(space: &Space, runner: u32) -> Vec<u32> {
    let all = alive(space).into_iter();
    all.filter(|pid| *pid != runner).collect()
}

#[test]
fn killed_while_training_it_ends_with_the_same_bytes() {
    let (wanted, mut kills, mut state) = (wanted(8), 0, 5);
    while kills < wanted {
        let space = Space::new(TINY);
        loop {
            let mut child = space.start(&RUN);
            std::thread::sleep(Duration::from_millis(next(&mut state) % 1500));
            if kills >= wanted || child.try_wait().expect("ours").is_some() {
                let last = said(child.wait_with_output().expect("ours"));
                assert_eq!(last.code, Some(0), "{}", last.err);
                break;
            }
            let runner = child.id();
            let workers = workers(&space, runner);
            let chosen = next(&mut state) as usize;
            // Every third time a stage dies, and the runner has to cope.
            let victim = match (chosen % 3, workers.len()) {
                (0, n) if n > 0 => workers[chosen / 3 % n],
                _ => runner,
            };
            kill(victim, Signal::KILL);
            kills += 1;
            let ended = said(child.wait_with_output().expect("ours"));
            assert!(!ended.err.contains("waiting for"), "{}", ended.err);
            if victim != runner && ended.code != Some(0) {
                assert_eq!(ended.code, Some(1), "{}", ended.err);
                assert!(ended.err.contains("killed by SIGKILL"), "{}", ended.err);
            }
            eventually("no process is left behind", || alive(&space).is_empty());
        }
        let again = space.repro(&RUN);
        assert!(again.err.starts_with("nothing to do"), "{}", again.err);
        assert_same(&space);
        assert_eq!(space.repro(&["verify"]).code, Some(0));
        assert_eq!(left(&space, "work"), 0, "nothing half-done is left");
    }
}

fn left(space: &Space, folder: &str) -> usize {
    let entries = fs::read_dir(space.path("artifacts").join(folder));
    entries.map_or(0, Iterator::count)
}

/// Runs one stage until it has written the checkpoint of a step, and kills the runner then.
/// Returns the events so far.
fn until_checkpoint(space: &Space, stage: &str, step: u64, more: &[&str]) -> Vec<Value> {
    let mut child = space.start(&[&RUN[..], &["--json", stage], more].concat());
    let mut events = Vec::new();
    let out = child.stdout.take().expect("piped");
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        let there = event["stage"] == stage
            && event["event"] == "checkpoint"
            && event["at"].as_u64() >= Some(step);
        events.push(event);
        if there {
            kill(child.id(), Signal::KILL);
        }
    }
    child.wait().expect("ours");
    eventually("no process is left behind", || alive(space).is_empty());
    events
}

fn resumed(events: &[Value], stage: &str) -> Option<u64> {
    let event = events
        .iter()
        .find(|e| e["event"] == "resumed" && e["stage"] == stage)?;
    event["at"].as_u64()
}

fn events(said: &Said) -> Vec<Value> {
    let lines = said.out.lines();
    lines.filter_map(|l| serde_json::from_str(l).ok()).collect()
}

#[test]
fn every_training_stage_resumes_where_its_checkpoint_is() {
    let space = Space::new(TINY);
    for stage in TRAINED {
        let first = until_checkpoint(&space, stage, 2, &[]);
        assert_eq!(resumed(&first, stage), None, "{stage} began anew");
        let second = until_checkpoint(&space, stage, 3, &[]);
        assert!(resumed(&second, stage) >= Some(2), "{stage}: {second:?}");
        let third = space.repro(&[&RUN[..], &["--json", stage]].concat());
        assert_eq!(third.code, Some(0), "{}", third.err);
        assert!(resumed(&events(&third), stage) >= Some(3), "{stage}");
    }
    space.run();
    assert_same(&space);
}

#[test]
fn more_epochs_continue_a_finished_run_and_give_the_bytes_of_one_from_scratch() {
    let space = Space::new(TINY);
    let shorter = [
        "extractor.network.epochs=1",
        "prior.train.epochs=2",
        "second-vae.train.epochs=1",
        "flow.train.epochs=1",
        "glow.train.epochs=1",
        "pixelcnn.train.epochs=1",
        "pixeliqn.train.epochs=1",
        "residual-flow.train.epochs=1",
    ];
    space.ran(&["run", "--json", "vae", "--set", "vae.train.epochs=1"]);
    let sets = shorter.iter().flat_map(|set| ["--set", set]);
    let mut arguments = vec!["run", "--json"];
    arguments.extend(sets);
    let half = space.repro(&arguments);
    assert_eq!(half.code, Some(0), "{}", half.err);
    assert!(
        resumed(&events(&half), "vae").is_some(),
        "vae went on from one epoch"
    );
    let whole = space.repro(&["run", "--json"]);
    assert_eq!(whole.code, Some(0), "{}", whole.err);
    for stage in TRAINED.into_iter().filter(|s| *s != "vae") {
        let at = resumed(&events(&whole), stage);
        assert!(at.is_some(), "{stage} went on from fewer epochs");
    }
    assert_same(&space);
}

#[test]
fn a_dry_run_tells_from_where_a_run_would_go_on() {
    let space = Space::new(TINY);
    let longer = ["--set", "glow.train.epochs=400"];
    until_checkpoint(&space, "glow", 8, &longer);
    let forecast = space.repro(&[&["run", "--dry-run", "glow"], &longer[..]].concat());
    // How far it comes between the checkpoint and the kill, nobody knows.
    let (_, told) = forecast
        .out
        .split_once("resume   from epoch ")
        .unwrap_or_else(|| panic!("{}", forecast.out));
    let (epoch, rest) = told.split_once(' ').expect("a sentence");
    assert!(epoch.parse::<u64>().is_ok_and(|n| (2..400).contains(&n)));
    assert!(rest.starts_with("of 400 (never run)\n"), "{rest}");
    assert!(!forecast.out.contains("never ran"), "{}", forecast.out);
    space.ran(&["run", "--json", "glow"]);
    let more = ["run", "--dry-run", "glow", "--set", "glow.train.epochs=4"];
    let forecast = space.repro(&more);
    assert!(
        forecast
            .out
            .contains("continue from train.epochs = 2 of 4 (params.train.epochs: 2 -> 4)\n"),
        "{}",
        forecast.out
    );
}

#[test]
fn checkpoints_come_by_epoch_where_that_is_asked_for() {
    let space = Space::new(TINY);
    let said = space.repro(&["run", "--json", "prior", "--checkpoint-epochs", "1"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let written = |stage: &str| -> Vec<u64> {
        let events = events(&said).into_iter();
        let written = events.filter(|e| e["stage"] == stage && e["event"] == "checkpoint");
        written.filter_map(|e| e["at"].as_u64()).collect()
    };
    // 96 images in batches of 16; after the last epoch there is the result.
    assert_eq!(written("vae"), [6]);
    assert_eq!(written("prior").len(), 2);
}

#[test]
fn training_that_is_computed_again_gives_the_same_bytes() {
    let timing = r#"
[stage.timing]
kind = "timing"
in.images = "data.train"
params = { warmup_steps = 0, steps = 1, means = {}, models.vae = { kind = "vae", params.params-of = "vae" }, models.layer = { kind = "flow-layer", params = { vae.params-of = "vae", flow_layer.params-of = "flow" } }, models.glow = { kind = "glow", params.params-of = "glow" } }
"#;
    let space = Space::new(&format!("{TINY}{timing}"));
    space.ran(&["run", "--json", "prior", "timing"]);
    let said = space.repro(&["verify", "--rerun", "vae", "prior", "timing"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let ends = |words: &str| said.out.lines().filter(|l| l.ends_with(words)).count();
    assert_eq!(ends("same bytes"), 5, "{}", said.out);
    assert_eq!(
        ends("differs, as what measures the machine may"),
        1,
        "{}",
        said.out
    );
}
