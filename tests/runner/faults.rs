//! A full disk, a store that cannot be written, files that cannot be read: a clear error, nothing
//! lost, and the next run goes on.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::{Said, Space, said};

const TWO: &str = "[stage.a]\nkind = 'command'\nshell = 'echo 1 > {out.x}'\nout.x = 'x'\n[stage.b]\nkind = 'command'\nshell = 'head -c 3000000 /dev/zero > {out.y}; cat {in.x} >> {out.y}'\nin.x = 'a.x'\nout.y = 'y'\n";

fn ok(command: &str, arguments: &[&str]) -> bool {
    Command::new(command)
        .args(arguments)
        .output()
        .is_ok_and(|o| o.status.success())
}

/// A user without rights: whom to run as where the tests run as root, who is never refused.
pub const NOBODY: u32 = 65534;

/// `repro` as a user without rights; says so if that cannot be.
pub fn without_rights(space: &Space, arguments: &[&str]) -> Option<Said> {
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let mut command = space.command(arguments);
    if root {
        fs::set_permissions(space.dir(), Permissions::from_mode(0o755)).expect("ours");
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Ok(output) => Some(said(output)),
        Err(e) => {
            eprintln!("SKIPPED: repro cannot be started as another user: {e}");
            None
        }
    }
}

#[test]
fn a_full_disk_fails_the_stage_and_loses_nothing() {
    let space = Space::new(TWO);
    let store = space.path("small");
    fs::create_dir(&store).expect("ours");
    let small = store.display().to_string();
    if !ok("mount", &["-t", "tmpfs", "-o", "size=2m", "none", &small]) {
        eprintln!("SKIPPED: this user may not mount a small file system");
        return;
    }
    let full = space.repro(&["--store", &small, "run"]);
    let status = space.repro(&["--store", &small, "status"]);
    let grown = ok("mount", &["-o", "remount,size=8m", &small]);
    let again = space.repro(&["--store", &small, "run", "--json"]);
    assert!(ok("umount", &[&small]) && grown);
    assert_eq!(full.code, Some(1), "{}", full.err);
    assert!(
        full.err.contains("no space left on the disk of the store"),
        "{}",
        full.err
    );
    assert!(status.out.contains("a  fresh\n"), "{}", status.out);
    assert_eq!(
        (again.code, again.stages("done")),
        (Some(0), vec!["b".into()]),
        "{}",
        again.err
    );
}

#[test]
fn a_read_only_store_can_be_read_and_says_that_it_cannot_be_written() {
    let space = Space::new(TWO);
    space.run();
    let store = space.path("artifacts").display().to_string();
    if !ok("mount", &["--bind", &store, &store]) || !ok("mount", &["-o", "remount,bind,ro", &store])
    {
        eprintln!("SKIPPED: this user may not mount read-only");
        return;
    }
    let fresh = space.repro(&["run"]);
    let status = space.repro(&["status"]);
    space.edit("echo 1", "echo 2");
    let stale = space.repro(&["run"]);
    assert!(ok("umount", &[&store]));
    assert_eq!(
        (fresh.code, status.code),
        (Some(0), Some(0)),
        "{}",
        fresh.err
    );
    assert_eq!(stale.code, Some(1));
    assert!(stale.err.contains("Read-only file system"), "{}", stale.err);
    assert_eq!(space.run(), ["a", "b"]);
}

#[test]
fn a_store_without_permission_is_named() {
    let space = Space::new(TWO);
    fs::create_dir(space.path("artifacts")).expect("ours");
    fs::set_permissions(space.path("artifacts"), Permissions::from_mode(0o555)).expect("ours");
    let Some(said) = without_rights(&space, &["run"]) else {
        return;
    };
    fs::set_permissions(space.path("artifacts"), Permissions::from_mode(0o755)).expect("ours");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("artifacts") && said.err.contains("Permission denied"),
        "{}",
        said.err
    );
    assert_eq!(space.run(), ["a", "b"]);
}

#[test]
fn a_file_without_permission_is_named_and_its_stage_not_run() {
    let space = Space::new(&TWO.replace("out.x = 'x'", "out.x = 'x'\nfiles = 'data.csv'"));
    space.write("data.csv", "1\n");
    fs::set_permissions(space.path("data.csv"), Permissions::from_mode(0o000)).expect("ours");
    fs::create_dir(space.path("artifacts")).expect("ours");
    fs::set_permissions(space.path("artifacts"), Permissions::from_mode(0o777)).expect("ours");
    let Some(said) = without_rights(&space, &["run"]) else {
        return;
    };
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains(
            "pipeline.toml:5:9: stage `a`: `files`: data.csv cannot be read: Permission denied"
        ),
        "{}",
        said.err
    );
    fs::set_permissions(space.path("data.csv"), Permissions::from_mode(0o644)).expect("ours");
    fs::remove_dir_all(space.path("artifacts")).expect("there");
    assert_eq!(space.run(), ["a", "b"]);
}

