//! The environment a command declares, the shell its lines are for, and where it may lie.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Space, said};

const HEAD: &str = "[stage.a]\nkind = 'command'\nout.x = 'x'\n";

fn stage(more: &str) -> Space {
    Space::new(&format!("{HEAD}{more}\n"))
}

#[test]
fn a_program_gets_what_is_declared() {
    let names = "OMP_NUM_THREADS MKL_NUM_THREADS CUDA_VISIBLE_DEVICES EMPTY MODE";
    let space = stage(&format!(
        "env = ['OMP_NUM_THREADS=7', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES=1', 'EMPTY=', 'MODE=a = b']\n\
         shell = 'for n in {names}; do echo $n=${{!n}}; done > {{out.x}}'"
    ));
    let mut command = space.command(&["run"]);
    let ran = said(
        command
            .env("MKL_NUM_THREADS", "5")
            .env("EMPTY", "no")
            .output()
            .expect("starts"),
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let results = fs::read_dir(space.path("artifacts/results")).expect("there");
    let result = results.flatten().next().expect("one").path();
    let text = fs::read_to_string(result.join("x")).expect("text");
    assert_eq!(
        text,
        "OMP_NUM_THREADS=7\nMKL_NUM_THREADS=5\nCUDA_VISIBLE_DEVICES=1\nEMPTY=\nMODE=a = b\n"
    );
}

#[test]
fn what_cannot_be_passed_on_is_refused() {
    for (env, says) in [
        (
            "['REPRO_PARAMS=x']",
            "4:8: stage `a`: `env`: REPRO_PARAMS is set by `repro` itself",
        ),
        (
            "['A=1', 'A=2']",
            "4:15: stage `a`: `env`: A stands here twice",
        ),
        ("'=x'", "`=x` names no variable\nhint: write \"NAME=value\""),
        ("'A B=1'", "`A B=1` names no variable"),
        (
            "'CUDA_VISIBLE_DEVICES=1'\nresources.gpu = 1",
            "is set to the GPUs that `resources.gpu` asks for",
        ),
    ] {
        let said = stage(&format!("env = {env}\nshell = 'true'")).repro(&["status"]);
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains(says), "{says} not in\n{}", said.err);
    }
}

#[test]
fn any_bytes_of_a_value_count() {
    let space = stage("env = 'MODE'\nshell = 'echo > {out.x}'");
    let status = |value: &[u8]| {
        let mut command = space.command(&["status"]);
        said(
            command
                .env("MODE", OsStr::from_bytes(value))
                .output()
                .expect("starts"),
        )
        .out
    };
    let mut run = space.command(&["run"]);
    run.env("MODE", OsStr::from_bytes(b"caf\xe9"));
    assert!(run.output().expect("starts").status.success());
    assert!(status(b"caf\xe9").contains("fresh"));
    let says = "a  stale  env.MODE: \"caf\\\\xE9\" -> \"caf\\\\xE8\"";
    assert!(status(b"caf\xe8").contains(says), "{}", status(b"caf\xe8"));
    assert!(space.status().contains("-> not set"), "{}", space.status());
    assert!(status(b"not set").contains("-> \"not set\""));
}

#[test]
fn the_folders_that_python_searches_are_the_declared_ones() {
    if Command::new("python3").arg("-V").output().is_err() {
        eprintln!("SKIPPED the_folders_that_python_searches: python3 is not installed");
        return;
    }
    let space = stage("run = ['python3', 'train.py', '{out.x}']\nenv = 'PYTHONPATH=src'");
    space.write("src/mylib.py", "X = '1'\n");
    space.write(
        "train.py",
        "import sys, mylib\nopen(sys.argv[1], 'w').write(mylib.X)\n",
    );
    assert_eq!(space.run(), ["a"]);
    space.write("src/mylib.py", "X = '2'\n");
    assert_eq!(space.run(), ["a"], "what is imported from there counts");
}

#[test]
fn a_line_of_shell_stops_at_the_first_failure() {
    for line in [
        "cat missing.csv | sort > {out.x}",
        "cat missing.csv | sort > t\ncp t {out.x}",
        "false\necho 1 > {out.x}",
        "for i in 1 2; do false; done; echo 1 > {out.x}",
    ] {
        let said = stage(&format!("shell = '''\n{line}\n'''")).repro(&["run"]);
        assert_eq!(said.code, Some(1), "{line}");
    }
    for line in [
        "false || echo 1 > {out.x}",
        "if false; then :; fi; echo 1 > {out.x}",
        "cat no | sort || touch {out.x}",
    ] {
        assert_eq!(
            stage(&format!("shell = '''{line}'''")).run(),
            ["a"],
            "{line}"
        );
    }
    let said = stage("shell = 'yes | head -1 > {out.x}'").repro(&["run"]);
    assert!(
        said.err
            .contains("exit 141: a command in a pipe was cut off"),
        "{}",
        said.err
    );
    assert_eq!(
        stage("shell = 'set +o pipefail; yes | head -1 > {out.x}'").run(),
        ["a"]
    );
}

