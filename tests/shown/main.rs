//! What people see: tables, checks, figures and the report, through the binary.
#![allow(clippy::approx_constant)] // 3.14 is a made-up score, not pi

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod pages;
mod tables;

use common::Space;

const PIPELINE: &str = r#"
[pipeline]
title = "A toy paper"
profile = "quick"
profiles.quick = "two models"

[stage.train]
kind = "command"
for.model = ["good", "fair"]
files = ["{model}.json", "history.jsonl"]
shell = "cp {model}.json {out.numbers} && cp history.jsonl {out.history}"
out.numbers = "numbers.json"
out.history = { file = "history.jsonl", holds = "history" }

[stage.score]
kind = "command"
for.model = ["good", "fair"]
in.numbers = "train.numbers"
run = ["cp", "{in.numbers}", "{out.metrics}"]
out.metrics = { file = "metrics.json", holds = "metrics" }

[stage.draw]
kind = "command"
in.numbers = "train@good.numbers"
files = ["picture.svg"]
shell = "cp picture.svg {out.picture}"
out.picture = { file = "picture.svg", holds = "figure" }

[table.1]
title = "Which model is better, & by how much"
head = "model"
columns = [{ id = "error", metric = "error", published = "error", better = "lower", digits = 1 }]
[[table.1.row]]
name = "good_model"
error = { published = 3.0, source = "the paper", stage = "score@good" }
[[table.1.row]]
name = "fair"
error = { published = 4.0, bound = true, source = "another paper", stage = "score@fair" }

[figure.1]
title = "The stages"
graph = true
[figure.2]
title = "A picture"
[[figure.2.panel]]
stage = "draw"
"#;

fn metrics(value: f64) -> String {
    format!(
        r#"{{"metrics":[{{"name":"error","label":"error","value":{value},"n":1000,"better":"lower"}}]}}"#
    )
}

fn space() -> Space {
    with(PIPELINE)
}

/// The files of the toy paper beside a pipeline.
fn with(pipeline: &str) -> Space {
    let space = Space::new(pipeline);
    space.write("good.json", &metrics(3.14));
    space.write("fair.json", &metrics(3.9));
    let epochs = "{\"epoch\":1,\"train\":{\"loss\":2.0}}\n{\"epoch\":2,\"train\":{\"loss\":1.0}}\n";
    space.write("history.jsonl", epochs);
    space.write("picture.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>");
    space
}

fn ran() -> Space {
    let space = space();
    space.repro("run").ends(0);
    space
}
