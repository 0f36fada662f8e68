//! Each format is opened by the program that readers will open it with: a validator, a browser,
//! TensorBoard. (LaTeX, JSON and CSV stand in `shown.rs`.) `.ci/tools` installs the programs under
//! target/ci; without one a test says SKIPPED.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Space, installed};

/// Everything that a page can show: tables with published, reproduced and missing numbers, a
/// picture, a graph, curves, a note that has to be escaped.
const PIPELINE: &str = r#"
[pipeline]
title = "Toys & <games>"
profile = "quick"
profiles.quick = "two models"

[stage.fit]
kind = "command"
note = "one & a half lines; with <angle> brackets"
for.model = ["good", "fair"]
shell = '''
printf '{"metrics":[{"name":"error","label":"error","value":3.5,"n":10,"std_error":0.1,"better":"lower","protocol":{"split":"<test>"}}]}' > {out.metrics}
for i in 1 2 3 4 5; do printf '{"epoch":%s,"lr":0.1,"train":{"loss":%s},"valid":{"loss":%s}}\n' $i $((10-i)) $((11-i)); done > {out.history}
'''
out.metrics = { file = "metrics.json", holds = "metrics" }
out.history = { file = "history.jsonl", holds = "history" }

[stage.draw]
kind = "command"
shell = '''printf '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle r="4" cx="5" cy="5"/></svg>' > {out.picture}'''
out.picture = { file = "picture.svg", holds = "figure" }

[stage.never]
kind = "command"
run = ["false", "{out.metrics}"]
out.metrics = { file = "metrics.json", holds = "metrics" }

[table.1]
title = "Errors & <omissions>"
head = "model"
group_head = "data"
columns = [{ id = "error", metric = "error", published = "error", better = "lower", digits = 1 }]
[[table.1.row]]
group = "all"
name = "good"
note = "a note"
error = { published = 3.0, source = "the paper", stage = "fit@good" }
[[table.1.row]]
group = "all"
name = "fair"
error = { published = 4.0, bound = true, source = "another paper", stage = "never" }

[figure.1]
title = "The stages"
graph = true
[figure.2]
title = "A picture"
[[figure.2.panel]]
stage = "draw"
"#;

fn ran() -> Space {
    let space = Space::new(PIPELINE);
    space.repro("run --keep-going").ends(1);
    space
}

/// What `.ci/tools` put there.
fn tool(name: &str, test: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/ci")
        .join(name);
    if !path.exists() {
        eprintln!(
            "SKIPPED {test}: {} is missing; .ci/tools installs it",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// Fails with what the program said, if it fails.
#[track_caller]
fn is_content(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn a_validator_finds_no_fault_with_the_pages() {
    let test = "a_validator_finds_no_fault_with_the_pages";
    let (Some(java), Some(jar)) = (
        installed("java", test),
        tool("node_modules/vnu-jar/build/dist/vnu.jar", test),
    ) else {
        return;
    };
    let space = ran();
    space.repro("report").ends(0);
    space.repro("tables --format html --out .").ends(0);
    for page in ["report.html", "table-1.html"] {
        is_content(
            Command::new(&java)
                .arg("-jar")
                .arg(&jar)
                .arg(space.path(page)),
        );
    }
}

#[test]
fn a_browser_shows_the_report_on_a_desk_on_a_phone_and_in_the_dark() {
    let test = "a_browser_shows_the_report_on_a_desk_on_a_phone_and_in_the_dark";
    let (Some(node), Some(modules), Some(chromium)) = (
        installed("node", test),
        tool("node_modules", test),
        installed("chromium", test),
    ) else {
        return;
    };
    let space = ran();
    space.repro("report").ends(0);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/browser.mjs");
    is_content(
        Command::new(node)
            .arg(script)
            .arg(space.path("report.html"))
            .env("NODE_PATH", modules)
            .env("CHROMIUM", chromium),
    );
}

#[test]
fn tensorboard_reads_the_curves() {
    let Some(python) = tool("venv/bin/python", "tensorboard_reads_the_curves") else {
        return;
    };
    let space = ran();
    space.repro("tensorboard --out events").ends(0);
    let program = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]); events.Reload()
assert sorted(events.Tags()['scalars']) == ['loss/train', 'loss/valid', 'lr'], events.Tags()
got = [(e.step, e.value) for e in events.Scalars('loss/valid')]
assert got == [(1, 10), (2, 9), (3, 8), (4, 7), (5, 6)], got
";
    is_content(
        Command::new(python)
            .args(["-c", program])
            .arg(space.path("events/fit@good")),
    );
}
