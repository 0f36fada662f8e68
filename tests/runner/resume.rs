//! Checkpoints and the code that made them; runs beside, inside and after each other.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Space, eventually, said};

/// Adds up six steps; after the third it fails or is killed if the variable DIE tells it to. What goes
/// on from a checkpoint does not need the module, and adds tens.
const TRAIN: &str = r#"
import os, signal, sys
c = os.path.join(os.environ["REPRO_CHECKPOINT"], "state")
step, n, total = 10, 0, 0
if os.path.exists(c):
    n, total = map(int, open(c).read().split())
else:
    import helper
    step = helper.STEP
while n < 6:
    n, total = n + 1, total + step
    open(c + ".new", "w").write("%d %d" % (n, total)); os.replace(c + ".new", c)
    if n == 3 and os.environ.get("DIE") == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if n == 3 and os.environ.get("DIE") == "fail": sys.exit(1)
open(sys.argv[1], "w").write(str(total))
"#;

/// A run that leaves a checkpoint.
fn interrupted(space: &Space, how: &str) {
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut command = space.command(&["run"]);
    let ended = said(command.env("DIE", how).output().expect("repro starts"));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
}

fn training() -> Space {
    let space = Space::new(
        "[stage.fit]\nkind = \"command\"\nrun = [\"python3\", \"train.py\", \"{out.x}\"]\nout.x = \"x\"\n",
    );
    space.write("train.py", TRAIN);
    space.write("helper.py", "STEP = 1\n");
    space.write("other.py", "");
    space
}

#[test]
fn a_checkpoint_of_other_code_is_not_handed_over() {
    for how in ["fail", "kill"] {
        let space = training();
        interrupted(&space, how);
        assert!(space.repro(&["run", "-n"]).out.contains("resume"), "{how}");
        space.write("helper.py", "STEP = 100\n");
        assert!(!space.repro(&["run", "-n"]).out.contains("resume"), "{how}");
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let why = "fit begins anew: helper.py has changed since its checkpoint was made";
        assert!(said.err.contains(why), "{how}: {}", said.err);
        assert_eq!(space.output("fit", "x"), b"600", "{how}");
    }
}

#[test]
fn a_checkpoint_of_this_code_is_handed_over_and_what_it_was_made_from_counts() {
    let space = training();
    interrupted(&space, "fail");
    // Of no concern, as the run has said what it read.
    space.write("other.py", "changed = True\n");
    assert_eq!(space.run(), ["fit"]);
    assert_eq!(space.output("fit", "x"), b"33");
    assert!(space.repro(&["run"]).err.contains("nothing to do"));
    space.write("helper.py", "STEP = 2\n");
    let status = space.status();
    assert!(status.contains("helper.py changed"), "{status}");
}

#[test]
fn a_run_inside_a_stage_of_the_same_store_is_an_error() {
    let repro = env!("CARGO_BIN_EXE_repro");
    let space = Space::new(&format!(
        "[stage.a]\nkind = \"command\"\nshell = \"setsid env {repro} run -f other.toml || true; echo 1 > {{out.x}}\"\nout.x = \"x\"\n"
    ));
    space.write(
        "other.toml",
        "[stage.z]\nkind = \"command\"\nshell = \"echo 1 > {out.x}\"\nout.x = \"x\"\n",
    );
    assert_eq!(space.run(), ["a"]);
    let log = space.repro(&["log", "a"]).out;
    assert!(
        log.contains("which waits for the stage that this was started by"),
        "{log}"
    );
    // With a store of its own it is as any other program.
    space.edit("-f other.toml", "-f other.toml --store own");
    assert_eq!(space.run(), ["a"]);
    assert!(space.path("own/index").exists());
}

#[test]
fn first_runs_at_once_share_a_store() {
    let space =
        Space::new("[stage.a]\nkind = \"command\"\nshell = \"echo 1 > {out.x}\"\nout.x = \"x\"\n");
    for round in 0..5 {
        let store = format!("deep/{round}/store");
        let runs: Vec<_> = (0..6)
            .map(|_| space.start(&["run", "--store", &store]))
            .collect();
        for run in runs {
            let ended = said(run.wait_with_output().expect("it ends"));
            assert_eq!(ended.code, Some(0), "{}", ended.err);
        }
    }
}

