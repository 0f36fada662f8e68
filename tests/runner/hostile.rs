//! Pipelines, stores and archives of somebody who means harm: nothing outside is touched, nothing acts
//! by itself, and no number passes for one that was made here.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use repro::pipeline::manifest::Manifest;
use serde_json::{Value, json};

use crate::common::{Said, Space, said};

const ONE: &str = "[stage.a]\nkind = 'command'\nshell = 'echo 1.0 > {out.x}'\nout.x = 'x'\n";

const READING: &str = "[stage.a]\nkind = 'command'\nshell = 'cat dep.txt > {out.x}; echo dep.txt > {depfile}'\nout.x = 'x'\n";

fn folder(pipeline: Option<&str>) -> Space {
    let space = Space::new(pipeline.unwrap_or_default());
    if pipeline.is_none() {
        fs::remove_file(space.path("pipeline.toml")).expect("just written");
    }
    space
}

/// The record of the only result, changed.
fn edit_record(space: &Space, change: impl Fn(&mut Value)) {
    let results = fs::read_dir(space.path("artifacts/results")).expect("there");
    let result = results.flatten().next().expect("one").path();
    let file = result.join("record.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
    change(&mut record);
    fs::write(&file, record.to_string()).expect("ours");
}

fn lose_index(space: &Space) {
    let _ = fs::remove_file(space.path("artifacts/index"));
    let _ = fs::remove_file(space.path("artifacts/fresh"));
}

/// The files of the only result of a space, and its fingerprint.
fn packed(space: &Space) -> (String, Vec<(String, Vec<u8>)>) {
    let results = fs::read_dir(space.path("artifacts/results")).expect("there");
    let result = results.flatten().next().expect("one");
    let fp = result.file_name().to_string_lossy().into_owned();
    let files = fs::read_dir(result.path()).expect("there").flatten();
    let files = files.filter(|f| f.path().is_file()).map(|f| {
        let name = f.file_name().to_string_lossy().into_owned();
        (name, fs::read(f.path()).expect("there"))
    });
    (fp, files.collect())
}

/// An archive with these files, whatever they are called.
fn archive(to: &Path, files: &[(&str, &[u8])]) {
    let file = File::create(to).expect("ours");
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        let field = &mut header.as_old_mut().name;
        match name.len() <= field.len() {
            // Names that the library would refuse to write.
            true => {
                field[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                tar.append(&header, *bytes).expect("ours");
            }
            false => tar.append_data(&mut header, name, *bytes).expect("ours"),
        }
    }
    tar.into_inner().and_then(GzEncoder::finish).expect("ours");
}

/// Imports one result, its record changed, with more files.
fn forged(
    space: &Space,
    from: &Space,
    change: impl Fn(&mut Value),
    more: &[(&str, &[u8])],
) -> Said {
    let (fp, files) = packed(from);
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, mut bytes) in files {
        if name == "record.json" {
            let mut record: Value = serde_json::from_slice(&bytes).expect("JSON");
            change(&mut record);
            bytes = record.to_string().into_bytes();
        }
        all.push((format!("results/{fp}/{name}"), bytes));
    }
    for (name, bytes) in more {
        let name = name.replace("FP", &fp);
        all.retain(|(known, _)| *known != name);
        all.push((name, bytes.to_vec()));
    }
    let all: Vec<(&str, &[u8])> = all
        .iter()
        .map(|(n, b)| (n.as_str(), b.as_slice()))
        .collect();
    let to = space.path("evil.tar.gz");
    archive(&to, &all);
    space.repro(&["import", "evil.tar.gz"])
}

