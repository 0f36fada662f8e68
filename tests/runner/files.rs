//! What a command declares to read: each spelling counts, and what stands for nothing is an error
//! before anything runs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::Space;

/// A project in a folder of its own, so that there is room beside it.
fn project(files: &str) -> Space {
    Space::new(&format!(
        "[stage.a]\nkind = 'command'\nshell = 'date +%N > {{out.x}}'\nfiles = [{files}]\nout.x = 'x'\n"
    ))
}

#[track_caller]
fn noticed(space: &Space, file: &Path) {
    space.run();
    assert_eq!(space.run(), [""; 0]);
    let was = fs::read(file).expect("there");
    fs::write(file, [&was[..], b"more"].concat()).expect("ours");
    // The clock of files stands still for so long.
    std::thread::sleep(std::time::Duration::from_millis(12));
    assert_eq!(space.run(), ["a"], "a change of {} counts", file.display());
    fs::write(file, was).expect("ours");
    assert_eq!(space.run(), [""; 0], "the earlier result counts again");
}

#[test]
fn every_spelling_of_a_file_counts() {
    for declared in [
        "data/a.csv",
        "./data",
        "data/",
        ".",
        "data/./*.csv",
        "**/a.*",
        "no/../data",
    ] {
        let space = project(&format!("'{declared}'"));
        space.write("data/a.csv", "1\n");
        noticed(&space, &space.path("data/a.csv"));
    }
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("a.csv");
    fs::write(&file, "1\n").expect("ours");
    let folder = outside.path().display();
    let name = outside
        .path()
        .file_name()
        .expect("it has one")
        .to_string_lossy();
    let spellings = [
        format!("'{folder}'"),
        format!("'{folder}/*.csv'"),
        format!("'../{name}/a.csv'"),
        format!("'./../{name}'"),
    ];
    for declared in spellings {
        let space = project(&declared);
        noticed(&space, &file);
    }
}

#[test]
fn two_spellings_are_one_cause() {
    let space = project("'data/a.csv', 'b.csv'");
    space.write("data/a.csv", "1\n");
    space.write("b.csv", "1\n");
    assert_eq!(space.run(), ["a"]);
    let dir = space.dir().display().to_string();
    let mut last = "'data/a.csv', 'b.csv'".to_owned();
    for declared in [
        "'b.csv', './data'".to_owned(),
        "'b.csv', 'b.csv', 'data/*', 'data'".into(),
        format!("'{dir}/data', '{dir}/./b.csv'"),
    ] {
        space.edit(&last, &declared);
        assert_eq!(space.run(), [""; 0], "{declared}");
        last = declared;
    }
}

#[test]
fn names_with_any_signs_and_bytes_count() {
    for name in [
        "s[1].csv",
        "{a}.csv",
        "a*",
        "with space",
        "back\\slash",
        "ö: x",
        "#a",
        "~",
    ] {
        let space = project(&format!("'{name}'"));
        fs::write(space.path(name), "1").expect("ours");
        noticed(&space, &space.path(name));
    }
    let space = project("'data'");
    fs::create_dir(space.path("data")).expect("ours");
    let latin = space.path("data").join(OsStr::from_bytes(b"caf\xe9.csv"));
    fs::write(&latin, "1").expect("ours");
    fs::write(space.path("data/new\nline"), "1").expect("ours");
    noticed(&space, &latin);
    noticed_name(&space, "data/caf\\xE9.csv");
}

