//! What a program depends on is what it found at that moment, through whatever name, and what it did
//! not open itself counts where it was decided by.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Space, eventually};

fn shell(line: &str) -> Space {
    Space::new(&format!(
        "[stage.a]\nkind = 'command'\nshell = '''{line}'''\nout.x = 'x'\n"
    ))
}

/// Two runs, then a change, which is noticed.
#[track_caller]
fn noticed(line: &str, prepare: impl Fn(&Path), change: impl Fn(&Path)) {
    let space = shell(line);
    prepare(space.dir());
    assert_eq!(space.run(), ["a"], "{line}");
    assert_eq!(space.run(), [""; 0], "{line}");
    change(space.dir());
    assert!(
        space.status().contains("a  stale"),
        "{line}: {}",
        space.status()
    );
    assert_eq!(space.run(), ["a"], "{line}");
}

fn write(path: std::path::PathBuf, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

#[test]
fn what_is_moved_away_and_back_was_read() {
    let prepare = |dir: &Path| {
        write(dir.join("d/x"), "1");
        symlink("x", dir.join("d/link")).expect("a link");
    };
    noticed(
        "mv d/x d/y; cat d/y > {out.x}; mv d/y d/x",
        prepare,
        |dir| write(dir.join("d/x"), "2"),
    );
    let lines = "mv d e; cat e/* > {out.x} || :; ls -l e/none || :; mv e d";
    noticed(lines, prepare, |dir| write(dir.join("d/x"), "2"));
    noticed(lines, prepare, |dir| write(dir.join("d/new"), "2"));
    noticed(lines, prepare, |dir| {
        fs::remove_file(dir.join("d/link")).expect("there");
        symlink("none", dir.join("d/link")).expect("a link");
    });
    // Read by one name, moved by another.
    noticed(
        "cat in/x > {out.x}; mv d/x d/y; mv d/y d/x",
        |dir| {
            prepare(dir);
            symlink("d", dir.join("in")).expect("a link");
        },
        |dir| write(dir.join("d/x"), "2"),
    );
    // A link in a folder that the stage makes and moves.
    noticed(
        "mkdir m; ln -s ../d m/d; mv m n; cat n/d/x > {out.x}; rm -r n",
        prepare,
        |dir| write(dir.join("d/x"), "2"),
    );
}

#[test]
fn what_lies_behind_a_link_among_what_is_installed_counts() {
    let prepare = |dir: &Path| {
        write(dir.join("src/m/x"), "1");
        write(dir.join("env/pyvenv.cfg"), "");
        write(dir.join("env/lib/site-packages/other"), "");
        symlink("../../../src/m", dir.join("env/lib/site-packages/m")).expect("a link");
        fs::create_dir_all(dir.join("node_modules")).expect("made");
        symlink("../src/m", dir.join("node_modules/m")).expect("a link");
    };
    for path in ["env/lib/site-packages/m/x", "node_modules/m/x"] {
        noticed(&format!("cat {path} > {{out.x}}"), prepare, |dir| {
            write(dir.join("src/m/x"), "2");
        });
    }
    let other = tempfile::tempdir().expect("a folder");
    let at = other.path().display();
    let chain = |dir: &Path| {
        write(dir.join("x"), "1");
        let _ = fs::remove_file(other.path().join("b"));
        symlink(dir.join("x"), other.path().join("b")).expect("a link");
        let _ = symlink("b", other.path().join("a"));
    };
    noticed(&format!("cat {at}/a > {{out.x}}"), chain, |dir| {
        write(dir.join("x"), "2")
    });
    // A file's own link, opened by where it leads.
    let data = other.path().join("v1");
    let linked = |dir: &Path| {
        fs::write(&data, "1").expect("written");
        symlink(&data, dir.join("d")).expect("a link");
    };
    noticed("cat $(readlink -f d) > {out.x}", linked, |_| {
        fs::write(&data, "2").expect("written");
    });
}

#[test]
fn a_build_that_finds_all_up_to_date_depends_on_what_it_compared() {
    if Command::new("make").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no make here");
        return;
    }
    noticed(
        "make -s; cat prog > {out.x}",
        |dir| {
            write(dir.join("Makefile"), "prog: src.txt\n\tcp src.txt prog\n");
            write(dir.join("src.txt"), "1");
            let made = Command::new("make").arg("-s").current_dir(dir).status();
            assert!(made.expect("make").success());
        },
        |dir| write(dir.join("src.txt"), "2"),
    );
}

#[test]
fn a_folder_that_becomes_a_file_or_goes_is_noticed() {
    let prepare = |dir: &Path| {
        write(dir.join("f"), "");
        fs::create_dir(dir.join("empty")).expect("made");
    };
    noticed("test -f f || :; echo 1 > {out.x}", prepare, |dir| {
        fs::remove_file(dir.join("f")).expect("there");
        fs::create_dir(dir.join("f")).expect("made");
    });
    noticed("test -s f || :; echo 1 > {out.x}", prepare, |dir| {
        write(dir.join("f"), "1")
    });
    noticed("ls empty > {out.x} || :", prepare, |dir| {
        fs::remove_dir(dir.join("empty")).expect("there");
    });
}

