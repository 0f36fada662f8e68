//! What outputs are and stay: all that the next stage can see counts, nothing changes a result, and
//! what a stage was given is what its result is said to be made from.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use crate::common::{Said, Space, eventually, said};
use crate::faults::{NOBODY, without_rights};

/// `repro` as a user without rights to whom the space belongs; nothing where that cannot be.
fn as_nobody(space: &Space, arguments: &[&str]) -> Option<Said> {
    let _ = chown(space.dir(), Some(NOBODY), Some(NOBODY));
    without_rights(space, arguments)
}

/// A folder, and a stage that tells all it can see of it.
fn seen(make: &str) -> Space {
    Space::new(&format!(
        r#"
[stage.a]
kind = "command"
shell = "{make}"
out.x = "x"
[stage.b]
kind = "command"
shell = "cd {{in.x}}; find . -printf '%P %y %l ' -perm -u=x -printf x -type f -exec cat '{{}}' ';' | sort > {{out.y}}"
in.x = "a.x"
out.y = "y"
"#
    ))
}

#[test]
fn what_the_next_stage_can_see_counts() {
    let space = seen("mkdir {out.x}; echo 1 > {out.x}/f");
    assert_eq!(space.run(), ["a", "b"]);
    for (old, new) in [
        ("mkdir {out.x};", "mkdir {out.x} {out.x}/empty;"),
        ("/f\"", "/f; chmod +x {out.x}/f\""),
        ("/f; chmod", "/f; ln -s f {out.x}/link; chmod"),
        ("ln -s f", "ln -s empty"),
    ] {
        space.edit(old, new);
        assert_eq!(space.run(), ["a", "b"], "{new}");
    }
    // Equal in all that counts: other modes, and a link written in another way.
    space.edit(
        "ln -s empty",
        "chmod 700 {out.x}/empty; ln -s {out.x}/empty",
    );
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
}

#[test]
fn an_archive_brings_back_all_that_counts() {
    let here = seen(
        "mkdir -p {out.x}/deep/empty; echo 1 > {out.x}/f; chmod 755 {out.x}/f; ln -s f {out.x}/link",
    );
    here.run();
    let there = Space::new("");
    fs::remove_file(there.path("pipeline.toml")).expect("just written");
    let archive = there.path("all.tar.gz").display().to_string();
    let said = here.repro(&["export", &archive]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = there.repro(&["import", &archive]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(there.repro(&["verify"]).code, Some(0));
    assert_eq!(there.run(), [""; 0]);
    there.edit("in.x = ", "params.again = 1\nin.x = ");
    let was = here.output("b", "y");
    assert_eq!(there.run(), ["b"]);
    assert_eq!(there.output("b", "y"), was);
    let mode = fs::metadata(&archive).expect("there").mode() & 0o777;
    assert_eq!(
        mode,
        0o666 & !umask(),
        "who may read it is for the umask to say"
    );
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
    let mask = line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok());
    mask.expect("Linux tells")
}

#[test]
fn a_declared_file_that_is_a_link_is_exported_as_what_it_shows() {
    let space = Space::new(
        "[stage.a]\nkind = \"command\"\nrun = [\"./go.sh\", \"{out.x}\"]\nfiles = \"in.csv\"\nout.x = \"x\"\n",
    );
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("data"), "1,2\n").expect("ours");
    std::os::unix::fs::symlink(outside.path().join("data"), space.path("in.csv")).expect("ours");
    space.write("go.sh", "#!/bin/sh\ncat in.csv > $1\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(space.path("go.sh"), mode).expect("ours");
    space.run();
    let there = Space::new("");
    fs::remove_file(there.path("pipeline.toml")).expect("just written");
    let archive = there.path("all.tar.gz").display().to_string();
    let said = space.repro(&["export", "--outside", &archive]);
    assert_eq!(said.code, Some(0));
    assert_eq!(there.repro(&["import", &archive]).code, Some(0));
    assert_eq!(there.read("in.csv"), "1,2\n");
    assert_eq!(there.repro(&["verify", "--rerun", "a"]).code, Some(0));
}

#[test]
fn a_link_out_of_an_output_brings_what_it_points_to() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
shell = "mkdir {out.set}; ln -s $PWD/raw {out.set}/raw; ln -s $PWD/raw/one {out.one}"
files = "raw"
out.set = "set"
out.one = "one"
[stage.b]
kind = "command"
shell = "cat {in.set}/raw/* {in.one} > {out.y}"
in.set = "a.set"
in.one = "a.one"
out.y = "y"
"#,
    );
    space.write("raw/one", "1");
    space.run();
    space.write("raw/one", "2");
    assert_eq!(space.run(), ["a", "b"]);
    assert_eq!(space.output("b", "y"), b"22");
    let log = space.repro(&["log", "a"]).out;
    assert!(log.contains("output `set`: copied 1 file (1 B)"), "{log}");
}

