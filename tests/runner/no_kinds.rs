//! A build without kinds: what it is asked for and does not have, it says, and how to get it.

use crate::common::Space;

const HINT: &str = "--no-default-features";

#[test]
fn a_stage_of_a_kind_is_an_error_that_says_how_to_get_kinds() {
    let space = Space::new(include_str!("../../pipeline.toml"));
    for command in ["status", "run", "tables"] {
        let said = space.repro(&[command]);
        assert_eq!(said.code, Some(2), "{}", said.err);
        for words in [
            "pipeline.toml:",
            "there is no kind `",
            "in this build",
            HINT,
        ] {
            assert!(said.err.contains(words), "{words} is not in {}", said.err);
        }
    }
}

#[test]
fn commands_that_need_kinds_say_so() {
    let space = Space::new("");
    for words in [
        &["kinds"][..],
        &["fid", "real", "fake", "--json"],
        &["worker", "job.json"],
    ] {
        let said = space.repro(words);
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.err);
        let text = "this build of repro has no kinds, only commands as stages\nhint: ";
        assert!(said.err.starts_with(text), "{words:?}: {}", said.err);
        assert!(said.err.contains(HINT), "{words:?}: {}", said.err);
    }
    let help = space.repro(&["help"]).out;
    assert!(help.contains("status") && !help.contains("fid"), "{help}");
    let doctor = space.repro(&["--device", "cpu", "doctor"]).out;
    assert!(doctor.contains("kinds     none in this build"), "{doctor}");
}
