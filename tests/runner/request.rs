//! Mistakes in pipeline.toml and on the command line: one sentence, a place, a hint, exit code 2.

use crate::common::Space;

fn mistake(pipeline: &str, says: &str) {
    let said = Space::new(pipeline).repro(&["run"]);
    assert_eq!(
        (said.code, said.err.trim_end(), said.out.as_str()),
        (Some(2), says, "")
    );
}

const A: &str = "[stage.a]\nkind = 'command'\nrun = ['true', '{out.x}']\nout.x = 'x'\n";

#[test]
fn every_mistake_has_a_place_and_a_hint() {
    let with = |more: &str| format!("{A}{more}");
    for (pipeline, says) in [
        (
            "",
            "pipeline.toml:1:1: no stages\nhint: declare one: [stage.NAME] with a `kind`",
        ),
        (
            "[stages.a]",
            "pipeline.toml:1:2: unknown section `stages`\nhint: did you mean `stage`?",
        ),
        (
            "[stage.a]\nkind = 'comand'",
            match cfg!(feature = "kinds") {
                true => {
                    "pipeline.toml:2:8: there is no kind `comand`\nhint: did you mean `command`?"
                }
                false => {
                    "pipeline.toml:2:8: there is no kind `comand` in this build of repro, only `command`\nhint: `cargo build --release` makes a build with the kinds, --no-default-features one without"
                }
            },
        ),
        (
            "[stage.a]\nkind = 1",
            "pipeline.toml:2:8: `kind` must be a string, not an integer",
        ),
        (
            &with("rum = 1"),
            "pipeline.toml:5:1: stage `a` has no `rum`\nhint: did you mean `run`?",
        ),
        (
            &with("in.y = 'b.x'"),
            "pipeline.toml:5:8: there is no stage `b`\nhint: did you mean `a`?",
        ),
        (
            &with("in.y = 'a.x'"),
            "pipeline.toml:1:8: these stages need each other: a\nhint: a stage can only read what is made before it",
        ),
        (
            &with("at.q.params.z = 1"),
            "pipeline.toml:5:4: no axis of stage `a` has the value `q`\nhint: there are none",
        ),
        (
            &with("[profile.x.a]"),
            "pipeline.toml:5:10: [pipeline] names no profile `x`\nhint: one of default",
        ),
        (
            &with("params.d = inf"),
            "pipeline.toml:5:12: only finite numbers can be parameters",
        ),
        (
            &with(
                "[stage.b]\nkind = 'command'\nrun = ['true', '{out.x}']\nout.x = 'x'\nin.y = 'a.z'",
            ),
            "pipeline.toml:9:8: stage `a` has no output `z`\nhint: did you mean `x`?",
        ),
        (
            &A.replace("{out.x}", "{out.y}"),
            "pipeline.toml:3:16: stage `a`: nothing stands for {out.y}\nhint: did you mean `out.x`?",
        ),
        (
            &A.replace("'x'", "'../x'"),
            "pipeline.toml:4:9: output `x` cannot be kept under the name `../x`\nhint: a plain name of its own, such as \"model.bin\"; `repro` chooses the folder",
        ),
    ] {
        mistake(pipeline, says);
    }
}