#[test]
fn what_cannot_be_kept_is_an_error_and_no_hang() {
    let space = seen("true");
    for (make, why) in [
        ("mkfifo {out.x}", "is a named pipe"),
        ("mkdir {out.x}; mkfifo {out.x}/p", "x/p is a named pipe"),
        ("mkdir {out.x}; ln -s /dev/zero {out.x}/z", "is a device"),
        (
            "mkdir {out.x}; ln -s /no/such {out.x}/z",
            "is a link to /no/such",
        ),
        (
            "mkdir {out.x}; ln -s $PWD {out.x}/z",
            "in which it lies itself",
        ),
    ] {
        let pipeline = space.read("pipeline.toml");
        let was = pipeline
            .lines()
            .find(|l| l.starts_with("shell"))
            .expect("a");
        space.edit(was, &format!("shell = \"{make}\""));
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(why), "{why:?} not in\n{}", said.err);
    }
}

#[test]
fn any_name_and_any_depth_can_be_kept_or_is_refused_with_a_word() {
    let space = seen("mkdir {out.x}; touch {out.x}/$(printf 'caf\\\\351')");
    assert_eq!(space.run(), ["a", "b"]);
    assert_eq!(space.run(), [""; 0]);
    // A shell's `cd` asks for every folder above.
    let deep = "mkdir {out.x}; cd {out.x}; perl -e 'for (1..300) { mkdir q(d); chdir q(d) } open my $f, q(>), q(f)'";
    let was = "mkdir {out.x}; touch {out.x}/$(printf 'caf\\\\351')";
    space.edit(was, deep);
    assert_eq!(space.run(), ["a", "b"]);
    // Deeper than a path can be long.
    space.edit("1..300", "1..3000");
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("too long"), "{}", said.err);
    space.edit("1..3000", "1..3");
    assert_eq!(space.run(), ["a", "b"], "what was left is no hindrance");
}

#[test]
fn a_hard_linked_output_leaves_the_users_file_alone() {
    let space = Space::new(
        "[stage.a]\nkind = \"command\"\nrun = [\"ln\", \"big\", \"{out.x}\"]\nfiles = \"big\"\nout.x = \"x\"\n",
    );
    space.write("big", "one");
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(space.path("big"), mode).expect("ours");
    assert_eq!(space.run(), ["a"]);
    let meta = fs::metadata(space.path("big")).expect("there");
    assert_eq!((meta.mode() & 0o777, meta.nlink()), (0o640, 1));
    let result = space.result("a").join("x");
    space.write("big", "two");
    assert_eq!(fs::read(result).expect("there"), b"one");
}

/// `b` changes what it was given, and what it makes is not kept, whatever `c` did meanwhile.
const SPOILING: &str = r#"
[stage.a]
kind = "command"
shell = "echo one > {out.x}; echo a >> ran"
out.x = "x"
[stage.b]
kind = "command"
shell = "SPOIL; echo b > {out.x}"
in.a = "a.x"
out.x = "x"
[stage.c]
kind = "command"
shell = "timeout 5 cat {in.a} > {out.y}; sleep 0.6; echo c >> ran"
in.a = "a.x"
out.y = "y"
[stage.d]
kind = "command"
shell = "sleep 0.2; cat {in.a} > {out.y}"
in.a = "a.x"
in.c = "c.y"
out.y = "y"
"#;

