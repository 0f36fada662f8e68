//! Results that are kept under a name.

use crate::common::Space;

const PIPELINE: &str = r#"
[stage.a]
kind = "command"
shell = "echo {params.n} > {out.x}"
params.n = 1
out.x = "x"

[stage.b]
kind = "command"
shell = "cat {in.x} {in.x} > {out.y}"
in.x = "a.x"
out.y = "y"
"#;

#[test]
fn what_is_kept_under_a_name_outlives_gc_until_the_name_is_given_up() {
    let space = Space::new(PIPELINE);
    let keep = |words: &str| space.repro(&format!("keep {words}"));
    keep("v1").ends(2).complains("nothing of this is fresh");
    space.repro("run").ends(0);
    keep("v1").ends(0).complains("kept 2 results under `v1`");
    keep("v1")
        .ends(2)
        .complains("hint: another name, or first: repro keep --remove v1");
    space.repro("run --set a.n=2").ends(0);
    keep("two --stage a --set a.n=2")
        .ends(0)
        .complains("kept 1 result under `two`");
    space.repro("run --set a.n=3").ends(0);
    // Of the second setting, only what is kept stays.
    let gc = space.repro("gc --this-profile --set a.n=3").ends(0);
    let gc = gc
        .says("kept  2 results for `v1` alone\n")
        .says("kept  1 result for `two` alone\n");
    assert!(gc.err.contains("1 folder gone"), "{}", gc.err);
    space.repro("run").ends(0).complains("nothing to do");
    let list = keep("--list").ends(0).out;
    let lines: Vec<&str> = list.lines().collect();
    assert!(
        lines[0].starts_with("kept  two  ")
            && lines[0].ends_with("1 result  default a --set a.n=2"),
        "{list}"
    );
    assert!(
        lines[1].starts_with("kept  v1   ") && lines[1].ends_with("2 results  default"),
        "{list}"
    );
    let runs = space.repro("runs").ends(0).out;
    assert!(runs.ends_with(&list), "{runs}");
    assert!(
        keep("--list --json")
            .ends(0)
            .out
            .contains("\"name\": \"two\"")
    );
    keep("--remove two").ends(0);
    keep("--remove two")
        .ends(2)
        .complains("nothing is kept under `two`");
    space
        .repro("gc --this-profile")
        .ends(0)
        .says_not("kept")
        .complains("3 folders gone");
}

#[test]
fn a_name_is_plain_and_gc_removes_nothing_where_one_cannot_be_read() {
    let space = Space::new(PIPELINE);
    space.repro("run").ends(0);
    for name in ["../x", ".hidden", "a/b"] {
        space
            .repro(&["keep", name])
            .ends(2)
            .complains("is no name to keep results under");
    }
    space
        .repro(&["keep", "a\nb"])
        .ends(2)
        .complains("`a b` is no name");
    space.repro("keep v1").ends(0);
    space.repro("run --set a.n=2").ends(0);
    space.write("artifacts/pins/v1", "{");
    let gc = space.repro("gc --this-profile --set a.n=2").ends(1);
    assert!(
        gc.err
            .contains("cannot read what `repro keep` has kept: v1: "),
        "{}",
        gc.err
    );
    space.repro("keep --remove v1").ends(0);
    space
        .repro("gc --this-profile --set a.n=2")
        .ends(0)
        .complains("2 folders gone");
}