#[test]
fn a_machine_without_bash_or_path_runs_lines_too() {
    let space = stage("shell = 'echo 1 > {out.x}'");
    let mut command = space.command(&["run"]);
    assert!(
        command
            .env_remove("PATH")
            .output()
            .expect("starts")
            .status
            .success()
    );
    let bin = space.path("bin");
    fs::create_dir(&bin).expect("ours");
    let sh = Command::new("sh")
        .args(["-c", "for p in sh cat sort; do command -v $p; done"])
        .output()
        .expect("starts");
    for tool in String::from_utf8_lossy(&sh.stdout).lines() {
        let name = Path::new(tool).file_name().expect("a name");
        std::os::unix::fs::symlink(tool, bin.join(name)).expect("ours");
    }
    space.edit("echo 1", "cat pipeline.toml | sort");
    let mut command = space.command(&["run"]);
    let ran = said(command.env("PATH", &bin).output().expect("starts"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    space.edit("cat pipeline.toml | sort", "cat missing; cat pipeline.toml");
    let mut command = space.command(&["run"]);
    assert_eq!(
        command
            .env("PATH", &bin)
            .output()
            .expect("starts")
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn windows_line_ends_change_nothing() {
    let text = format!("{HEAD}shell = '''\nif true; then\n  echo 1 > {{out.x}}\nfi\n'''\n");
    let space = Space::new(&text.replace('\n', "\r\n"));
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"1\n");
    space.write("pipeline.toml", &text);
    assert_eq!(space.run(), [""; 0]);
}

#[test]
fn what_stands_in_the_way_of_a_program_is_named() {
    for (script, says) in [
        (
            "#!/opt/none/bin/python -u\n",
            "its first line asks for /opt/none/bin/python, which is not there",
        ),
        ("#!/bin/sh\r\n", "its lines end as on Windows"),
    ] {
        let space = stage("run = ['./go', '{out.x}']");
        space.write("go", script);
        fs::set_permissions(space.path("go"), fs::Permissions::from_mode(0o755)).expect("ours");
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(1));
        assert!(
            said.err.contains(&format!("cannot start ./go: {says}")),
            "{}",
            said.err
        );
        fs::set_permissions(space.path("go"), fs::Permissions::from_mode(0o644)).expect("ours");
        let said = space.repro(&["run"]);
        assert!(
            said.err.contains("it may not be executed; `chmod +x ./go`"),
            "{}",
            said.err
        );
    }
}

#[test]
fn the_project_may_lie_anywhere() {
    for name in [
        &b"run:1"[..],
        b"a b",
        b"new\nline",
        b"caf\xe9",
        b"it's \"$HOME\" {out.x}",
        b"back\\slash",
    ] {
        let above = tempfile::tempdir().expect("a folder");
        let dir = above.path().join(OsStr::from_bytes(name));
        fs::create_dir(&dir).expect("ours");
        let pipeline = format!(
            "{HEAD}shell = 'echo 1 > {{out.x}}; echo \"x: data.csv\" > {{depfile}}'\nfiles = 'data.csv'\n\
             [stage.b]\nkind = 'command'\nin.x = ['a.x', 'a.x']\nout.y = 'y'\n\
             shell = 'cat {{in.x}} \"$REPRO_INPUTS\" \"{{params}}\" > \"$REPRO_OUT_Y\"'\n\
             [stage.d]\nkind = 'command'\nin.y = 'b.y'\nout.z = 'z'\nrun = ['cp', '{{in.y}}', '{{out.z}}']\n"
        );
        fs::write(dir.join("pipeline.toml"), pipeline).expect("ours");
        fs::write(dir.join("data.csv"), "1").expect("ours");
        std::thread::sleep(std::time::Duration::from_millis(60));
        let run = || {
            let space = Space::new("");
            let mut command = space.command(&["run"]);
            said(command.current_dir(&dir).output().expect("starts"))
        };
        let ran = run();
        assert_eq!(ran.code, Some(0), "{}\n{}", name.escape_ascii(), ran.err);
        assert!(ran.err.contains("3 stages ran"), "{}", ran.err);
        assert!(run().err.contains("nothing to do: 3 stages fresh"));
        fs::write(dir.join("data.csv"), "2").expect("ours");
        assert!(
            run().err.contains("1 stage ran, 2 fresh"),
            "{}",
            name.escape_ascii()
        );
    }
}

#[test]
fn axes_take_numbers_and_any_text() {
    let space = stage(
        "for.lr = [0.1, 1e-4, 2]\nfor.name = ['org/model', 'a,b', 'v1.5', '']\nparams.lr = '{lr}'\nparams.name = '{name}'\n\
         shell = 'cp {params} {out.x}'\nat.'0.1'.note = 'x'\nat.'a,b'.params.lr = 9\n\
         [stage.b]\nkind = 'command'\nfor.lr = [0.1]\nin.x = 'a@{lr},v1.5.x'\nin.all = 'a@*,\"a,b\".x'\nshell = 'cat {in.x} {in.all} > {out.y}'\nout.y = 'y'",
    );
    assert_eq!(space.run().len(), 13 - 2, "those at `a,b` are one work");
    let names = [
        "a@0.1,org/model",
        "a@0.0001,\"a,b\"",
        "a@1e-4,v1.5",
        "a@2,\"\"",
        "b@0.1",
    ];
    for name in names {
        let said = space.repro(&["status", name]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.out.contains("fresh"), "{}", said.out);
    }
    let text = String::from_utf8(space.output("b@0.1", "y")).expect("text");
    assert!(
        text.starts_with("{\n  \"lr\": 0.1,\n  \"name\": \"v1.5\"\n}"),
        "{text}"
    );
    assert_eq!(
        text.matches("\"lr\": 9,\n  \"name\": \"a,b\"").count(),
        3,
        "{text}"
    );
    let said =
        Space::new(&format!("{HEAD}for.lr = [0.1, '0.1']\nshell = 'true'\n")).repro(&["status"]);
    assert!(
        said.err.contains("axis `lr` has `0.1` twice"),
        "{}",
        said.err
    );
}
