//! What was run in a store.

use crate::common::{Space, eventually};

const PIPELINE: &str = "[pipeline]\nprofile = 'full'\n[pipeline.profiles]\nfull = 'all'\nquick = 'less'\n\
    [profile.quick.a]\nx = 2\n\
    [stage.a]\nkind = 'command'\nparams.x = 1\nshell = 'test {params.x} != 7; echo {params.x} > {out.x}'\nout.x = 'x'\n\
    [stage.b]\nkind = 'command'\nin.x = 'a.x'\nshell = 'cp {in.x} {out.y}'\nout.y = 'y'\n";

fn runs(space: &Space) -> Vec<serde_json::Value> {
    let said = space.repro("runs --json").ends(0);
    serde_json::from_str(&said.out).expect("a list")
}

#[test]
fn runs_are_listed_newest_first_with_what_came_of_them() {
    let space = Space::new(PIPELINE);
    space.repro("runs").ends(0).complains("hint: repro run");
    assert!(!space.path("artifacts").exists());
    space.run();
    // What finds nothing to do and what only looks is no run.
    space.repro("run").ends(0);
    space.repro("run --dry-run --profile quick").ends(0);
    space.ran("run --json --profile quick a");
    space.repro(&["run", "--set", "a.x=7"]).ends(1);
    let all = runs(&space);
    let of = |key: &str| all.iter().map(|run| run[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("state"), ["failed", "done", "done"]);
    assert_eq!(of("profile"), ["full", "quick", "full"]);
    assert_eq!(all[0]["set"][0], "a.x=7");
    assert_eq!(all[0]["came"]["failed"][0], "a");
    assert_eq!(
        (&all[0]["came"]["exit"], &all[0]["came"]["left"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&all[1]["stages"][0], &all[1]["came"]["ran"]),
        (&"a".into(), &1.into())
    );
    assert!(all[2]["seconds"].as_f64().is_some_and(|s| s > 0.0));
    let said = space.repro("runs").ends(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].ends_with("failed  0 ran, 1 left, failed: a  full   everything --set a.x=7"),
        "{}",
        said.out
    );
    assert!(
        lines[1].contains("  done    1 ran  ") && lines[1].ends_with("quick  a"),
        "{}",
        said.out
    );
    space
        .repro("runs --last 1")
        .ends(0)
        .says_not("quick")
        .complains("2 older; hint: repro runs --last 3");
    // It is for people alone: without it nothing changes.
    std::fs::remove_file(space.path("artifacts/runs")).expect("there");
    assert_eq!(space.run(), [""; 0]);
    assert_eq!(runs(&space).len(), 0);
}

#[test]
fn a_run_that_was_killed_and_one_that_goes_on_are_told_apart() {
    let space = Space::new(&PIPELINE.replace("cp {in.x} {out.y}", "sleep 60; cp {in.x} {out.y}"));
    let state = || runs(&space).first().map(|run| run["state"].clone());
    let mut child = space.start("run");
    eventually("it runs", || state() == Some("running".into()));
    child.kill().expect("ours");
    child.wait().expect("ours");
    eventually("it is gone", || state() == Some("killed".into()));
}
