//! What a program read is seen, whatever the program is and however it was started.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use crate::common::Space;

/// A stage `a` with this line of shell; it writes `{out.x}`.
pub fn shell(line: &str) -> Space {
    let line = line.replace('\\', "\\\\").replace('"', "\\\"");
    Space::new(&format!(
        "[stage.a]\nkind = 'command'\nshell = \"{line}\"\nout.x = 'x'\n"
    ))
}

pub fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no {program} here");
    }
    there
}

/// The file can be changed, put back, and changed for good; each is noticed, and putting it back
/// needs no run.
#[track_caller]
pub fn counts(space: &Space, file: &str, said: &str) {
    let before = fs::read(space.path(file)).expect("it is there");
    space.write(
        file,
        &(String::from_utf8_lossy(&before).into_owned() + "\n#\n"),
    );
    let status = space.status();
    assert!(status.contains(said), "{said} is not in:\n{status}");
    assert_eq!(space.run(), ["a"]);
    fs::write(space.path(file), &before).expect("written");
    assert_eq!(space.run(), [""; 0], "putting {file} back is a hit");
}

#[test]
fn a_script_counts_whatever_starts_it() {
    let starts = [
        "sh run.sh",
        ". ./run.sh",
        "timeout 60 sh run.sh",
        "env A=1 nice sh run.sh",
        "bash -euo pipefail run.sh",
        "(cd sub && exec sh ../run.sh)",
        "sh run.sh & wait",
        "./run.sh",
    ];
    for start in starts {
        let space = shell(&format!("{start}; echo 1 > {{out.x}}"));
        space.write(
            "run.sh",
            "#!/bin/sh\ncat $PWD/data.txt ../data.txt 2>/dev/null || :\n",
        );
        space.write("data.txt", "1\n");
        space.write("sub/x", "");
        let executable = fs::metadata(space.path("run.sh")).expect("it is there");
        let mut mode = executable.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        fs::set_permissions(space.path("run.sh"), mode).expect("ours");
        assert_eq!(space.run(), ["a"], "{start}");
        assert_eq!(space.run(), [""; 0], "{start}");
        counts(&space, "run.sh", "a  stale  file run.sh changed");
        counts(&space, "data.txt", "a  stale  file data.txt changed");
    }
}

#[test]
fn a_module_counts_however_python_ends_or_was_started() {
    if !has("python3") {
        return;
    }
    let import = "import helper\n";
    let programs = [
        ("python3 train.py", import.to_owned()),
        ("python3 -I train.py", format!("import sys; sys.path.insert(0, '.')\n{import}")),
        ("python3 -S -E train.py", import.into()),
        ("python3 train.py", format!("import os\n{import}os._exit(0)\n")),
        ("python3 train.py", "import os\nif os.fork() == 0:\n    import helper\n    os._exit(0)\nos.wait()\n".into()),
        ("python3 train.py", "import multiprocessing as m, os, signal\ndef f():\n    import helper\n    os.kill(os.getpid(), signal.SIGKILL)\nif __name__ == '__main__':\n    p = m.get_context('fork').Process(target=f)\n    p.start()\n    p.join()\n".into()),
        ("python3 train.py", "exec(open('helper.py').read())\n".into()),
        ("python3 train.py", "import runpy\nrunpy.run_path('helper.py')\n".into()),
        ("python3 -c 'import train'", import.into()),
    ];
    for (start, program) in programs {
        let space = shell(&format!("{start}; echo 1 > {{out.x}}"));
        space.write("train.py", &program);
        space.write("helper.py", "V = 1\n");
        assert_eq!(space.run(), ["a"]);
        assert_eq!(space.run(), [""; 0], "{start}: {program}");
        counts(&space, "helper.py", "a  stale  file helper.py changed");
    }
}

#[test]
fn a_module_that_appears_counts_if_an_import_would_find_it() {
    if !has("python3") {
        return;
    }
    let space = shell("python3 train.py; echo 1 > {out.x}");
    space.write(
        "train.py",
        "import sys, json; sys.path.append('lib')\ntry:\n    import local\nexcept ImportError:\n    pass\nimport helper\n",
    );
    space.write("lib/helper.py", "");
    assert_eq!(space.run(), ["a"]);
    // What nobody asked for changes nothing.
    space.write("other.py", "");
    space.write("notes.txt", "");
    assert_eq!(space.run(), [""; 0]);
    for name in ["local.py", "helper.py", "json.py", "local/__init__.py"] {
        space.write(name, "def loads(x): pass\n");
        let status = space.status();
        assert!(
            status.contains("modules in . came or went"),
            "{name}: {status}"
        );
        fs::remove_file(space.path(name)).expect("it is there");
        let _ = fs::remove_dir(space.path("local"));
        assert_eq!(space.run(), [""; 0], "{name}");
    }
}