#[test]
fn a_stage_that_changes_what_it_was_given_fails_and_nothing_made_from_that_is_kept() {
    for spoil in [
        "sed -i s/one/BAD/ {in.a}",
        "chmod u+w {in.a}; echo BAD >> {in.a}",
        "echo BAD > {in.a}; sleep 0.1; echo one > {in.a}",
        "rm {in.a}",
        "rm {in.a}; mkfifo {in.a}",
        "rm {in.a}; mkdir {in.a}",
        "chmod +x {in.a}",
    ] {
        let space = Space::new(&SPOILING.replace("SPOIL", &format!("sleep 0.3; {spoil}")));
        let said = space.repro(&["run", "-k", "-j4"]);
        assert_eq!(said.code, Some(1), "{spoil}: {}", said.err);
        let why = "a.x (";
        assert!(said.err.contains(why), "{spoil}: {}", said.err);
        assert!(
            said.err.contains("changed while it ran"),
            "{spoil}: {}",
            said.err
        );
        let status = space.status();
        // Neither what was changed, nor what could have read it then, was kept.
        assert!(!status.contains("b  fresh"), "{spoil}: {status}");
        assert!(!status.contains("c  fresh"), "{spoil}: {status}");
        space.edit(spoil, "true");
        space.run();
        assert_eq!(space.output("d", "y"), b"one\n", "{spoil}");
    }
}

#[test]
fn a_spoiled_result_is_made_again_before_anything_reads_it() {
    let spoil = "echo BAD > {in.a}";
    let space = Space::new(&SPOILING.replace("SPOIL", spoil));
    // One after the other: `c`, `b`, `d`.
    let said = space.repro(&["run", "-k", "-j1"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("failed: b"), "{}", said.err);
    assert_eq!(space.output("d", "y"), b"one\n", "{}", said.err);
}

#[test]
fn a_link_that_goes_down_and_up_again_is_written_straight() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nout.d = 'd'\nshell = '''mkdir -p {out.d}/deep; echo 1 > {out.d}/f
         ln -s deep/../f {out.d}/l; ln -s ../deep/../f {out.d}/deep/up'''\n",
    );
    assert_eq!(space.run(), ["a"]);
    let result = space.result("a");
    let target = |name: &str| fs::read_link(result.join("d").join(name)).expect("a link");
    assert_eq!(target("l"), Path::new("f"));
    assert_eq!(target("deep/up"), Path::new("../f"));
    assert_eq!(space.repro(&["export", "e.tar.gz"]).code, Some(0));
    let other = Space::new("");
    let archive = space.path("e.tar.gz").display().to_string();
    fs::remove_file(other.path("pipeline.toml")).expect("there");
    let said = other.repro(&["import", &archive]);
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn a_linked_input_is_not_a_changed_one() {
    let space = Space::new(&SPOILING.replace("SPOIL", "ln {in.a} {out.x}.l; chmod a+r {in.a}"));
    space.edit("; echo b > {out.x}\"", "; mv {out.x}.l {out.x}\"");
    assert_eq!(space.run(), ["a", "b", "c", "d"]);
    assert_eq!(space.run(), [""; 0]);
    let links = fs::metadata(space.result("a").join("x"))
        .expect("there")
        .nlink();
    assert_eq!(links, 1);
}

/// It may have been read in between: the program runs once more, and is left in peace then.
#[test]
fn a_file_that_was_changed_and_changed_back_while_a_program_ran_is_read_again() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
shell = "touch started; while [ ! -e go ]; do sleep 0.01; done; cat data > {out.x}; touch read; while [ ! -e on ]; do sleep 0.01; done"
files = "data"
out.x = "x"
"#,
    );
    space.write("data", "good\n");
    std::thread::sleep(Duration::from_millis(100));
    let run = space.start(&["run", "--json"]);
    eventually("it reads", || space.path("started").exists());
    fs::rename(space.path("data"), space.path("kept")).expect("ours");
    space.write("data", "BAD!\n");
    space.write("go", "");
    eventually("it has read", || space.path("read").exists());
    fs::rename(space.path("kept"), space.path("data")).expect("ours");
    space.write("on", "");
    let ended = said(run.wait_with_output().expect("it ends"));
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.err.contains("runs once more: data was"),
        "{}{}",
        ended.out,
        ended.err
    );
    assert_eq!(space.output("a", "x"), b"good\n");
}