#[test]
fn the_threads_of_a_program_are_the_same_however_it_is_run() {
    let space = Space::new(
        "[stage.a]\nkind = \"command\"\nfor.i = [1, 2, 3]\nshell = \"echo $OMP_NUM_THREADS {threads} > {out.x}\"\nparams.i = \"{i}\"\nout.x = \"x\"\n",
    );
    space.run();
    let together: Vec<_> = (1..4)
        .map(|i| space.output(&format!("a@{i}"), "x"))
        .collect();
    fs::remove_dir_all(space.path("artifacts")).expect("ours");
    for (i, was) in (1..4).zip(together) {
        let name = format!("a@{i}");
        space.ran(&["run", "--json", "-j1", &name]);
        assert_eq!(space.output(&name, "x"), was);
    }
}

#[test]
fn what_a_failed_program_printed_is_shown_cut_and_cleaned() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
shell = "head -c 3000000 /dev/zero | tr '\\0' a; printf '\\033[2J\\033]0;title\\007\\nlast'; exit 3"
out.x = "x"
"#,
    );
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.len() < 3000 && said.err.contains("| last"),
        "{}",
        said.err
    );
    assert!(!said.err.contains(['\x1b', '\x07']), "{}", said.err);
}

#[test]
fn a_program_that_writes_elsewhere_is_told_where_its_output_belongs() {
    let space = Space::new(
        "[stage.a]\nkind = \"command\"\nshell = \"echo 1 > model.bin\"\nout.best-model = \"model.bin\"\n",
    );
    let err = space.repro(&["run"]).err;
    assert!(
        err.contains("it wrote model.bin in the project instead"),
        "{err}"
    );
    assert!(
        err.contains("{out.best-model} in the command, or REPRO_OUT_BEST_MODEL"),
        "{err}"
    );
}

#[test]
fn a_git_that_does_not_answer_holds_up_nothing() {
    let space =
        Space::new("[stage.a]\nkind = \"command\"\nshell = \"echo 1 > {out.x}\"\nout.x = \"x\"\n");
    space.write("bin/git", "#!/bin/sh\nsleep 100 &\nsleep 100\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(space.path("bin/git"), mode).expect("ours");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = space.command(&["run"]);
    command.env("PATH", format!("{}:{path}", space.path("bin").display()));
    let started = std::time::Instant::now();
    let ended = said(command.output().expect("repro starts"));
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(started.elapsed().as_secs() < 50, "{:?}", started.elapsed());
}

#[test]
fn no_curve_replaces_another_and_one_that_cannot_be_read_stops_none() {
    let stage = |name: &str, line: &str| {
        format!(
            "[stage.{name}]\nkind = \"command\"\nshell = '''echo '{line}' > {{out.h}}'''\nout.h = {{ file = \"h\", holds = \"history\" }}\nparams.n = \"{name}\"\n"
        )
    };
    let good = r#"{"epoch": 1, "loss": 1.5, "kl": NaN}"#;
    let mut pipeline = stage("fit-a", good) + &stage("fit_a", good) + &stage("bad", "no JSON");
    pipeline += &stage("fit", good).replace(
        "kind",
        &format!("for.v = [\"a\", \"A\", \"{}\"]\nkind", "b".repeat(250)),
    );
    let space = Space::new(&pipeline);
    space.run();
    let said = space.repro(&["figures", "--out", "f"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.contains("bad: ") && said.err.contains("is not a history"),
        "{}",
        said.err
    );
    assert_eq!(
        fs::read_dir(space.path("f")).expect("there").count(),
        5,
        "{}",
        said.err
    );
}

/// The guard is stopped while the runner is killed: the next run waits for it.
#[test]
fn no_stage_runs_beside_what_a_killed_run_has_left() {
    let space = Space::new(
        "[stage.a]\nkind = \"command\"\nshell = \"sh work.sh; echo 1 > {out.x}\"\nout.x = \"x\"\n",
    );
    // A child, which the kernel does not end with the runner; whatever it starts holds the lock too.
    space.write(
        "work.sh",
        "exec 9>>one; flock -n 9 || touch twice\ntouch started\nsleep 3\n",
    );
    let mut run = space.start(&["run"]);
    eventually("it runs", || space.path("started").exists());
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    let children = fs::read_to_string(children).expect("Linux");
    let mut all = children.split_whitespace();
    let guard = all.find(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "stage-guard")
    });
    let guard = guard.and_then(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
    let guard = guard.expect("a guard");
    use rustix::process::{Signal, kill_process};
    kill_process(guard, Signal::STOP).expect("ours");
    run.kill().expect("ours");
    run.wait().expect("ours");
    let next = space.start(&["run"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    // The kernel may have woken it as well, when its runner was gone.
    let _ = kill_process(guard, Signal::CONT);
    let ended = said(next.wait_with_output().expect("it ends"));
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(!space.path("twice").exists());
}