#[test]
fn a_folder_that_python_lists_as_data_counts() {
    if !has("python3") {
        return;
    }
    let space = shell("python3 train.py > {out.x}");
    space.write(
        "train.py",
        "import os, glob, helper\nprint(glob.glob('*.csv'))\n",
    );
    space.write("helper.py", "");
    space.write("1.csv", "");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    space.write("2.csv", "");
    assert!(space.status().contains("a  stale  files in . came or went"));
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn what_is_asked_for_and_missing_counts_when_it_appears() {
    let space = shell("[ -e opt.cfg ] && cat opt.cfg > {out.x} || echo none > {out.x}");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    space.write("opt.cfg", "there\n");
    assert!(space.status().contains("a  stale  opt.cfg is new"));
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"there\n");
    fs::remove_file(space.path("opt.cfg")).expect("it is there");
    assert_eq!(space.run(), [""; 0]);
    assert_eq!(space.output("a", "x"), b"none\n");
}

#[test]
fn data_behind_links_counts_under_the_name_it_was_reached_by() {
    let space = shell("cat set/deep/1.csv one.csv > {out.x}; cd set && cat deep/2.csv >> {out.x}");
    let outside = tempfile::tempdir().expect("a folder");
    for version in ["v1", "v2"] {
        let deep = outside.path().join(version).join("deep");
        fs::create_dir_all(&deep).expect("a folder");
        fs::write(deep.join("1.csv"), version).expect("a file");
        fs::write(deep.join("2.csv"), version).expect("a file");
    }
    symlink(outside.path().join("v1"), space.path("set")).expect("a link");
    symlink(outside.path().join("v1/deep/1.csv"), space.path("one.csv")).expect("a link");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    fs::write(outside.path().join("v1/deep/2.csv"), "other").expect("a file");
    assert!(
        space
            .status()
            .contains("a  stale  file set/deep/2.csv changed")
    );
    assert_eq!(space.run(), ["a"]);
    fs::remove_file(space.path("set")).expect("ours");
    symlink(outside.path().join("v2"), space.path("set")).expect("a link");
    assert!(space.status().contains("link set changed"));
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"v2v1v2");
}

#[test]
fn what_lies_behind_a_link_of_its_own_counts() {
    let lines = [
        "ln -s data/x in; cat in; rm in",
        "ln -sf data/x in; cat in",
        "ln -s $PWD/data deep; cat deep/x; rm deep",
        "ln -s data one; ln -s one two; cat two/x; rm one two",
        "ln -s data tmp; mv tmp in; cat in/x; rm in",
        "ln -s none cur; ln -sfn data cur; cat cur/x; rm cur",
        "t=$(mktemp -d); ln -s $PWD/data/x $t/x; cat $t/x; rm -r $t",
        "t=$(mktemp -d); ln -s $PWD/data $t/d; cat $t/d/x; rm -r $t",
        "mkdir made; ln -s ../data made/d; cat made/d/x; rm -r made",
    ];
    for line in lines {
        let space = shell(&format!("{line}; echo 1 > {{out.x}}"));
        space.write("data/x", "1\n");
        assert_eq!(space.run(), ["a"], "{line}");
        assert_eq!(space.run(), [""; 0], "{line}");
        counts(&space, "data/x", "a  stale  file data/x changed");
    }
}

#[test]
fn a_file_counts_by_whatever_name_outside_it_was_reached() {
    let other = tempfile::tempdir().expect("a temporary folder");
    let at = other.path().display();
    for path in ["project/data/x", "deep/x", "x"] {
        let space = shell(&format!("cat {at}/{path}; echo 1 > {{out.x}}"));
        space.write("data/x", "1\n");
        for (name, target) in [("project", ""), ("deep", "data"), ("x", "data/x")] {
            let _ = fs::remove_file(other.path().join(name));
            symlink(space.path(target), other.path().join(name)).expect("a link");
        }
        assert_eq!(space.run(), ["a"], "{path}");
        assert_eq!(space.run(), [""; 0], "{path}");
        counts(&space, "data/x", "a  stale  file data/x changed");
    }
}

