//! What a record tells of how its result was made.

use serde_json::Value;

use crate::common::Space;

fn record(space: &Space, stage: &str) -> Value {
    let text = std::fs::read(space.result(stage).join("record.json")).expect("a record");
    serde_json::from_slice(&text).expect("JSON")
}

/// Burns CPU time and fails with a checkpoint, then goes on from it.
const TWICE: &str = r#"
[stage.a]
kind = "command"
shell = '''
[ -e $REPRO_CHECKPOINT/half ] && echo done > {out.x} && exit 0
i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done
touch $REPRO_CHECKPOINT/half; kill -TERM $$'''
out.x = "x"
"#;

#[test]
fn an_interrupted_command_is_charged_for_all_its_parts() {
    let space = Space::new(TWICE);
    assert_eq!(
        space.repro(&["run"]).code,
        Some(1),
        "nobody asked it to stop"
    );
    assert_eq!(space.run(), ["a"]);
    let record = record(&space, "a");
    let before = &record["before"];
    for what in ["wall_seconds", "cpu_seconds"] {
        let (earlier, all) = (before[what].as_f64(), record[what].as_f64());
        let (earlier, all) = (earlier.expect("known"), all.expect("known"));
        assert!(0.0 < earlier && earlier < all, "{what}: {earlier} of {all}");
    }
    let peak = |of: &Value| of["peak_memory_bytes"].as_u64().expect("known");
    assert!(peak(before) > 0 && peak(before) <= peak(&record));
    let said = space.repro(&["explain", "a"]).out;
    assert!(
        said.contains("resumed   with the checkpoint it had left; "),
        "{said}"
    );
}

#[cfg(feature = "kinds")]
#[test]
fn versions_are_recorded_and_explained() {
    let space = Space::new(
        "[stage.d]\nkind = 'dataset'\nparams = { train = 20, valid = 5, test = 5, jpeg_quality = 0, pad = 0, source = { kind = 'embedded', look = { kind = 'grey' } } }\n[stage.a]\nkind = 'command'\nshell = 'true > {out.x}'\nout.x = 'x'\n",
    );
    space.run();
    let versions = |stage: &str| record(&space, stage)["versions"].clone();
    let repro = env!("CARGO_PKG_VERSION");
    assert_eq!(versions("a"), serde_json::json!({"repro": repro}));
    for name in ["candle", "repro", "rustc"] {
        assert!(versions("d")[name].is_string(), "{name}");
    }
    let said = space.repro(&["explain", "a"]).out;
    assert!(
        said.contains(&format!("versions  repro {repro}\n")),
        "{said}"
    );
}

#[test]
fn python_tells_its_version_and_those_of_packages() {
    if std::process::Command::new("python3")
        .arg("-V")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED: there is no python3 here");
        return;
    }
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nrun = ['python3', 'a.py', '{out.x}']\nout.x = 'x'\n",
    );
    space.write("a.py", "import json, sys, pack\nopen(sys.argv[1], 'w')\n");
    space.write("pack/__init__.py", "__version__ = '2.11.0+cpu'\n");
    space.run();
    let record = record(&space, "a");
    let versions = record["versions"].as_object().expect("names");
    assert_eq!(versions["pack"], "2.11.0+cpu");
    assert!(
        versions["python"]
            .as_str()
            .is_some_and(|v| v.starts_with("3."))
    );
    assert!(!versions.contains_key("json"), "it comes with Python");
}