#[test]
fn a_link_in_a_store_is_not_followed() {
    let space = folder(Some(ONE));
    space.write("mine", "precious");
    fs::create_dir(space.path("artifacts")).expect("ours");
    for name in ["lock", "index", "readers"] {
        let _ = fs::remove_file(space.path("artifacts").join(name));
        symlink("../mine", space.path("artifacts").join(name)).expect("ours");
        for command in [&["gc"][..], &["run"], &["verify"], &["status"]] {
            space.repro(command);
        }
        assert_eq!(space.read("mine"), "precious", "{name}");
        fs::remove_file(space.path("artifacts").join(name)).expect("still there");
    }
    let _ = fs::remove_dir_all(space.path("artifacts"));
    // The work of the stage lies where a link leads.
    space.run();
    let (fp, _) = packed(&space);
    fs::remove_dir_all(space.path("artifacts/results").join(&fp)).expect("ours");
    lose_index(&space);
    fs::create_dir_all(space.path("elsewhere/result")).expect("ours");
    space.write("elsewhere/result/kept", "kept");
    symlink("../../elsewhere", space.path("artifacts/work").join(&fp)).expect("ours");
    assert_eq!(space.repro(&["run"]).code, Some(1));
    assert_eq!(space.read("elsewhere/result/kept"), "kept");
    fs::remove_file(space.path("artifacts/work").join(&fp)).expect("ours");
    fs::create_dir(space.path("artifacts/work").join(&fp)).expect("ours");
    for name in ["log", "params.json", "checkpoint"] {
        let place = space.path("artifacts/work").join(&fp).join(name);
        symlink("../../../mine", place).expect("ours");
    }
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.read("mine"), "precious");
}

#[test]
fn a_folder_that_holds_something_else_is_not_made_a_store() {
    let space = folder(Some(ONE));
    space.write("secrets/id_ed25519", "key");
    symlink("secrets", space.path("artifacts")).expect("ours");
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("is no store: it holds id_ed25519"),
        "{}",
        said.err
    );
    assert_eq!(
        fs::read_dir(space.path("secrets")).expect("there").count(),
        1
    );
    fs::remove_file(space.path("artifacts")).expect("ours");
    fs::create_dir(space.path("artifacts")).expect("ours");
    symlink("../secrets", space.path("artifacts/results")).expect("ours");
    let said = space.repro(&["run"]);
    assert!(said.err.contains("results is a link"), "{}", said.err);
    // A link of the person's own to an empty disk is a store like any other.
    fs::remove_dir_all(space.path("artifacts")).expect("ours");
    fs::create_dir(space.path("disk")).expect("ours");
    symlink("disk", space.path("artifacts")).expect("ours");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn a_record_that_names_a_file_elsewhere_is_not_used() {
    for file in ["../../../mine", "/tmp/mine", "a/b", "record.json"] {
        let space = folder(Some(ONE));
        space.run();
        space.write("mine", "precious");
        edit_record(&space, |r| r["result"]["out"][0]["file"] = file.into());
        lose_index(&space);
        assert!(space.status().contains("a  stale"), "{file}");
        let said = space.repro(&["verify"]);
        assert!(said.out.contains("is not used: "), "{}", said.out);
        assert_eq!(space.run(), ["a"]);
        assert_eq!(space.read("mine"), "precious");
    }
    // The same from a line of the index.
    let space = folder(Some(ONE));
    space.run();
    let index = space.read("artifacts/index");
    space.write(
        "artifacts/index",
        &index.replace("\"file\":\"x\"", "\"file\":\"../x\""),
    );
    assert_eq!(space.run(), [""; 0], "the record is believed");
}

#[test]
fn a_record_stands_for_its_manifest_or_is_not_imported() {
    let here = folder(Some(READING));
    here.write("dep.txt", "1.0\n");
    here.run();
    type Lie = fn(&mut Value);
    let lies: [(&str, Lie); 5] = [
        ("outputs", |r| r["result"]["out"] = json!([])),
        ("base", |r| {
            r["result"]["base"] = "00112233445566778899aabbccddeeff".into()
        }),
        ("reads", |r| r["result"]["reads"] = json!([])),
        ("file", |r| {
            r["result"]["out"][0]["file"] = "/etc/passwd".into()
        }),
        ("fingerprint", |r| {
            r["result"]["fp"] = "00112233445566778899aabbccddeeff".into()
        }),
    ];
    for (what, lie) in lies {
        let there = folder(Some(READING));
        there.write("dep.txt", "1.0\n");
        let said = forged(&there, &here, lie, &[]);
        assert_eq!(said.code, Some(1), "{what}: {}", said.err);
        let status = there.repro(&["status"]);
        assert!(
            status.out.contains("a  stale  never run"),
            "{what}: {}",
            status.out
        );
    }
    let there = folder(Some(READING));
    let said = forged(
        &there,
        &here,
        |_| (),
        &[("results/FP/manifest.txt", b"format: 1\n")],
    );
    assert!(
        said.err.contains("its manifest is another's"),
        "{}",
        said.err
    );
}

