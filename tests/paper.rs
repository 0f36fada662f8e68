//! The pipeline of this repository, through the binary: real stages, cut to seconds.

#![cfg(feature = "kinds")]

mod common;

use common::{Said, Space};

fn paper() -> Space {
    Space::new(include_str!("../pipeline.toml"))
}

/// Stages that ended so, in the order of their names.
fn stages(said: &Said, event: &str) -> Vec<String> {
    let events = said.out.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("a JSON event a line");
        event
    });
    let mut names: Vec<String> = events
        .filter(|e| e["event"] == event)
        .map(|e| e["stage"].as_str().expect("a stage").to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_choice_that_is_none_is_told_those_that_are() {
    let space = paper();
    let status = |set: &str| space.repro(&format!("status --set {set}")).ends(2);
    status("glow.flow.split=three").complains(
        "stage `glow@cifar10`: params.flow.split: unknown variant `three`\n\
         hint: one of condition-on-one, condition-on-two, alternate",
    );
    status("glow.flow.network=batch-norm").complains("hint: one of official, plain");
    status("glow-baseline.flow.inv_conv=qr").complains("hint: one of plain, lu");
}

/// Table 1's first rows with a training epoch each.
const CUT: &str = "--profile quick --set *.train.epochs=1 --set extractor.network.epochs=1";

#[test]
fn a_learning_rate_reruns_what_depends_on_it_and_taking_it_back_reruns_nothing() {
    let space = paper();
    // Its parameters are those of `simple-vae` but for the prior.
    let run = |more: &str| {
        let target = "simple-fid@fashion-mnist,joint-prior";
        space
            .repro(&format!("run --json {CUT} {more} {target}"))
            .ends(0)
    };
    let below = [
        "joint-vae@fashion-mnist",
        "simple-features@fashion-mnist,joint-prior",
        "simple-fid@fashion-mnist,joint-prior",
        "simple-sample@fashion-mnist,joint-prior",
    ];
    let above = [
        "dataset@fashion-mnist",
        "extractor",
        "reference@fashion-mnist",
    ];
    let mut all = [&below[..], &above].concat();
    all.sort_unstable();
    assert_eq!(stages(&run(""), "done"), all);
    run("").complains("nothing to do: 7 stages fresh");
    assert_eq!(
        stages(&run("--set simple-vae.train.optim.lr=0.001"), "done"),
        below
    );
    run("").complains("nothing to do: 7 stages fresh");
    let status = space.repro(&format!(
        "status {CUT} --set simple-vae.train.optim.halve_every=7 joint-vae@fashion-mnist"
    ));
    status.says("params.train.optim.halve_every: 2 -> 7");
    // The number is in the table under its own name, and never under the published one's.
    space
        .repro(&format!("tables 1 {CUT}"))
        .ends(0)
        .says("| FID (published) | Fréchet distance (classifier features) |")
        .says("3 not run: `repro run --profile quick`");
}

/// Where the paper is silent, each alternative is a value that can be set, and no other is.
#[test]
fn choices_are_parameters_with_known_values() {
    let space = paper();
    for (parameter, known) in [
        ("interpolation.path", ["linear", "spherical"]),
        ("flow-vs-vae.vae_image", ["mean", "sample"]),
        ("vae.range", ["unit", "centred"]),
        ("vae.kl", ["analytic", "monte-carlo"]),
        ("vae.network.head", ["average-pool", "flatten"]),
        ("vae.train.last_batch", ["drop", "keep"]),
        ("prior.train.last_batch", ["drop", "keep"]),
        ("glow.train.last_batch", ["drop", "keep"]),
        ("glow-baseline.train.last_batch", ["drop", "keep"]),
        ("glow.z", ["posterior-draw", "posterior-mean"]),
        ("glow-baseline.augment", ["none", "shift"]),
        ("prior.start", ["fresh", "phase-1"]),
        ("prior.flow.split", ["halves", "masks"]),
        ("prior.flow.permutation", ["random", "none"]),
        ("prior.flow.coupling", ["affine", "additive"]),
    ] {
        let wrong = space.repro(&format!("status --set {parameter}=other"));
        let mut path = parameter.split('.');
        let (stage, name) = (path.next().expect("a stage"), path.next().expect("a name"));
        let [first, second] = known;
        wrong
            .ends(2)
            .complains(&format!("--set {parameter}=other: "))
            .complains(&format!("stage `{stage}@cifar10`: params.{name}"))
            .complains(": unknown variant `other`")
            .complains(&format!("hint: one of {first}, {second}"));
        for value in known {
            let set = format!("status --set {parameter}={value}");
            space.repro(&set).ends(0);
        }
    }
    for table in [
        "vae.train.keep={kind=\"best\"}",
        "glow.train.keep={kind=\"average\",decay=0.999}",
        "vae.covariance={kind=\"per-channel\"}",
        "vae.covariance.form=softplus",
        "vae.dequantise=false",
    ] {
        space.repro(&format!("status --set {table}")).ends(0);
    }
    for (wrong, why) in [
        ("dataset.pad=-1", "params.pad: invalid value: integer `-1`"),
        ("vae.train.keep.kind=first", "unknown variant `first`"),
        ("vae.covariance.kind=full", "unknown variant `full`"),
        ("vae.covariance.log_low=1", "unknown field `log_low`"),
    ] {
        let wrong = space.repro(&format!("status --set {wrong}")).ends(2);
        wrong.complains(why);
    }
}

#[test]
fn one_stage_runs_with_what_it_needs() {
    let space = paper();
    let plan = space
        .repro("run --profile quick --stage glow --dry-run")
        .ends(0)
        .out;
    let planned: Vec<&str> = plan
        .lines()
        .filter_map(|l| l.split_once(' ').filter(|(name, _)| name.contains('@')))
        .map(|(name, _)| name)
        .collect();
    let wanted = [
        "dataset@cifar10",
        "dataset@celeba",
        "vae@cifar10",
        "vae@celeba",
        "glow@cifar10",
        "glow@celeba",
    ];
    assert_eq!(planned, wanted);
    let explained = space.repro("explain --profile quick glow@cifar10").ends(0);
    explained.says("glow@cifar10").says("vae@cifar10.model");
}

#[test]
fn the_papers_settings_do_not_start_on_a_cpu_by_accident() {
    let space = paper();
    space
        .repro("run")
        .ends(2)
        .complains("profile `paper` is meant for a CUDA device")
        .complains("repro run --profile quick")
        .complains("--device cpu");
    assert!(!space.path("artifacts/results").exists());
}
