//! A full disk, a store that cannot be written, files that cannot be read: a clear error, nothing
//! lost, and the next run goes on.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::space::Space;

const TWO: &str = "[stage.a]\nkind = 'command'\nshell = 'echo 1 > {out.x}'\nout.x = 'x'\n[stage.b]\nkind = 'command'\nshell = 'head -c 3000000 /dev/zero > {out.y}; cat {in.x} >> {out.y}'\nin.x = 'a.x'\nout.y = 'y'\n";

fn ok(command: &str, arguments: &[&str]) -> bool {
    Command::new(command)
        .args(arguments)
        .output()
        .is_ok_and(|o| o.status.success())
}

/// Whether a folder without write permission can be written all the same, as root can.
fn refused_nothing() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).expect("ours");
    fs::write(folder.path().join("x"), "x").is_ok()
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
    if refused_nothing() {
        eprintln!("SKIPPED: root is never refused");
        return;
    }
    let space = Space::new(TWO);
    fs::create_dir(space.path("artifacts")).expect("ours");
    fs::set_permissions(space.path("artifacts"), Permissions::from_mode(0o500)).expect("ours");
    let said = space.repro(&["run"]);
    fs::set_permissions(space.path("artifacts"), Permissions::from_mode(0o700)).expect("ours");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("artifacts") && said.err.contains("Permission denied"),
        "{}",
        said.err
    );
    assert_eq!(space.run(), ["a", "b"]);
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
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("file data.csv does not exist"),
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
