//! `export` and `import`: what one has, another can look at and check without a network.

use std::fs::{self, File};

use flate2::{Compression, write::GzEncoder};

use crate::common::{Said, Space};

/// A declared input, code that is declared and code that is found, and two results.
const READING: &str = r#"
[stage.a]
kind = "command"
run = ["sh", "make.sh", "{out.x}"]
files = "data/*.txt"
out.x = "x"
[stage.b]
kind = "command"
shell = "cat {in.x} more.txt > {out.y}; echo more.txt > {depfile}"
in.x = "a.x"
out.y = "y"
"#;

fn reading() -> Space {
    let space = Space::new(READING);
    space.write("make.sh", "cat data/*.txt > $1\n");
    space.write("data/1.txt", "one\n");
    space.write("more.txt", "more\n");
    space.run();
    space
}

/// A folder without a pipeline.
fn empty() -> Space {
    let space = Space::new("");
    fs::remove_file(space.path("pipeline.toml")).expect("just written");
    space
}

fn import(space: &Space, archive: &str) -> Said {
    space.repro(&["import", archive])
}

#[test]
fn an_archive_stands_on_its_own() {
    let here = reading();
    here.write("make.sh", "cat data/1.txt > $1\n");
    here.repro(&["accept", "a", "--why", "there is but one"]);
    let there = empty();
    let archive = there.path("all.tar.gz").display().to_string();
    let said = here.repro(&["export", &archive]);
    assert!(
        said.err.starts_with("2 results and 5 files of the project"),
        "{}",
        said.err
    );
    let said = import(&there, &archive);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.err.contains("wrote pipeline.toml\n2 results new"),
        "{}",
        said.err
    );
    assert_eq!(there.run(), [""; 0]);
    assert_eq!(there.repro(&["verify"]).code, Some(0));
    assert_eq!(there.repro(&["verify", "--rerun", "b"]).code, Some(0));
    assert_eq!(there.output("b", "y"), b"one\nmore\n");
    // Again, and where the pipeline is another by now.
    assert!(import(&there, &archive).err.starts_with("0 results new"));
    there.edit("files = ", "params.n = 1\nfiles = ");
    let said = import(&there, &archive);
    assert!(
        said.err.contains("pipeline is not the one here"),
        "{}",
        said.err
    );
    assert!(there.read("pipeline.toml").contains("params.n"));
}

#[test]
fn an_import_replaces_no_file() {
    let there = empty();
    let archive = there.path("all.tar.gz").display().to_string();
    reading().repro(&["export", &archive]);
    there.write("more.txt", "mine\n");
    let said = import(&there, &archive);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("more.txt is here already"),
        "{}",
        said.err
    );
    assert_eq!(there.read("more.txt"), "mine\n");
    assert!(!there.path("pipeline.toml").exists());
    there.write("more.txt", "more\n");
    assert_eq!(import(&there, &archive).code, Some(0));
}

#[test]
fn what_would_act_by_itself_is_refused() {
    for name in [
        ".git/hooks/post-checkout",
        "artifacts/results/x/record.json",
    ] {
        let there = empty();
        let archive = there.path("bad.tar.gz").display().to_string();
        let file = File::create(&archive).expect("ours");
        let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        for name in ["pipeline.toml", name] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            let path = format!("project/{name}");
            tar.append_data(&mut header, path, [].as_slice())
                .expect("ours");
        }
        let packed = tar.into_inner().and_then(GzEncoder::finish);
        packed.expect("ours");
        let said = import(&there, &archive);
        let refused = said.code == Some(2) && said.err.contains("does not belong there");
        let left_out = said.err.contains(&format!("left out project/{name}: "));
        assert!(refused || left_out, "{}", said.err);
        assert_eq!(refused, name.starts_with(".git"), "{}", said.err);
        assert!(!there.path(name).exists());
    }
}

#[test]
fn a_damaged_archive_changes_nothing() {
    let there = reading();
    let archive = there.path("all.tar.gz").display().to_string();
    there.repro(&["export", &archive]);
    let mut bytes = fs::read(&archive).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).expect("ours");
    let third = empty();
    assert_eq!(import(&third, &archive).code, Some(1));
    assert!(!third.path("pipeline.toml").exists());
    third.write("pipeline.toml", READING);
    third.write("make.sh", "cat data/*.txt > $1\n");
    third.write("data/1.txt", "one\n");
    third.write("more.txt", "more\n");
    assert_eq!(import(&third, &archive).code, Some(1));
    assert_eq!(third.run(), ["a", "b"]);
}