#[test]
fn a_file_that_fails_to_be_read_is_named() {
    let space = Space::new(&TWO.replace("out.x = 'x'", "out.x = 'x'\nfiles = 'data.csv'"));
    // Reading the memory of a process at address 0 is an input/output error, also for root.
    std::os::unix::fs::symlink("/proc/self/mem", space.path("data.csv")).expect("ours");
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("data.csv cannot be read"), "{}", said.err);
    fs::remove_file(space.path("data.csv")).expect("ours");
    space.write("data.csv", "");
    assert_eq!(space.run(), ["a", "b"]);
}

#[test]
fn a_link_in_the_place_of_an_artifact_is_not_read_and_it_is_made_again() {
    let space = Space::new(TWO);
    space.run();
    let path = space.result("a").join("x");
    fs::remove_file(&path).expect("there");
    std::os::unix::fs::symlink("/proc/self/mem", &path).expect("ours");
    let status = space.status();
    assert!(
        status.contains("a  stale  output x is not what was committed"),
        "{status}"
    );
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn a_store_that_vanishes_under_a_run_is_a_clear_error() {
    let space = Space::new(&TWO.replace(
        "echo 1 > {out.x}",
        "[ -e gone ] || { touch gone; rm -rf artifacts; }; echo 1 > {out.x}",
    ));
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("FAIL   a"), "{}", said.err);
    assert_eq!(space.run(), ["a", "b"]);
}

/// Times in the future, as they are after a clock was set back: files are read instead of
/// trusted, and nothing is lost.
#[test]
fn a_clock_that_went_backwards_costs_reading_only() {
    let space = Space::new(&TWO.replace("out.x = 'x'", "out.x = 'x'\nfiles = 'data.csv'"));
    space.write("data.csv", "1\n");
    space.run();
    let index = space.read("artifacts/index");
    let later = index
        .replace(",17", ",27")
        .replace("\"at\":17", "\"at\":27");
    assert_ne!(
        index, later,
        "nanoseconds since 1970 begin with 17 until 2027"
    );
    space.write("artifacts/index", &later);
    let tomorrow = SystemTime::now() + Duration::from_secs(86400);
    for path in [space.path("data.csv"), space.path("pipeline.toml")] {
        let file = File::options().write(true).open(path).expect("ours");
        file.set_modified(tomorrow).expect("ours");
    }
    assert_eq!(space.run(), [""; 0]);
    space.write("data.csv", "2\n");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.repro(&["verify"]).code, Some(0));
}

#[test]
fn a_file_in_the_place_of_a_folder_is_an_error_not_a_loss() {
    let space = Space::new(TWO);
    space.write("artifacts", "not a folder");
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("artifacts"), "{}", said.err);
    assert_eq!(space.read("artifacts"), "not a folder");
}

#[test]
fn folders_that_vanished_are_made_again() {
    let space = Space::new(TWO);
    space.run();
    fs::remove_dir_all(space.path("artifacts/results")).expect("there");
    assert!(space.status().contains("a  stale  output x is missing"));
    assert_eq!(space.run(), ["a", "b"]);
    fs::remove_dir_all(space.path("artifacts")).expect("there");
    assert_eq!(space.run(), ["a", "b"]);
}

#[test]
fn a_missing_input_file_is_named() {
    let space = Space::new(&TWO.replace("out.x = 'x'", "out.x = 'x'\nfiles = 'data.csv'"));
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("`files`: `data.csv` is not there"),
        "{}",
        said.err
    );
    space.write("data.csv", "");
    assert_eq!(space.run(), ["a", "b"]);
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nrun = ['no-such-program', '{out.x}']\nout.x = 'x'\n",
    );
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("cannot start no-such-program"),
        "{}",
        said.err
    );
}

#[test]
fn torn_and_foreign_records_are_not_believed() {
    let space = Space::new(TWO);
    space.run();
    let record = space.result("b").join("record.json");
    fs::remove_file(space.path("artifacts/index")).expect("there");
    fs::write(&record, "{").expect("ours");
    assert_eq!(space.run(), ["b"]);
}