#[test]
fn what_a_call_failed_to_do_makes_nothing_the_stage_s_own() {
    let lines = [
        "rmdir data 2> /dev/null || cat data/x",
        "unlink data 2> /dev/null || cat data/x",
        "mkdir data 2> /dev/null || cat data/x",
        "mv -T data/x data/deep 2> /dev/null || cat data/x",
        "mv data away; cat away/x; mv away data",
        "ln data/x data/deep/y 2> /dev/null; cat data/deep/y; rm data/deep/y",
    ];
    for line in lines {
        let space = shell(&format!("{line}; echo 1 > {{out.x}}"));
        space.write("data/x", "1\n");
        space.write("data/deep/z", "1\n");
        assert_eq!(space.run(), ["a"], "{line}");
        assert_eq!(space.run(), [""; 0], "{line}");
        counts(&space, "data/x", "a  stale  file data/x changed");
    }
    let space = shell(
        "echo 1 > none/cache || :; mkdir none/deep || :; cat none/cache || :; echo 1 > {out.x}",
    );
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    space.write("none/cache", "1\n");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn what_a_stage_makes_itself_raises_no_alarm() {
    let space = shell(
        "mkdir -p tmp/deep && echo 1 > tmp/deep/f && cat tmp/deep/f > {out.x} && ls . tmp > /dev/null \
         && echo 2 > t.new && mv t.new kept.txt && cat kept.txt && rm -r tmp \
         && echo more >> log.txt && mkdir -p __pycache__ .pytest_cache && touch __pycache__/x .pytest_cache/y",
    );
    space.write("log.txt", "");
    assert_eq!(space.run(), ["a"]);
    for _ in 0..2 {
        assert_eq!(space.run(), [""; 0], "{}", space.status());
    }
    let said = space.repro(&["explain", "a"]).out;
    assert!(
        said.contains("2 files that are no outputs: kept.txt, log.txt"),
        "{said}"
    );
}

#[test]
fn files_elsewhere_are_told_and_count_when_watched() {
    let outside = tempfile::tempdir().expect("a folder");
    let path = outside.path().to_str().expect("plain").to_owned();
    fs::write(outside.path().join("ref.csv"), "1\n").expect("a file");
    let space = shell(&format!("cat {path}/ref.csv > {{out.x}}"));
    std::thread::sleep(Duration::from_millis(15));
    let said = space.repro(&["run"]).err;
    assert!(
        said.contains(&format!("a read 1 file in {path}, outside the project")),
        "{said}"
    );
    let text = space.read("pipeline.toml");
    space.write(
        "pipeline.toml",
        &format!("[pipeline]\nwatch = '{path}'\n{text}"),
    );
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    fs::write(outside.path().join("ref.csv"), "2\n").expect("a file");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"2\n");
}

