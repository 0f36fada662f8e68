//! What a profile leaves out, and what it cannot change.

use crate::common::Space;

const PIPELINE: &str = r#"
[pipeline]
profile = "paper"
[pipeline.profiles.paper]
about = "all"
[pipeline.profiles.laptop]
about = "without what is large"
without = "data@faces"
[stage.data]
kind = "command"
for.set = ["cars", "faces"]
shell = "echo {set} > {out.x}"
out.x = "x"
[stage.score]
kind = "command"
for.set = ["cars", "faces"]
in.x = "data.x"
shell = "echo '{\"accuracy\": 0.8}' > {out.scores}; echo '<svg xmlns=\"http://www.w3.org/2000/svg\"/>' > {out.plot}"
out.scores = { file = "scores.json", holds = "metrics" }
out.plot = { file = "plot.svg", holds = "figure" }
[table.1]
title = "Accuracy"
columns = [{ id = "acc", metric = "accuracy", published = "accuracy", better = "higher", digits = 2 }]
[[table.1.row]]
name = "cars"
acc = { stage = "score@cars" }
[[table.1.row]]
name = "faces"
acc = { published = 0.9, source = "their table", stage = "score@faces" }
[figure.1]
title = "Faces"
panel = [{ caption = "cars", stage = "score@cars" }, { caption = "faces", stage = "score@faces" }]
[check.order]
claim = "faces are easier than cars"
metric = "accuracy"
stage = "score@faces"
than = "score@cars"
"#;

#[test]
fn what_a_profile_leaves_out_does_not_run_and_is_not_missed() {
    let space = Space::new(PIPELINE);
    let ran = space.ran(&["run", "--json", "--profile", "laptop"]);
    assert_eq!(ran, ["data@cars", "score@cars"]);
    let said = space.repro("status --profile laptop --exit-code").ends(0);
    assert!(!said.out.contains("faces"), "{}", said.out);
    let said = space.repro("tables --profile laptop").ends(0);
    assert!(!said.out.contains("not run"), "{}", said.out);
    assert!(said.out.contains("0.80"), "{}", said.out);
    let said = space.repro("figures --profile laptop").ends(0);
    assert!(!said.err.contains("not run"), "{}", said.err);
    // The claim is told and binds nothing.
    space.repro("check --profile laptop --update").ends(0);
    let said = space.repro("check --profile laptop").ends(0);
    said.says("score@faces is no part of this profile");
    // By name it runs, and then its numbers are there.
    let ran = space.ran(&["run", "--json", "--profile", "laptop", "score@faces"]);
    assert_eq!(ran, ["data@faces", "score@faces"]);
    let said = space.repro("tables --profile laptop").ends(0);
    assert_eq!(said.out.matches("0.80").count(), 2, "{}", said.out);
    // The other profile is about all of it.
    let said = space.repro("status --profile paper").ends(0);
    said.says("score@faces");
}

#[test]
fn what_is_left_out_must_exist() {
    let space = Space::new(PIPELINE);
    space.edit("data@faces", "data@facs");
    let said = space.repro("status --profile laptop").ends(2);
    assert!(said.err.contains("pipeline.toml:8:11"), "{}", said.err);
    assert!(
        said.err.contains("there is no stage `data@facs`"),
        "{}",
        said.err
    );
    assert!(said.err.contains("data@faces"), "{}", said.err);
    space.repro("status --profile paper").ends(0);
    space.edit("\"data@facs\"", "[\"data@faces\", \"data\"]");
    let said = space.repro("status --profile laptop").ends(2);
    said.complains("pipeline.toml:8:26: nothing is left of profile `laptop`");
}

#[test]
fn what_is_no_name_of_declared_parameters_is_said_at_its_place() {
    let of = |params: &str| {
        let space = Space::new(&format!(
            "[stage.a]\nkind = 'command'\nshell = 'echo > {{out.x}}'\nout.x = 'x'\nparams = {params}\n"
        ));
        space.repro("status").ends(2)
    };
    of("{ declared-params-of = 3 }")
        .complains("pipeline.toml:5:33: `declared-params-of` must be a string");
    of("{ declared-params-of = 'b' }").complains("there is no stage `b`");
    of("{ declared-params-of = 'a' }").complains("the parameters of `a` contain themselves");
    of("{ declared-params-of = 'a', params-of = 'a' }")
        .complains("`params-of` and `declared-params-of` stand for the same table");
}

#[test]
fn declared_parameters_are_those_of_the_file() {
    let space = Space::new(
        r#"
[pipeline]
profile = "paper"
profiles.paper = "all"
profiles.quick = "less"
[stage.net]
kind = "command"
for.data = ["a", "b"]
shell = "cat {params} > {out.x}"
out.x = "x.json"
params = { source = "{data}.csv", net = { kind = "big", width = 8 } }
[stage.net.at.b]
params.net.width = 9
[stage.twin]
kind = "command"
shell = "cat {params} > {out.x}"
out.x = "x.json"
params = { params-of = "net@b", more = 1 }
[stage.time]
kind = "command"
shell = "cat {params} > {out.x}"
out.x = "x.json"
params.now.params-of = "twin"
params.declared = { declared-params-of = "twin", more = 2 }
[profile.quick.net]
net = { kind = "small" }
"#,
    );
    let all = [
        "run",
        "--json",
        "--profile",
        "quick",
        "--set",
        "net.net.kind=tiny",
    ];
    space.ran(&all);
    let said = space
        .repro("explain time --profile quick --set net.net.kind=tiny")
        .ends(0);
    said.says("params.declared.net.kind: \"big\"")
        .says("params.declared.net.width: 9")
        .says("params.declared.more: 2")
        .says("params.declared.source: \"b.csv\"")
        .says("params.now.net.kind: \"tiny\"")
        .says("params.now.more: 1");
}
