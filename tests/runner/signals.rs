//! Signals and streams: what ends a run, what does not, and what is told of it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{Said, Space, eventually, said};
use crate::kills::kill;

fn one(script: &str) -> Space {
    let text =
        "[stage.one]\nkind = \"command\"\nrun = [\"sh\", \"go.sh\", \"{out.x}\"]\nout.x = \"x\"\n";
    let space = Space::new(text);
    space.write("go.sh", script);
    space
}

/// A line of shell in the space, with the program as `$R`.
fn shell(space: &Space, line: &str) -> Said {
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .current_dir(space.dir())
        .env("R", env!("CARGO_BIN_EXE_repro"))
        .stdin(Stdio::null());
    said(command.output().expect("sh"))
}

#[test]
fn nohup_is_respected() {
    let space = one("touch ready; sleep 0.5; echo 1 > $1");
    let line = "trap '' HUP; exec $R run";
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .current_dir(space.dir())
        .env("R", env!("CARGO_BIN_EXE_repro"))
        .stderr(Stdio::piped());
    let child = command.spawn().expect("sh");
    eventually("it works", || space.path("ready").exists());
    kill(child.id(), Signal::HUP);
    let said = said(child.wait_with_output().expect("ours"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(space.output("one", "x"), b"1\n");
}

#[test]
fn a_command_that_ends_with_5_or_by_a_signal_has_failed_with_its_words() {
    for (end, told) in [
        ("exit 5", "exit 5"),
        ("kill -TERM $$", "killed by SIGTERM"),
        ("exit 143", "exit 143"),
        ("kill -KILL $$", "killed by SIGKILL"),
    ] {
        let space = one(&format!("echo no tests ran; {end}"));
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(1), "{end}: {}", said.err);
        assert!(said.err.contains(told), "{end}: {}", said.err);
        assert!(said.err.contains("no tests ran"), "{end}: {}", said.err);
    }
}

#[test]
fn asked_to_stop_a_command_has_stopped_or_has_failed_after_all() {
    for (end, code, told) in [
        ("exit 143", 5, "goes on from here"),
        ("exit 5", 5, "goes on from here"),
        ("exit 1", 1, "exit 1, after it was asked to stop"),
    ] {
        let space = one(&format!(
            "trap '{end}' TERM; touch ready; while :; do sleep 0.05; done"
        ));
        let child = space.start(&["run"]);
        eventually("it works", || space.path("ready").exists());
        kill(child.id(), Signal::INT);
        let said = said(child.wait_with_output().expect("ours"));
        assert_eq!(said.code, Some(code), "{end}: {}", said.err);
        assert!(said.err.contains(told), "{end}: {}", said.err);
    }
}

/// The letter for a process's state, `T` for one that is stopped.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn ctrl_z_stops_the_stages_and_fg_continues_them() {
    let space = one("for i in $(seq 40); do echo $i >> counted; sleep 0.02; done; cp counted $1");
    let mut command = space.command(&["run"]);
    // In a group of its own whose parent is in the same session, as a shell starts a job.
    command.process_group(0).stderr(Stdio::piped());
    let child = command.spawn().expect("repro starts");
    let counted = || fs::read(space.path("counted")).map_or(0, |text| text.len());
    eventually("it counts", || counted() > 6);
    kill(child.id(), Signal::TSTP);
    eventually("it is stopped", || state(child.id()) == Some('T'));
    std::thread::sleep(Duration::from_millis(50));
    let (before, since) = (counted(), Instant::now());
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(counted(), before, "the stage is stopped too");
    kill(child.id(), Signal::CONT);
    let stopped = since.elapsed().as_secs_f64();
    let said = said(child.wait_with_output().expect("ours"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let record = fs::read(space.result("one").join("record.json")).expect("there");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let (all, counts) = (
        since.elapsed().as_secs_f64(),
        record["wall_seconds"].as_f64(),
    );
    assert!(
        counts.is_some_and(|s| s < all && s < stopped + 3.0),
        "{record}"
    );
    assert!(
        counts.is_some_and(|s| s < stopped),
        "stopped time counts: {record}"
    );
}

#[test]
fn a_stream_that_breaks_ends_no_run_and_hides_no_failure() {
    let six = "[stage.s]\nkind = 'command'\nfor.i = [1, 2, 3, 4, 5, 6]\nshell = 'echo {i} > {out.x}'\nout.x = 'x'\n";
    for line in [
        "{ $R run --json; echo $? > code; } | head -1 > /dev/null",
        "$R run 2> /dev/full; echo $? > code",
        "$R run 2>&-; echo $? > code",
        "{ $R run 2>&1 >&3; echo $? > code; } 3>&1 | true",
    ] {
        let space = Space::new(six);
        shell(&space, line);
        let results = fs::read_dir(space.path("artifacts/results")).expect("there");
        assert_eq!(
            (results.count(), &*space.read("code")),
            (6, "0\n"),
            "{line}"
        );
    }
    let space = Space::new(six);
    let code = |line: &str| {
        let said = shell(&space, &format!("{{ {line}; echo $? > code; }} | true"));
        assert!(!said.err.contains("panic"), "{line}: {}", said.err);
        space.read("code").trim().to_owned()
    };
    assert_eq!(code("$R status --exit-code"), "3");
    assert_eq!(code("$R run --file none"), "1");
    assert_eq!(code("$R status > /dev/full"), "1");
    assert_eq!(code("$R status"), "0");
    assert_eq!(
        code("$R run > /dev/full"),
        "0",
        "it has nothing to say there"
    );
    for command in [
        "status",
        "explain s",
        "graph",
        "schema",
        "du",
        "verify",
        "report",
        "check",
        "doctor",
    ] {
        for stream in [
            "> /dev/full",
            "2> /dev/full",
            "> /dev/full 2>&1",
            ">&- 2>&-",
        ] {
            let said = shell(&space, &format!("$R {command} {stream}; test $? -lt 6"));
            assert_eq!(said.code, Some(0), "{command} {stream}");
        }
    }
}

#[test]
fn the_last_words_of_a_failed_stage_are_few_and_plain() {
    let space = one(
        "head -c 3000000 /dev/zero | tr '\\0' a; echo; printf '\\033[2J\\033]0;owned\\007end\\n'; exit 3",
    );
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.len() < 5000, "{} bytes", said.err.len());
    assert!(
        said.err.contains("| end\n") && !said.err.contains('\u{1b}'),
        "{}",
        said.err
    );
    let log = space.repro(&["log", "one"]);
    assert!(log.out.ends_with("\nend\n") && !log.out.contains('\u{1b}'));
}

#[test]
fn without_variables_a_program_is_found_as_a_shell_finds_it() {
    let space = one("echo 1 > $1");
    let mut command = space.command(&["run"]);
    let said = said(command.env_clear().output().expect("repro starts"));
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn what_is_no_file_is_told_and_never_waited_for() {
    let space = one("echo 1 > $1");
    space.edit("\nout.x", "\nfiles = [\"data\"]\nout.x");
    let pipe = Command::new("mkfifo").arg(space.path("data")).status();
    assert!(pipe.is_ok_and(|s| s.success()));
    let status = space.status();
    assert!(status.contains("`data` is a named pipe"), "{status}");
    let said = space.repro(&["run"]);
    assert!(
        said.err
            .contains("`data` is a named pipe, which has no content"),
        "{}",
        said.err
    );
    fs::remove_file(space.path("data")).expect("ours");
    std::os::unix::fs::symlink("/dev/zero", space.path("data")).expect("ours");
    let said = space.repro(&["run"]);
    assert!(said.err.contains("`data` is a device"), "{}", said.err);
}