#[test]
fn a_file_of_code_that_is_declared_says_nothing_of_listings_of_data() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'cat data/*.csv > {out.x}'\ncode = ['**/*.py']\nout.x = 'x'\n",
    );
    space.write("m.py", "");
    space.write("data/a.csv", "1");
    assert_eq!(space.run(), ["a"]);
    space.write("data/b.csv", "1");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn names_that_are_ignored_are_ignored_in_listings_too() {
    let space = shell("ls data > {out.x}");
    space.edit("[stage.a]", "[pipeline]\nignore = ['**/*.log']\n[stage.a]");
    space.write("data/a.csv", "1");
    assert_eq!(space.run(), ["a"]);
    space.write("data/run.log", "1");
    assert_eq!(space.run(), [""; 0]);
    space.write("data/b.csv", "1");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn what_changes_after_a_stage_has_ended_is_noticed_by_the_next_run() {
    let changes: [(&str, &str); 4] = [
        ("test -e new || :", "echo 1 > new"),
        ("ls data", "echo 1 > data/new"),
        ("readlink link", "ln -sfn other link"),
        ("cat f", "echo 2 > f"),
    ];
    for (reads, change) in changes {
        let space = Space::new(&format!(
            "[stage.a]\nkind = 'command'\nshell = '{reads}; echo 1 > {{out.x}}'\nout.x = 'x'\n\
             [stage.b]\nkind = 'command'\nshell = 'test ! -e go || sh change.sh; rm -f go; sleep 0.1; cat {{in.x}} > {{out.x}}'\n\
             in.x = 'a.x'\nout.x = 'x'\nwatch = false\n"
        ));
        space.write("data/x", "1");
        space.write("f", "1");
        symlink("data", space.path("link")).expect("a link");
        // As somebody else would, while `b` runs.
        space.write("change.sh", change);
        space.write("go", "");
        assert_eq!(space.run(), ["a", "b"], "{change}");
        assert!(space.status().contains("a  stale"), "{change}");
        assert!(
            space.run().contains(&"a".to_owned()),
            "{change}: the run says the same"
        );
    }
}

/// The result of what was there before is not kept as one of what is there now.
#[test]
fn what_is_exchanged_while_it_is_read_is_read_again() {
    let exchanges = [
        ("data/x", "mv data old; mv other data"),
        ("link/x", "ln -sfn other link"),
        ("file", "ln -sf other/x file"),
    ];
    let other = tempfile::tempdir().expect("a folder");
    let (wait, reached) = (other.path().join("wait"), other.path().join("reached"));
    for (path, change) in exchanges {
        let (wait_at, reached_at) = (wait.display(), reached.display());
        let space = shell(&format!(
            "cat {path} > {{out.x}}; : > {reached_at}; while [ -e {wait_at} ]; do sleep 0.02; done"
        ));
        space.write("data/x", "1\n");
        space.write("other/x", "2\n");
        symlink("data", space.path("link")).expect("a link");
        symlink("data/x", space.path("file")).expect("a link");
        let _ = fs::remove_file(&reached);
        write(wait.clone(), "");
        std::thread::sleep(Duration::from_millis(50));
        let run = space.start(&["run"]);
        eventually("the file is read", || reached.exists());
        let mut sh = Command::new("sh");
        let done = sh.args(["-c", change]).current_dir(space.dir()).status();
        assert!(done.expect("sh").success());
        fs::remove_file(&wait).expect("there");
        let ended = run.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(space.output("a", "x"), b"2\n", "{change}");
        assert_eq!(space.run(), [""; 0]);
    }
}

#[test]
fn a_file_that_nobody_may_read_fails_no_stage() {
    // As root everything may be read.
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root may read everything");
        return;
    }
    let space = shell("grep -r needle data > {out.x} || :; test -e {out.x} || echo > {out.x}");
    space.write("data/x", "needle");
    space.write("data/secret", "needle");
    let mode = fs::Permissions::from_mode(0o0);
    fs::set_permissions(space.path("data/secret"), mode).expect("ours");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
}

/// The runner is killed; what the program had read by then is known all the same.
#[test]
fn a_checkpoint_of_a_killed_run_is_not_handed_over_to_other_data() {
    let space = shell(
        "cat d > /dev/null; mkdir -p $REPRO_CHECKPOINT; test -e $REPRO_CHECKPOINT/c && echo again > {out.x} && exit; \
         cp d $REPRO_CHECKPOINT/c; sleep 3; : > reached; test ! -e hang || sleep 60; echo first > {out.x}",
    );
    space.write("d", "1");
    space.write("hang", "");
    let mut run = space.start(&["run"]);
    eventually("it has a checkpoint", || space.path("reached").exists());
    run.kill().expect("ours");
    let _ = run.wait();
    fs::remove_file(space.path("hang")).expect("there");
    space.write("d", "2");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"first\n");
}

#[test]
fn results_that_a_stage_was_not_given_are_told() {
    let space = Space::new(
        "[stage.b]\nkind = 'command'\nshell = 'echo 1 > {out.y}'\nout.y = 'y'\n\
         [stage.a]\nkind = 'command'\nshell = 'cat artifacts/results/*/y > {out.x}'\nout.x = 'x'\n",
    );
    let said = space.repro(&["run", "-j1", "--stage", "b"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = space.repro(&["run"]);
    assert!(said.err.contains("which it was not given"), "{}", said.err);
    assert!(
        space
            .repro(&["explain", "a"])
            .out
            .contains("which are no inputs")
    );
}

#[test]
fn a_new_store_is_ignored_by_git_until_somebody_wants_otherwise() {
    let space = shell("echo 1 > {out.x}");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.read("artifacts/.gitignore"), "*\n");
    assert!(
        space
            .read("artifacts/CACHEDIR.TAG")
            .starts_with("Signature: 8a477f597d28d172")
    );
    fs::remove_file(space.path("artifacts/.gitignore")).expect("there");
    space.write("x", "");
    assert_eq!(space.run(), [""; 0]);
    assert!(!space.path("artifacts/.gitignore").exists());
}