/// A whole result with an invented number, as its maker would make it: believed, and marked each time.
#[test]
fn an_imported_number_says_so_everywhere_and_comes_after_our_own() {
    let metrics = |value: f64| {
        let metric = json!({"name": "fid", "label": "FID", "value": value, "better": "lower"});
        json!({"metrics": [metric]}).to_string()
    };
    let pipeline = "[stage.a]\nkind = 'command'\nshell = 'cat {in} > {out.m}'\nout.m = { file = 'm', holds = 'metrics' }\n\
        [table.1]\ntitle = 'T'\ncolumns = [{ id = 'fid', metric = 'fid', better = 'lower', digits = 1 }]\n\
        [[table.1.row]]\nname = 'Ours'\nfid = { stage = 'a' }\n";
    let pipeline = pipeline.replace("{in}", "m.json");
    let here = folder(Some(&pipeline));
    here.write("m.json", &metrics(3.5));
    here.run();
    let lie = metrics(0.1);
    let digest = blake3::hash(lie.as_bytes()).to_hex().to_string();
    let there = folder(Some(&pipeline));
    there.write("m.json", &metrics(3.5));
    let said = forged(
        &there,
        &here,
        |r| r["result"]["out"][0]["digest"] = digest.clone().into(),
        &[("results/FP/m", lie.as_bytes())],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    there.repro(&["check", "--update"]);
    let mark = "mported from the archive evil.tar.gz";
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["explain", "a"],
        &["explain", "a", "--json"],
        &["tables"],
        &["tables", "--format", "tex"],
        &["tables", "--format", "html"],
    ] {
        let said = there.repro(command);
        let words = ["mported from", "\"origin\": \"the archive evil.tar.gz"];
        assert!(
            words.iter().any(|w| said.out.contains(w)),
            "{command:?}: {}",
            said.out
        );
    }
    assert!(
        there
            .repro(&["tables", "--format", "csv"])
            .out
            .contains("the archive evil.tar.gz")
    );
    assert!(
        there
            .repro(&["check"])
            .out
            .contains("1 imported, not made here")
    );
    for command in [&["run"][..], &["verify"], &["run"]] {
        let said = there.repro(command);
        assert!(
            said.err.contains("imported, not made here"),
            "{command:?}: {}",
            said.err
        );
    }
    there.repro(&["report", "--out", "r.html"]);
    let page = there.read("r.html");
    assert!(page.contains("1 result imported: not made here") && page.contains(mark));
    lose_index(&there);
    assert!(there.status().contains(mark), "the mark is in the result");
    // Computed again it is our own.
    assert_eq!(there.ran(&["run", "--json", "--force", "a"]), ["a"]);
    assert!(!there.status().contains("mported"), "{}", there.status());
}