/// A name as it is printed may be written in the pipeline.
fn noticed_name(space: &Space, printed: &str) {
    let explained = space.repro(&["explain", "a"]).out;
    let line = format!("file.{}: ", printed.replace('\\', "\\\\"));
    assert!(explained.contains(&line), "{explained}");
    space.edit("'data'", &format!("'{printed}'"));
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn what_links_lead_to_counts() {
    let outside = tempfile::tempdir().expect("a folder");
    let ext = |name: &str| outside.path().join(name);
    for (name, text) in [("a.csv", "1"), ("b.csv", "2"), ("v1", ""), ("v2", "")] {
        match text {
            "" => {
                fs::create_dir(ext(name)).expect("ours");
                fs::write(ext(name).join("c.csv"), name).expect("ours");
            }
            text => fs::write(ext(name), text).expect("ours"),
        }
    }
    let space = project("'data/**/*.csv'");
    fs::create_dir(space.path("data")).expect("ours");
    symlink(ext("a.csv"), space.path("data/a.csv")).expect("ours");
    symlink(ext("v1"), space.path("data/latest")).expect("ours");
    symlink("..", space.path("data/round")).expect("ours");
    noticed(&space, &ext("a.csv"));
    noticed(&space, &ext("v1/c.csv"));
    for (link, to) in [
        ("data/a.csv", "b.csv"),
        ("data/latest", "v2"),
        ("data/latest", "gone"),
    ] {
        fs::remove_file(space.path(link)).expect("there");
        symlink(ext(to), space.path(link)).expect("ours");
        assert_eq!(space.run(), ["a"], "{link} leads to {to} now");
    }
}

#[test]
fn what_stands_for_nothing_is_an_error_before_anything_runs() {
    let first = "[stage.first]\nkind = 'command'\nshell = 'touch ran {out.x}'\nout.x = 'x'\n";
    for (declared, says) in [
        (
            "'data/a.csv', 'dta/*.csv'",
            "pipeline.toml:8:24: stage `a`: `files`: `dta/*.csv` matches no file\nhint: did you mean `data/*.csv`?\n",
        ),
        (
            "'data/b.csv'",
            "pipeline.toml:8:10: stage `a`: `files`: `data/b.csv` is not there\nhint: did you mean `data/a.csv`?\n",
        ),
        (
            "'made.txt'",
            "pipeline.toml:8:10: stage `a`: `files`: `made.txt` is not there\nhint: what another stage makes is its output (out.NAME) and is read through in.NAME; anything else must be there before the run\n",
        ),
        (
            "'pipe'",
            "`pipe` is a named pipe, which has no content\nhint: name files",
        ),
        ("'with'", "`with/pipe` is a named pipe"),
        ("'/dev/null'", "`/dev/null` is a device"),
        ("'empty'", "`empty` is a folder without a file"),
        ("''", "an empty name stands for nothing"),
        ("'data/[a'", "`data/[a` is no pattern"),
        ("'lost'", "`lost` is a link to nowhere, which is not there"),
    ] {
        let space = project(declared);
        let text = space.read("pipeline.toml");
        space.write("pipeline.toml", &format!("{first}{text}"));
        space.write("data/a.csv", "1");
        for folder in ["with", "empty"] {
            fs::create_dir(space.path(folder)).expect("ours");
        }
        for pipe in ["pipe", "with/pipe"] {
            let made = std::process::Command::new("mkfifo")
                .arg(space.path(pipe))
                .status();
            assert!(made.expect("mkfifo starts").success());
        }
        symlink("nowhere", space.path("lost")).expect("ours");
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(says), "{says} not in\n{}", said.err);
        assert!(!space.path("ran").exists());
        let sentence = says.split("`files`: ").last().unwrap_or_default();
        let sentence = sentence.lines().next().unwrap_or_default();
        let status = space.status();
        assert!(status.contains("first  stale  never run"), "{status}");
        assert!(status.contains(sentence), "{sentence} not in\n{status}");
        assert_eq!(
            space.repro(&["run", "first"]).code,
            Some(0),
            "others can be run"
        );
    }
}

#[test]
fn declared_code_is_looked_for_like_files() {
    let space = project("'data.csv'");
    space.write("data.csv", "1");
    space.write("train.sh", "");
    space.edit("\nout.x", "\ncode = 'trian.sh'\nout.x");
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(2));
    let says = "pipeline.toml:5:8: stage `a`: `code`: `trian.sh` is not there\nhint: did you mean `train.sh`?\n";
    assert_eq!(said.err, says);
}

#[test]
fn a_stage_with_nothing_to_read_does_not_wait() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'echo 1 > {out.x}'\nout.x = 'x'\n\
         [stage.b]\nkind = 'command'\nshell = 'cat {in.x} > {out.x}'\nin.x = 'a.x'\nfiles = 'no.csv'\nout.x = 'x'\n",
    );
    assert!(space.status().contains("b  stale  `no.csv` is not there"));
}

#[test]
fn a_depfile_names_files_as_make_reads_it() {
    for (name, line) in [
        ("co:lon.csv", "x: co\\:lon.csv"),
        ("do$lar.csv", "x: do$$lar.csv"),
        ("ha#sh.csv", "x : ha\\#sh.csv"),
        ("d ir.csv", "x y: d\\ ir.csv"),
        ("d ir.csv", "x: \"d ir.csv\""),
        ("a.csv", "x: \\\r\n  ./a.csv\r\na.csv:\r\n"),
    ] {
        let space = Space::new(
            "[stage.a]\nkind = 'command'\nshell = 'cp lines {depfile}; date +%N > {out.x}'\nout.x = 'x'\n",
        );
        space.write("lines", line);
        fs::write(space.path(name), "1").expect("ours");
        std::thread::sleep(std::time::Duration::from_millis(20));
        noticed(&space, &space.path(name));
    }
}

#[test]
fn what_a_depfile_names_counts_wherever_it_lies_and_wherever_it_leads() {
    let outside = tempfile::tempdir().expect("a folder");
    for version in ["v1", "v2"] {
        fs::create_dir(outside.path().join(version)).expect("ours");
        fs::write(outside.path().join(version).join("a.csv"), version).expect("ours");
    }
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'cp lines {depfile}; date +%N > {out.x}'\nout.x = 'x'\n",
    );
    let (ext, link) = (outside.path().join("v1/a.csv"), space.path("latest"));
    symlink(outside.path().join("v1"), &link).expect("ours");
    space.write(
        "lines",
        &format!("x: latest/a.csv {} /dev/null\n", ext.display()),
    );
    noticed(&space, &ext);
    fs::remove_file(&link).expect("there");
    symlink(outside.path().join("v2"), &link).expect("ours");
    assert!(
        space
            .status()
            .contains("a  stale  file latest/a.csv changed")
    );
    assert_eq!(space.run(), ["a"]);
}
