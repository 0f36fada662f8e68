//! What scripts see: JSON, exit codes, archives, the graph, space.

use std::fs;
use std::path::Path;

use crate::common::{Space, eventually};

const TWO: &str = "[stage.a]\nkind = 'command'\nshell = 'echo {params.x} > {out.x}'\nout.x = 'x'\nparams.x = 1\n[stage.b]\nkind = 'command'\nrun = ['cp', '{in.x}', '{out.y}']\nin.x = 'a.x'\nout.y = 'y'\n";

#[test]
fn exit_codes_tell_stale_from_done() {
    let space = Space::new(TWO);
    assert_eq!(space.repro(&["status"]).code, Some(0));
    assert_eq!(space.repro(&["status", "--exit-code"]).code, Some(3));
    let forecast = space.repro(&["run", "--dry-run"]);
    assert!(
        forecast.out.ends_with(
            "1 would run, 1 wait for them, 0 fresh; at most 0.00 s and 2 stages that never ran\n"
        ),
        "{}",
        forecast.out
    );
    assert!(
        !space.path("artifacts").exists(),
        "a dry run writes nothing"
    );
    space.run();
    assert_eq!(space.repro(&["status", "--exit-code"]).code, Some(0));
    assert_eq!(space.ran(&["run", "--json", "--force", "b"]), ["b"]);
}

#[test]
fn a_record_tells_where_a_result_comes_from() {
    let space = Space::new(TWO);
    space.run();
    let said = space.repro(&["explain", "b", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let record = &all[0]["record"];
    assert_eq!(record["result"]["stage"], "b");
    assert!(
        record["inputs"]["x"][0]
            .as_str()
            .is_some_and(|i| i.starts_with("a.x "))
    );
    assert!(record["peak_memory_bytes"].as_u64().is_some_and(|n| n > 0));
}

#[test]
fn gc_frees_what_nothing_needs() {
    let space = Space::new(TWO);
    space.run();
    space.edit("x = 1", "x = 2");
    space.run();
    let said = space.repro(&["gc", "--dry-run"]);
    assert!(said.err.starts_with("2 folders would go"), "{}", said.err);
    space.repro(&["gc"]);
    assert_eq!(
        fs::read_dir(space.path("artifacts/results"))
            .expect("there")
            .count(),
        2
    );
    assert_eq!(space.run(), [""; 0]);
    assert!(space.repro(&["du"]).out.contains("in all"));
}

#[test]
fn gc_waits_for_whoever_reads() {
    let space = Space::new(&TWO.replace("run = ['cp'", "run = ['sh', '-c', 'sleep 1; cp $0 $1'"));
    space.run();
    let mut reader = space.start(&["verify", "--rerun", "b"]);
    eventually("it works", || space.path("artifacts/readers").exists());
    let said = space.repro(&["gc"]);
    assert!(
        said.err.contains("waiting for commands that read results"),
        "{}",
        said.err
    );
    assert!(reader.wait().expect("ours").success());
    assert_eq!(space.run(), [""; 0]);
}

#[test]
fn verify_can_compute_again() {
    let space = Space::new(TWO);
    space.run();
    assert_eq!(
        space.repro(&["verify", "--rerun", "b"]).out,
        "b  y  same bytes\n"
    );
    space.edit("echo {params.x} >", "date +%N >");
    space.run();
    let said = space.repro(&["verify", "--rerun", "a"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), "a  x  DIFFERS\n"));
}

#[test]
fn the_schema_accepts_what_the_runner_accepts() {
    let space = Space::new(TWO);
    let schema = serde_json::from_str(&space.repro(&["schema"]).out).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let paper =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipeline.toml")).expect("there");
    for (text, good) in [
        (TWO.to_owned(), true),
        (paper, cfg!(feature = "kinds")),
        (TWO.replace("run =", "rum ="), false),
        (TWO.replace("'command'", "'comand'"), false),
    ] {
        let value: serde_json::Value = toml::from_str(&text).expect("TOML");
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert_eq!(errors.is_empty(), good, "{errors:?}");
    }
}

#[test]
fn the_graph_can_be_drawn() {
    let space = Space::new(TWO);
    assert_eq!(
        space.repro(&["graph"]).out,
        "a  (command)\nb  (command)\n  x <- a.x\n"
    );
    assert!(
        space
            .repro(&["graph", "--format", "dot"])
            .out
            .contains("\"a\" -> \"b\"")
    );
    assert!(
        space
            .repro(&["completions", "bash"])
            .out
            .contains("complete")
    );
    assert!(space.repro(&["man"]).out.contains(".TH repro"));
}

#[test]
fn the_place_of_an_output_is_told_while_it_is_fresh() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nfor.lr = [0.1, 0.01]\nshell = 'echo {lr} > {out.x}; echo 1 > {out.y}'\nout.x = 'x.txt'\nout.y = 'y.txt'\n\
         [stage.b]\nkind = 'command'\nin.x = 'a@0.1.x'\nshell = 'cat {in.x} > {out.z}'\nout.z = 'z.txt'\n",
    );
    let stale = space.repro(&["path", "a@0.1.x"]).ends(3);
    stale.complains("a@0.1 is stale: never run; hint: repro run a@0.1");
    space
        .repro(&["path", "b.z"])
        .ends(3)
        .complains("b waits for what it needs");
    space.run();
    let said = space.repro(&["path", "a@0.1.x"]).ends(0);
    let path = Path::new(said.out.trim_end());
    assert!(
        path.is_absolute() && path.ends_with("x.txt"),
        "{}",
        said.out
    );
    assert_eq!(std::fs::read(path).expect("it is there"), b"0.1\n");
    assert_eq!(space.repro(&["path", "a.y"]).ends(0).out.lines().count(), 2);
    for (wrong, why) in [
        ("a", "`a` names no output\nhint: one of a.x, a.y"),
        ("b", "`b` names no output\nhint: one of b.z"),
        (
            "a@0.1.w",
            "stage `a@0.1` has no output `w`\nhint: did you mean `x`?",
        ),
        ("c.x", "there is no stage `c`\nhint: did you mean"),
    ] {
        space.repro(&["path", wrong]).ends(2).complains(why);
    }
}