/// A record that reads nothing stands for the same declared manifest as ours, which reads a file.
#[test]
fn a_foreign_result_never_displaces_a_genuine_one() {
    let here = folder(Some(READING));
    here.write("dep.txt", "1.0\n");
    here.run();
    let (fp, files) = packed(&here);
    let text = |name: &str| files.iter().find(|f| f.0 == name).expect("there").1.clone();
    let manifest = String::from_utf8(text("manifest.txt")).expect("UTF-8");
    let lines: Vec<&str> = manifest
        .lines()
        .filter(|l| !l.starts_with("read."))
        .collect();
    let manifest = Manifest::parse(&lines.join("\n"));
    let base = manifest.fingerprint().to_string();
    let mut record: Value = serde_json::from_slice(&text("record.json")).expect("JSON");
    assert_eq!(record["result"]["base"], base.as_str());
    let made = &mut record["result"];
    made["fp"] = base.as_str().into();
    made["base"] = Value::Null;
    made["reads"] = json!([]);
    made["out"][0]["digest"] = blake3::hash(b"999\n").to_hex().to_string().into();
    let place = |name: &str| format!("results/{base}/{name}");
    let (m, r, x) = (place("manifest.txt"), place("record.json"), place("x"));
    archive(
        &here.path("evil.tar.gz"),
        &[
            (&m, manifest.to_string().as_bytes()),
            (&r, record.to_string().as_bytes()),
            (&x, b"999\n"),
        ],
    );
    let said = here.repro(&["import", "evil.tar.gz"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("1 result new"), "{}", said.err);
    assert_eq!(here.output("a", "x"), b"1.0\n");
    assert!(here.result("a").ends_with(fp));
}

#[test]
fn a_store_that_was_copied_is_told_and_one_that_was_moved_is_not() {
    let space = folder(Some(ONE));
    space.run();
    let moved = folder(Some(ONE));
    fs::rename(space.path("artifacts"), moved.path("artifacts")).expect("one file system");
    assert!(!moved.status().contains("imported"), "{}", moved.status());
    let copied = folder(Some(ONE));
    let copy = std::process::Command::new("cp")
        .arg("-a")
        .args([moved.path("artifacts"), copied.path("artifacts")])
        .status();
    assert!(copy.is_ok_and(|s| s.success()));
    let told = "imported from a store that was copied here";
    assert!(copied.status().contains(told), "{}", copied.status());
    assert_eq!(copied.run(), [""; 0]);
    assert!(copied.status().contains(told), "once known it stays so");
}

#[test]
fn an_archive_writes_only_what_manifests_name() {
    let here = folder(Some(ONE));
    here.run();
    let there = folder(None);
    let long = format!("project/{}", "d/".repeat(60) + "long.txt");
    let said = forged(
        &there,
        &here,
        |_| (),
        &[
            ("project/pipeline.toml", ONE.as_bytes()),
            ("project/Makefile", b"all:"),
            ("project/.envrc", b"evil"),
            ("project/sub/.vscode/tasks.json", b"{}"),
            (&long, b"x"),
            ("results/FP/extra", b"x"),
            ("results/FP/state/x", b"x"),
            ("other/file", b"x"),
        ],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(there.read("pipeline.toml"), ONE);
    for name in ["Makefile", ".envrc", "sub", "d"] {
        assert!(!there.path(name).exists(), "{name}: {}", said.err);
    }
    assert!(
        said.err.contains("left out project/Makefile: no manifest"),
        "{}",
        said.err
    );
    let result = there.result("a");
    assert!(!result.join("extra").exists() && !result.join("state").exists());
    // What a manifest names, but programs obey.
    let reading = folder(Some(
        &ONE.replace("\nout.x", "\nfiles = ['.env', 'a.txt']\nout.x"),
    ));
    reading.write(".env", "A=1\n");
    reading.write("a.txt", "a\n");
    reading.run();
    reading.repro(&["export", "all.tar.gz"]);
    let there = folder(None);
    fs::copy(reading.path("all.tar.gz"), there.path("all.tar.gz")).expect("ours");
    let said = there.repro(&["import", "all.tar.gz"]);
    assert!(
        said.err.contains("left out .env: programs act"),
        "{}",
        said.err
    );
    assert!(there.path("a.txt").exists() && !there.path(".env").exists());
}

#[test]
fn an_archive_reaches_nothing_outside() {
    let odd = "project/a\u{1b}[2J";
    for name in [
        "../mine",
        "/tmp/repro-mine",
        "project/../mine",
        "project/./x",
        odd,
        "project//x",
    ] {
        let there = folder(None);
        archive(
            &there.path("evil.tar.gz"),
            &[("project/pipeline.toml", b""), (name, b"x")],
        );
        let said = there.repro(&["import", "evil.tar.gz"]);
        assert_eq!(said.code, Some(1), "{name}: {}", said.err);
        assert!(
            said.err.contains("does not belong there"),
            "{name}: {}",
            said.err
        );
        assert!(!said.err.contains('\u{1b}') && !there.path("pipeline.toml").exists());
    }
    // A store that is named by a way round.
    let there = folder(None);
    let here = there
        .dir()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    archive(
        &there.path("evil.tar.gz"),
        &[
            ("project/pipeline.toml", b""),
            ("project/artifacts/planted", b"x"),
        ],
    );
    there.repro(&[
        "import",
        "--store",
        &format!("../{here}/artifacts"),
        "evil.tar.gz",
    ]);
    assert!(!there.path("artifacts/planted").exists());
}

#[test]
fn what_an_archive_unpacks_to_has_a_limit() {
    let there = folder(Some(ONE));
    let zeros = vec![0; 300 << 20];
    let name = format!("results/{}/x", "0".repeat(32));
    archive(&there.path("bomb.tar.gz"), &[(&name, &zeros)]);
    let said = there.repro(&["import", "bomb.tar.gz"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("MiB, the limit"), "{}", said.err);
    // A name that would be taken into memory whatever its length.
    let file = File::create(there.path("name.tar.gz")).expect("ours");
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(zeros.len() as u64);
    header.set_path("././@LongLink").expect("short");
    header.set_cksum();
    tar.append(&header, zeros.as_slice()).expect("ours");
    tar.into_inner().and_then(GzEncoder::finish).expect("ours");
    let said = there.repro(&["import", "name.tar.gz"]);
    assert_ne!(said.code, Some(0), "{}", said.err);
    let said = there.repro(&["import", "--max-size", "much", "name.tar.gz"]);
    assert!(said.err.contains("`much` is no size"), "{}", said.err);
}

#[test]
fn export_reaches_outside_only_if_asked_and_says_so() {
    let outside = folder(None);
    outside.write("keys/id", "PRIVATE");
    let space = folder(Some(
        &ONE.replace("\nout.x", "\nfiles = ['key', 'in.txt']\nout.x"),
    ));
    symlink(outside.path("keys/id"), space.path("key")).expect("ours");
    space.write("real.txt", "1\n");
    symlink("real.txt", space.path("in.txt")).expect("ours");
    space.run();
    let names = |archive: &str| {
        let file = File::open(space.path(archive)).expect("there");
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let entries = tar.entries().expect("an archive").flatten();
        let names = entries.map(|e| e.path().expect("a name").display().to_string());
        names.collect::<Vec<_>>()
    };
    let said = space.repro(&["export", "a.tar.gz"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("left out key: it is "), "{}", said.err);
    let packed = names("a.tar.gz");
    assert!(!packed.contains(&"project/key".into()) && packed.contains(&"project/in.txt".into()));
    assert!(
        !packed.iter().any(|name| name.ends_with("/key")),
        "{packed:?}"
    );
    space.repro(&["export", "--outside", "b.tar.gz"]);
    assert!(names("b.tar.gz").contains(&"project/key".into()));
}

#[test]
fn a_secret_counts_and_is_nowhere_in_clear() {
    let space = folder(Some(
        &ONE.replace("\nout.x", "\nenv = ['API_TOKEN', 'MODE']\nout.x"),
    ));
    let with = |token: &str, arguments: &[&str]| {
        let mut command = space.command(arguments);
        command.env("API_TOKEN", token).env("MODE", "quiet");
        said(command.output().expect("repro starts"))
    };
    assert_eq!(with("s3cr3t", &["run"]).code, Some(0));
    let explained = with("s3cr3t", &["explain", "a"]).out;
    assert!(
        explained.contains("env.API_TOKEN: secret ") && explained.contains("env.MODE: \"quiet\"")
    );
    let page = with("s3cr3t", &["report", "--out", "r.html"]);
    assert_eq!(page.code, Some(0));
    with("s3cr3t", &["export", "all.tar.gz"]);
    assert!(
        with("s3cr3t", &["run"])
            .err
            .contains("nothing to do: 1 stage fresh")
    );
    let changed = with("t0k3n", &["status"]).out;
    assert!(
        changed.contains("a  stale  env.API_TOKEN changed"),
        "{changed}"
    );
    assert_eq!(with("t0k3n", &["run"]).code, Some(0));
    let mut open = vec![space.dir().to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let bytes = fs::read(&path).expect("there");
            for secret in [&b"s3cr3t"[..], b"t0k3n"] {
                let found = bytes.windows(secret.len()).any(|w| w == secret);
                assert!(!found, "{}", path.display());
            }
        }
    }
    let mode = fs::metadata(space.path("artifacts/key"))
        .expect("there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn control_characters_reach_nothing_that_is_printed() {
    for name in ["st\\u001b[2Jage", "a\\nb", "a\\u0000b", "\\u202eb"] {
        let space = folder(Some(&ONE.replace("stage.a", &format!("stage.\"{name}\""))));
        let said = space.repro(&["status"]);
        assert_eq!(said.code, Some(2), "{name}: {}", said.err);
        assert!(
            said.err.contains("which does not print"),
            "{name}: {}",
            said.err
        );
        assert!(!said.err.contains(['\u{1b}', '\u{202e}', '\0']));
    }
    let space = folder(Some(&format!(
        "[pipeline]\ntitle = \"t\\u001b]0;x\\u0007\"\n{}[stage.b]\nkind = 'command'\nfor.v = [\"a\\u0007\"]\nshell = 'true'\nout.x = 'x'\n",
        ONE
    )));
    assert_eq!(space.repro(&["status"]).code, Some(2), "an axis");
    let space = folder(Some(&ONE.replace(
        "\nout.x = ",
        "\nparams.p = \"\\u001b[31m\\n::error::x\"\nnote = \"\\u009b\"\nout.x = ",
    )));
    space.run();
    for command in [
        &["explain", "a"][..],
        &["explain", "--json", "a"],
        &["graph"],
        &["status"],
    ] {
        let said = space.repro(command);
        assert!(!said.out.contains(['\u{1b}', '\u{9b}']), "{command:?}");
        assert!(!said.out.contains("\n::error"), "{command:?}: {}", said.out);
    }
}

#[test]
fn a_few_lines_never_ask_for_more_than_there_is() {
    let axes: String = (0..9)
        .map(|i| format!("for.a{i} = [0,1,2,3,4,5,6,7,8,9]\n"))
        .collect();
    let doubling: String = (1..60)
        .map(|i| {
            let of = i - 1;
            format!(
                "[stage.s{i}]\nkind = 'command'\nshell = 'true'\nout.x = 'x'\nparams.a = {{ params-of = 's{of}' }}\nparams.b = {{ params-of = 's{of}' }}\n"
            )
        })
        .collect();
    let doubling = format!(
        "[stage.s0]\nkind = 'command'\nshell = 'true'\nout.x = 'x'\nparams.a = 1\n{doubling}"
    );
    let wide = format!(
        "[stage.a]\nkind = 'command'\nfor.i = [{}]\nshell = 'true'\nout.x = 'x'\nparams.v = [{}]\n",
        (0..5000).map(|i| format!("{i},")).collect::<String>(),
        "1,".repeat(5000)
    );
    let many: String = (0..4000).map(|i| format!("{i},")).collect();
    let pairs = format!(
        "[stage.a]\nkind = 'command'\nfor.i = [{many}]\nshell = 'true'\nout.x = 'x'\n[stage.b]\nkind = 'command'\nfor.j = [{many}]\nshell = 'true'\nin.x = 'a@*.x'\nout.x = 'x'\n"
    );
    for (text, told) in [
        (
            format!("{ONE}{axes}"),
            "more than 100000 instances, the limit",
        ),
        (doubling, "more than 10000000 values, the limit"),
        (wide, "more than 10000000 values, the limit"),
        (pairs, "more inputs than 2000000, the limit"),
        (
            format!("a = {}", "[".repeat(200_000)),
            "more than 64 levels deep, the limit",
        ),
        (
            format!("a{} = 1", ".a".repeat(100_000)),
            "more than 64 levels deep, the limit",
        ),
        (
            format!("# {}", "x".repeat(17 << 20)),
            "larger than 16 MiB, the limit",
        ),
    ] {
        let space = folder(Some(&text));
        let said = space.repro(&["status"]);
        assert!(
            matches!(said.code, Some(1 | 2)),
            "{told}: {:?} {}",
            said.code,
            said.err
        );
        assert!(said.err.contains(told), "{told}: {}", said.err);
    }
    let ring: String = (0..20_000)
        .map(|i| {
            let from = (i + 1) % 20_000;
            format!(
                "[stage.s{i}]\nkind = 'command'\nshell = 'true'\nin.a = 's{from}.x'\nout.x = 'x'\n"
            )
        })
        .collect();
    let said = folder(Some(&ring)).repro(&["status"]);
    assert!(
        said.err.contains("these stages need each other: s0, s1,"),
        "{}",
        said.err
    );
    let set = format!("a.{}=1", "p.".repeat(20_000));
    let said = folder(Some(ONE)).repro(&["status", "--set", &set]);
    assert!(
        said.err.contains("levels deep, the limit"),
        "{:?}",
        said.code
    );
}

#[test]
fn a_link_by_the_name_of_what_is_written_is_replaced() {
    let space = folder(Some(ONE));
    space.run();
    space.write("mine", "precious");
    symlink("mine", space.path("report.html")).expect("ours");
    assert_eq!(space.repro(&["report"]).code, Some(0));
    assert_eq!(space.read("mine"), "precious");
    assert!(space.read("report.html").contains("<html"));
    assert!(!space.path("report.html").is_symlink());
}

#[test]
fn a_pipeline_above_must_be_ours() {
    let space = folder(Some(ONE));
    let inner = space.path("inner");
    fs::create_dir(&inner).expect("ours");
    let status = |arguments: &[&str]| {
        let mut command = space.command(arguments);
        said(
            command
                .current_dir(&inner)
                .env_remove("SUDO_UID")
                .output()
                .expect("starts"),
        )
    };
    assert_eq!(status(&["status"]).code, Some(0));
    if std::os::unix::fs::chown(space.path("pipeline.toml"), Some(65534), None).is_err() {
        eprintln!("SKIPPED a_pipeline_above_must_be_ours: only root gives files away");
        return;
    }
    let said = status(&["status"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("belongs to another user (65534)"),
        "{}",
        said.err
    );
    assert_eq!(
        status(&["--file", "../pipeline.toml", "status"]).code,
        Some(0)
    );
    assert_eq!(space.repro(&["status"]).code, Some(0), "in its own folder");
}

/// The manifest sorts its lines, so that two outputs that changed places are the same work.
#[test]
fn outputs_that_changed_places_are_not_mixed_up() {
    let two = "[stage.a]\nkind = 'command'\nshell = 'echo 1 > {out.x}; echo 2 > {out.y}'\nout.x = 'x'\nout.y = 'y'\n\
        [stage.b]\nkind = 'command'\nrun = ['cp', '{in.i}', '{out.z}']\nin.i = 'a.y'\nout.z = 'z'\n";
    let space = folder(Some(two));
    space.run();
    space.edit("out.x = 'x'\nout.y = 'y'", "out.y = 'y'\nout.x = 'x'");
    assert_eq!(space.run(), [""; 0]);
    space.edit("'cp', ", "'cp', '-f', ");
    assert_eq!(space.run(), ["b"]);
    assert_eq!(space.output("b", "z"), b"2\n");
}