#[cfg(feature = "kinds")]
#[test]
fn a_wrong_parameter_of_a_kind_is_named_where_it_stands() {
    let said = Space::new("[stage.d]\nkind = 'dataset'\nparams.valid = 5\nparams.trian = 0\nparams.test = 0\nparams.jpeg_quality = 0\nparams.pad = 0\nparams.source = { kind = 'cifar10' }\n")
        .repro(&["status"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.starts_with("pipeline.toml:4:8: stage `d`: params"),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("hint: did you mean `train`?"),
        "{}",
        said.err
    );
}

/// A value that another has replaced is not where the mistake is.
#[cfg(feature = "kinds")]
#[test]
fn a_wrong_value_is_named_where_it_was_written_last() {
    let stage = "[stage.d]\nkind = 'dataset'\nfor.s = ['one']\nparams.valid = 5\nparams.source = { kind = 'cifar10' }\n\
        params.train = 0\nparams.test = 0\nparams.jpeg_quality = 0\nparams.pad = 0\n";
    let profile = "[pipeline]\nprofile = 'p'\n[pipeline.profiles.p]\nabout = 'p'\n[profile.p.d]\nvalid = 'many'\n";
    let says = |text: &str, arguments: &[&str], place: &str| {
        let said = Space::new(text).repro(arguments);
        let expected =
            format!("{place}: stage `d@one`: params.valid: invalid type: string \"many\"");
        assert_eq!(said.code, Some(2));
        assert!(said.err.starts_with(&expected), "{}", said.err);
    };
    let set = ["status", "--set", "d.valid=many"];
    says(stage, &set, "--set d.valid=many");
    says(
        &format!("{profile}{stage}"),
        &["status"],
        "pipeline.toml:6:1",
    );
    let at = format!("{stage}[stage.d.at.one]\nparams.valid = 'many'\n");
    says(&at, &["status"], "pipeline.toml:11:8");
}

#[cfg(feature = "kinds")]
#[test]
fn ports_must_hold_what_is_wanted() {
    let said = Space::new(
        "[stage.e]\nkind = 'command'\nshell = 'true'\nout.x = 'x'\n[stage.f]\nkind = 'fid'\nin.real = 'e.x'\nin.fake = 'e.x'\n",
    )
    .repro(&["status"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("pipeline.toml:7:11: stage `f`: input `real` wants gaussian, e.x holds file"),
        "{}",
        said.err
    );
}

#[test]
fn mistakes_on_the_command_line() {
    let space = Space::new(A);
    for (arguments, says) in [
        (
            &["run", "b"][..],
            "there is no stage `b`\nhint: did you mean `a`?\n",
        ),
        (
            &["run", "--profile", "p"],
            "there is no profile `p`\nhint: one of default\n",
        ),
        (
            &["run", "--set", "a=1"],
            "--set a=1: this sets no parameter of a stage\nhint: write --set STAGE.PARAM=VALUE, such as --set glow.optim.lr=1e-3\n",
        ),
        (
            &["run", "--set", "b.c=1"],
            "--set b.c=1: there is no stage `b`\nhint: did you mean `a`?\n",
        ),
        (
            &["run", "--set", "*.seed=1"],
            "--set *.seed=1: no stage has a parameter `seed`\nhint: `*` means every stage that has the parameter\n",
        ),
        (
            &["figures"],
            "there is nothing to draw\nhint: declare [figure.1], or an output that holds `history`\n",
        ),
        (
            &["tensorboard"],
            "there is no history to write\nhint: no stage has an output that holds `history`\n",
        ),
        (
            &["run", "--device", "tpu"],
            "`tpu` is no device\nhint: one of auto, cpu, cuda, cuda:N\n",
        ),
    ] {
        let said = space.repro(arguments);
        assert_eq!((said.code, said.err.as_str()), (Some(2), says));
    }
    let said = Space::new(A)
        .command(&["status"])
        .current_dir("/")
        .output()
        .expect("starts");
    assert_eq!(said.status.code(), Some(2));
}

#[test]
fn a_profile_for_a_gpu_does_not_start_without_one() {
    let head = "[pipeline]\nprofile = 'paper'\n[pipeline.profiles.paper]\nabout = 'all'\ndevice = 'cuda'\ntakes = '15 days'\n[pipeline.profiles]\nquick = 'small'\n";
    let space = Space::new(&format!(
        "{head}{}",
        A.replace("'true', '{out.x}'", "'touch', '{out.x}'")
    ));
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(2));
    for words in [
        "meant for a CUDA device",
        "15 days",
        "--profile quick",
        "--device cpu",
    ] {
        assert!(said.err.contains(words), "{words:?} not in {}", said.err);
    }
    assert_eq!(space.repro(&["run", "--device", "cpu"]).code, Some(0));
}

#[test]
fn what_is_printed_counts_however_it_is_written() {
    let score = "[stage.s]\nkind = 'command'\nfiles = 'score.json'\nrun = ['cp', 'score.json', '{out.m}']\nout.m = { file = 'm.json', holds = 'metrics' }\n\
                 [stage.t]\nkind = 'command'\nfiles = 'other.json'\nrun = ['cp', 'other.json', '{out.m}']\nout.m = { file = 'm.json', holds = 'metrics' }\n";
    let claim = "claim = 's is better', metric = 'acc', stage = 's', than = 't'";
    let table = "title = 'Scores', columns = [{ id = 'acc', metric = 'acc', better = 'higher', digits = 2 }], row = [{ name = 'ours', acc = { stage = 's' } }]";
    for (head, tail) in [
        (
            "",
            format!("[check]\nc1 = {{ {claim} }}\n[table]\n1 = {{ {table} }}\n"),
        ),
        (
            "",
            format!(
                "[ check . c1 ]\n{}\n[ table.1 ]\n{}\n",
                claim.replace(", ", "\n"),
                table
                    .replace(", columns", "\ncolumns")
                    .replace(", row", "\nrow")
            ),
        ),
        (
            "",
            format!(
                "['check'.'c1']\n{}\n[\"table\".\"1\"]\n{}\n",
                claim.replace(", ", "\n"),
                table
                    .replace(", columns", "\ncolumns")
                    .replace(", row", "\nrow")
            ),
        ),
        ("dotted", String::new()),
    ] {
        let dotted = "check.c1.claim = 's is better'\ncheck.c1.metric = 'acc'\ncheck.c1.stage = 's'\ncheck.c1.than = 't'\n\
                      table.1.title = 'Scores'\ntable.1.columns = [{ id = 'acc', metric = 'acc', better = 'higher', digits = 2 }]\n\
                      table.1.row = [{ name = 'ours', acc = { stage = 's' } }]\n";
        let head = if head.is_empty() { "" } else { dotted };
        let space = Space::new(&format!("{head}{score}{tail}"));
        for (file, value) in [("score.json", 0.25), ("other.json", 0.5)] {
            let metric = format!(
                "{{\"metrics\":[{{\"name\":\"acc\",\"label\":\"acc\",\"value\":{value},\"better\":\"higher\"}}]}}"
            );
            space.write(file, &metric);
        }
        space.run();
        let checked = space.repro(&["check"]);
        let fails = checked.out.contains("FAILS  s is better");
        assert!(fails, "{head}{tail}\n{}{}", checked.out, checked.err);
        let tables = space.repro(&["tables"]);
        assert!(tables.out.contains("0.25"), "{}{}", tables.out, tables.err);
    }
    for (text, says) in [
        ("table = 3", "tables by number or name"),
        ("[check.c]\nclaim = 'x'", "missing field `metric`"),
        ("figure.1 = { titel = 'x' }", "unknown field `titel`"),
    ] {
        let said = Space::new(&format!("{}\n{A}", text)).repro(&["status"]);
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(
            said.err.starts_with("pipeline.toml:") && said.err.contains(says),
            "{}",
            said.err
        );
    }
}
