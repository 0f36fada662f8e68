//! Python programs: their imported modules are code, and nothing in them has to change for that.

use std::fs;
use std::process::Command;

use crate::common::Space;

fn python() -> bool {
    let there = Command::new("python3").arg("-V").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no python3 here");
    }
    there
}

#[test]
fn modules_that_python_imported_count_with_nothing_declared() {
    if !python() {
        return;
    }
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nrun = ['python3', 'train.py', '{out.x}']\nout.x = 'x'\n",
    );
    space.write(
        "train.py",
        "import sys, lib.used\nopen(sys.argv[1], 'w').write(str(lib.used.VALUE))\n",
    );
    space.write("lib/used.py", "VALUE = 1\n");
    space.write("lib/unused.py", "VALUE = 1\n");
    space.run();
    assert_eq!(space.run(), [""; 0]);
    space.write("lib/unused.py", "VALUE = 2\n");
    assert_eq!(space.run(), [""; 0]);
    space.write("lib/used.py", "VALUE = 2\n");
    assert!(
        space
            .status()
            .contains("a  stale  file lib/used.py changed"),
        "{}",
        space.status()
    );
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"2");
}

#[test]
fn a_change_of_a_module_that_was_imported_can_be_accepted_declared_or_not() {
    if !python() {
        return;
    }
    for declared in ["", "code = 'lib/*.py'\n"] {
        let space = Space::new(&format!(
            "[stage.a]\nkind = 'command'\nrun = ['python3', 'a.py', '{{out.x}}', '{{params.n}}']\nout.x = 'x'\nparams.n = 1\n{declared}"
        ));
        let program = "import sys, lib.used\nopen(sys.argv[1], 'w').write(str(lib.used.VALUE))\n";
        space.write("a.py", program);
        space.write("lib/used.py", "VALUE = 1\n");
        space.run();
        space.write("lib/used.py", "VALUE = 1  # one\n");
        let explained = space.repro(&["explain", "a"]).out;
        let told = explained.matches("lib/used.py changed").count();
        assert_eq!(told, 1, "{explained}");
        assert!(explained.contains("repro accept a"), "{explained}");
        let accept = || space.repro(&["accept", "a", "--why", "a comment"]).code;
        assert_eq!(accept(), Some(0));
        assert_eq!(space.run(), [""; 0]);
        assert_eq!(accept(), Some(2), "nothing is left to accept");
        // A result made from the accepted text counts as well, and so does the text before it.
        space.edit("params.n = 1", "params.n = 2");
        assert_eq!(space.run(), ["a"]);
        assert_eq!(space.run(), [""; 0]);
        space.write("lib/used.py", "VALUE = 1\n");
        assert_eq!(space.run(), [""; 0]);
        space.write("lib/used.py", "VALUE = 2\n");
        assert_eq!(space.run(), ["a"]);
        fs::remove_file(space.path("lib/used.py")).expect("it is there");
        assert_eq!(
            accept(),
            Some(2),
            "a module that is gone is equal to nothing"
        );
    }
}

#[test]
fn watching_python_says_nothing_and_lets_the_users_own_hook_speak() {
    if !python() {
        return;
    }
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nrun = ['python3', 'a.py', '{out.x}']\nout.x = 'x'\n",
    );
    let log_of = |program: &str| {
        space.write("a.py", program);
        let mut run = space.command(&["run"]);
        let ended = run.env("PYTHONPATH", space.path("hooks")).status();
        assert!(ended.expect("repro starts").success());
        space.repro(&["log", "a"]).out
    };
    assert_eq!(
        log_of("import sys\nopen(sys.argv[1], 'w').write('1')\n"),
        ""
    );
    space.write("hooks/sitecustomize.py", "print('my own')\n");
    let log = log_of("import sys\nopen(sys.argv[1], 'w').write('2')\n");
    assert_eq!(log, "my own\n");
    space.write("hooks/sitecustomize.py", "import nowhere\n");
    let log = log_of("import sys\nopen(sys.argv[1], 'w').write('3')\n");
    assert!(log.contains("No module named 'nowhere'"), "{log}");
}