#[test]
fn a_copy_of_an_input_can_be_changed() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
shell = "echo 1 > {out.x}; mkdir {out.d}; echo 2 > {out.d}/f"
out.x = "x"
out.d = "d"
[stage.b]
kind = "command"
shell = "cp -p {in.x} {out.y} && echo more >> {out.y}; cp -rp {in.d} {out.e} && echo more >> {out.e}/f && touch {out.e}/g"
in.x = "a.x"
in.d = "a.d"
out.y = "y"
out.e = "e"
"#,
    );
    if let Some(said) = as_nobody(&space, &["run"]) {
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(space.output("b", "y"), b"1\nmore\n");
    }
}

#[test]
fn read_only_folders_hinder_neither_the_next_run_nor_gc() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
shell = "mkdir -p {out.x}/ro/deep; echo 1 > {out.x}/ro/deep/f; chmod 400 {out.x}/ro/deep/f; chmod 555 {out.x}/ro/deep; chmod 000 {out.x}/ro; test ! -e fail"
out.x = "x"
"#,
    );
    space.write("fail", "");
    let Some(said) = as_nobody(&space, &["run"]) else {
        return;
    };
    assert_eq!(said.code, Some(1), "{}", said.err);
    fs::remove_file(space.path("fail")).expect("ours");
    for change in ["kind", "params.i = 1\nkind"] {
        space.edit("kind", change);
        let said = as_nobody(&space, &["run"]).expect("as before");
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    let said = as_nobody(&space, &["gc"]).expect("as before");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let left = fs::read_dir(space.path("artifacts/results")).expect("there");
    assert_eq!(left.count(), 1);
}

#[test]
fn who_may_read_a_result_is_for_the_umask_to_say() {
    let space = Space::new(
        "[stage.a]\nkind = \"command\"\nshell = \"umask 077; echo 1 > {out.x}\"\nout.x = \"x\"\n",
    );
    space.run();
    space.run();
    for name in ["index", "fresh"] {
        let meta = fs::metadata(space.path("artifacts").join(name)).expect("there");
        assert_eq!(meta.mode() & 0o777, 0o666 & !umask(), "{name}");
    }
    let meta = fs::metadata(space.result("a").join("x")).expect("there");
    assert_eq!(meta.mode() & 0o777, 0o666 & !umask());
}

#[test]
fn a_process_that_is_left_writing_to_an_output_is_told_of() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
shell = "echo good > {out.x}; setsid sh -c 'exec 7>>\"$0\"; sleep 5; echo LATE >&7' {out.x} & sleep 0.2"
out.x = "x"
"#,
    );
    // It cannot write any more: it was ended with its stage.
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains(" running, which w"), "{}", said.err);
    assert_eq!(space.output("a", "x"), b"good\n");
    // Where nobody watches, it is only seen that the file is open.
    let text = space.read("pipeline.toml");
    space.write("pipeline.toml", &format!("{text}watch = false\n"));
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.contains("x is still open for writing in process"),
        "{}",
        said.err
    );
    // What ends in time is waited for.
    space.edit("sleep 5", "sleep 1");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"good\nLATE\n");
}

/// The shortcut of a run with nothing to do works for folders as well, and sees what is in them.
#[test]
fn a_change_inside_an_output_folder_is_noticed() {
    let space = seen("mkdir -p {out.x}/deep; echo 1 > {out.x}/deep/f; echo 2 > {out.x}/deep/g");
    space.run();
    space.run();
    assert!(space.path("artifacts/fresh").exists());
    for spoil in [
        "echo 3 > deep/f",
        "rm deep/f",
        "mv deep/f deep/h",
        "mkdir more",
        "chmod +x deep/f",
    ] {
        let result = space.result("a").join("x");
        let sh = std::process::Command::new("sh")
            .args(["-c", spoil])
            .current_dir(result)
            .status();
        assert!(sh.is_ok_and(|s| s.success()), "{spoil}");
        assert!(
            space
                .status()
                .contains("a  stale  output x is not what was committed"),
            "{spoil}"
        );
        assert_eq!(space.run(), ["a"], "{spoil}");
    }
}