#[test]
fn ignored_files_do_not_count_and_are_counted() {
    let space = shell("cat notes/a.md b.txt > {out.x}");
    let text = space.read("pipeline.toml");
    space.write(
        "pipeline.toml",
        &format!("[pipeline]\nignore = ['notes/']\n{text}"),
    );
    space.write("notes/a.md", "1\n");
    space.write("b.txt", "1\n");
    assert_eq!(space.run(), ["a"]);
    space.write("notes/a.md", "2\n");
    assert_eq!(space.run(), [""; 0]);
    let said = space.repro(&["explain", "a"]).out;
    assert!(said.contains("1 file that `ignore` takes out"), "{said}");
    space.write("b.txt", "2\n");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn a_lock_file_of_the_environment_counts_for_every_command() {
    let space = shell("echo 1 > {out.x}");
    let text = space.read("pipeline.toml");
    space.write(
        "pipeline.toml",
        &format!("[pipeline]\nenvironment = ['uv.lock']\n{text}"),
    );
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("pipeline.toml:2:16: `environment` names uv.lock"),
        "{}",
        said.err
    );
    space.write("uv.lock", "numpy 1\n");
    assert_eq!(space.run(), ["a"]);
    space.write("uv.lock", "numpy 2\n");
    assert!(
        space
            .status()
            .contains("a  stale  environment uv.lock changed")
    );
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn a_stage_that_is_not_watched_says_so_on_every_look() {
    let space = shell("cat data.txt > {out.x}");
    space.write("data.txt", "1\n");
    let text = space.read("pipeline.toml");
    space.write("pipeline.toml", &format!("{text}watch = false\n"));
    assert_eq!(space.run(), ["a"]);
    space.write("data.txt", "2\n");
    assert_eq!(space.run(), [""; 0]);
    assert!(
        space.status().contains("a  fresh  (not watched"),
        "{}",
        space.status()
    );
    let said = space.repro(&["explain", "a"]).out;
    assert!(
        said.contains("only what is declared or reported counts"),
        "{said}"
    );
}

#[test]
fn many_reads_lie_beside_the_result_and_a_damaged_list_makes_it_stale() {
    let space = shell("cat data/* > {out.x}");
    for i in 0..300 {
        space.write(&format!("data/{i}.csv"), "1\n");
    }
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    let list = space.result("a").join("reads.json");
    let index = space.read("artifacts/index");
    assert!(list.exists() && !index.contains("\"p\":\"data/77.csv\""));
    counts(&space, "data/77.csv", "a  stale  file data/77.csv changed");
    let said = space.repro(&["explain", "a"]).out;
    assert!(said.contains("data      300 files in data/"), "{said}");
    // Also when a run that found nothing to do is remembered.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(space.run(), [""; 0]);
    assert_eq!(space.run(), [""; 0]);
    space.spoil(&list, b"[]");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn compiled_python_of_the_second_of_an_edit_is_not_taken_for_the_next() {
    if !has("python3") {
        return;
    }
    // Without our variable in its environment Python writes its compiled forms.
    let space = shell("python3 -E -c 'import helper; print(helper.V)' > {out.x}");
    for value in ["111", "222", "333"] {
        space.write("helper.py", &format!("V = {value}\n"));
        assert_eq!(space.run(), ["a"]);
        assert_eq!(space.output("a", "x"), format!("{value}\n").into_bytes());
    }
}

#[test]
fn code_that_was_moved_renamed_or_taken_away_is_accepted_as_a_whole() {
    if !has("python3") {
        return;
    }
    let space = shell("python3 train.py > {out.x}");
    space.write("train.py", "import helper\nprint(helper.V)\n");
    space.write("helper.py", "V = 1\n");
    space.write("data.csv", "1\n");
    assert_eq!(space.run(), ["a"]);
    let accept = || space.repro(&["accept", "a", "--why", "moved"]);
    // The value goes to a new module, which counts from then on.
    space.write("more.py", "V = 1\n");
    space.write("helper.py", "from more import V\n");
    assert_eq!(accept().code, Some(0));
    // Also when a run that found nothing to do is remembered.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(space.run(), [""; 0]);
    space.write("more.py", "V = 2\n");
    assert!(
        space.status().contains("a  stale  file more.py changed"),
        "{}",
        space.status()
    );
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"2\n");
    // A module gets another name.
    fs::rename(space.path("helper.py"), space.path("util.py")).expect("renamed");
    space.write("train.py", "import util\nprint(util.V)\n");
    let said = accept();
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(space.run(), [""; 0]);
    // One that is gone and still named is equal to nothing.
    fs::remove_file(space.path("util.py")).expect("there");
    let said = accept();
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("train.py still names util.py, which is gone"),
        "{}",
        said.err
    );
}

#[test]
fn what_is_no_code_is_never_accepted_and_nothing_half() {
    let space = shell("sh run.sh > {out.x}");
    space.write("run.sh", "cat data.csv\n");
    space.write("data.csv", "1\n");
    assert_eq!(space.run(), ["a"]);
    space.write("run.sh", "# says it\ncat data.csv\n");
    space.write("data.csv", "2\n");
    let said = space.repro(&["accept", "a", "--why", "a comment"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("a: file data.csv changed, which is no change of code alone"),
        "{}",
        said.err
    );
    assert!(!space.path("accepted.toml").exists());
    space.write("data.csv", "1\n");
    assert_eq!(
        space.repro(&["accept", "a", "--why", "a comment"]).code,
        Some(0)
    );
    assert_eq!(space.run(), [""; 0]);
}
