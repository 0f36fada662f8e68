//! What stands in braces, what `--set` changes, and how many inputs a program can have.

use crate::common::Space;

const HEAD: &str = "[stage.a]\nkind = 'command'\nout.x = 'x'\n";

fn stage(more: &str) -> Space {
    Space::new(&format!("{HEAD}{more}\n"))
}

#[test]
fn what_stands_for_nothing_is_an_error_with_a_suggestion() {
    for (more, says) in [
        (
            "params.lr = 1\nshell = 'echo {param.lr} > {out.x}'",
            "5:9: stage `a`: nothing stands for {param.lr}\nhint: did you mean `params.lr`?",
        ),
        (
            "params.lr = 1\nrun = ['touch', '{lr}']",
            "5:17: stage `a`: nothing stands for {lr}\nhint: did you mean `params.lr`?",
        ),
        (
            "params.o.lr = 1\nrun = ['touch', '-n{params.o}']",
            "5:17: stage `a`: {params.o} is a table, which no argument can be\nhint: {params} is a JSON file",
        ),
        (
            "shell = 'echo {nmae} > {out.x}'",
            "nothing stands for {nmae}\nhint: names are those of",
        ),
        (
            "shell = 'echo {nmae} > {out.x}'",
            "(write {{nmae}} for braces that the program is to see)",
        ),
        (
            "env = ['A={seed}']\nshell = 'true'",
            "4:8: stage `a`: nothing stands for {seed}",
        ),
        (
            "for.seed = [1]\nshell = 'echo {sed} > {out.x}'",
            "stage `a@1`: nothing stands for {sed}\nhint: did you mean `seed`?",
        ),
        (
            "out.y = 'y-{seed}'\nshell = 'true'",
            "4:9: stage `a`: no axis stands for {seed}",
        ),
        (
            "shell = 'cat {in.x}'",
            "nothing stands for {in.x}\nhint: one of params, inputs, depfile, threads, out.x",
        ),
    ] {
        let said = stage(more).repro(&["run"]);
        assert_eq!(said.code, Some(2), "{more}\n{}", said.err);
        assert!(said.err.contains(says), "{says} not in\n{}", said.err);
    }
}

#[test]
fn braces_of_programs_stay() {
    let space = stage(
        r#"
for.seed = [7]
params.s = "{out.x} {seed} $HOME 'it' \"x\""
env = ["BOTH={params.s}"]
shell = '''
seed=no; x=yes
{
echo '1 2' | awk '{print $2}' | awk '{print}'
echo ${x} {a,b} {1..3} {} {{seed}} {{{seed}}} {seed} '%{http_code}' HEAD@{upstream}
echo '{"a": {"n": {seed}}}'
printf '%s\n' {params.s} "{params.s}" '{params.s}' "$BOTH"
} > {out.x}
'''
"#,
    );
    assert_eq!(space.run(), ["a@7"]);
    let text = String::from_utf8(space.output("a@7", "x")).expect("text");
    let value = "{out.x} 7 $HOME 'it' \"x\"\n".repeat(4);
    let says =
        "2\nyes a b 1 2 3 {} {seed} {{seed}} 7 %{http_code} HEAD@{upstream}\n{\"a\": {\"n\": 7}}\n";
    assert_eq!(text, format!("{says}{value}"));
}

#[test]
fn a_value_of_an_axis_is_not_filled_again() {
    let space = stage(
        "for.v = ['{out.x}']\nrun = ['sh', '-c', 'printf %s \"$1\" > $2', 'sh', '{v}+{v}', '{out.x}']",
    );
    assert_eq!(space.run().len(), 1);
    assert_eq!(space.output("a@{out.x}", "x"), b"{out.x}+{out.x}");
}

#[test]
fn several_inputs_stand_alone_or_in_a_file() {
    let made = "[stage.p]\nkind = 'command'\nfor.lr = [0.1, 0.5]\nfor.data = ['a,b']\nshell = 'echo {lr} > {out.x}'\nout.x = 'x'\n";
    for (more, hint) in [
        (
            "shell = 'cat \"{in.xs}\" > {out.x}'",
            "a word of its own outside of quotes",
        ),
        ("shell = 'cat --all={in.xs} > {out.x}'", "a word of its own"),
        ("run = ['cat', '--all={in.xs}']", "an argument of its own"),
        ("env = ['ALL={in.xs}']\nshell = 'true'", "as "),
    ] {
        let space = Space::new(&format!("{made}{HEAD}in.xs = 'p@*,*.x'\n{more}\n"));
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(2));
        let says = "stage `a`: {in.xs} is 2 files here, which cannot stand inside a longer text\nhint: write {in.xs} as ";
        for says in [says, hint, "or {inputs}, a JSON file"] {
            assert!(said.err.contains(says), "{says} not in\n{}", said.err);
        }
    }
    let space = Space::new(&format!(
        "{made}{HEAD}in.xs = 'p@*,*.x'\nshell = '(cat {{in.xs}}; cmp {{inputs}} $REPRO_INPUTS; cat {{inputs}}) > {{out.x}}'\n"
    ));
    space.run();
    let text = String::from_utf8(space.output("a", "x")).expect("text");
    let json = text.strip_prefix("0.1\n0.5\n").expect("both files");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let first = &json["xs"][0];
    assert_eq!(first["stage"], "p@0.1,\"a,b\"");
    assert_eq!(
        (&first["axes"]["lr"], &first["axes"]["data"]),
        (&0.1.into(), &"a,b".into())
    );
    assert_eq!(first["output"], "x");
    assert!(std::path::Path::new(first["path"].as_str().expect("a path")).is_file());
    assert_eq!(json["xs"].as_array().map(Vec::len), Some(2));
}

#[test]
fn names_of_inputs_count_where_they_are_told() {
    let made = "[stage.p]\nkind = 'command'\nshell = 'echo 1 > {out.x}'\nout.x = 'x'\n";
    let space = Space::new(&format!(
        "{made}{HEAD}in.x = 'p.x'\nshell = 'cp {{in.x}} {{out.x}}'\n"
    ));
    space.run();
    space.edit("stage.p", "stage.q");
    space.edit("p.x", "q.x");
    assert_eq!(
        space.run(),
        [""; 0],
        "the content of an input counts, not who has made it"
    );
    space.edit("cp {in.x}", "cp {inputs}");
    assert_eq!(space.run(), ["a"]);
    space.edit("stage.q", "stage.r");
    space.edit("q.x", "r.x");
    assert!(
        space.status().contains("a  stale  from.x[0]: q.x -> r.x"),
        "{}",
        space.status()
    );
}

#[test]
fn thousands_of_inputs_reach_a_program() {
    let name = "x".repeat(150);
    let head = format!(
        "[stage.p]\nkind = 'command'\nfor.i = [{}]\nrun = ['touch', '{{out.x}}']\nout.x = '{name}'\n{HEAD}in.xs = 'p@*.x'\n",
        (0..1200)
            .map(|i| i.to_string())
            .collect::<Vec<_>>()
            .join(",")
    );
    let lines = "shell = 'ls {in.xs} | wc -l > {out.x}; echo ${REPRO_IN_XS:-none} >> {out.x}'";
    let space = Space::new(&format!("{head}{lines}\n"));
    space.run();
    assert_eq!(space.output("a", "x"), b"1200\nnone\n");
    space.edit(lines, "run = ['cat', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}', '{in.xs}']");
    // The kernel's limit follows that of the stack.
    let line = format!("ulimit -s 4096; {} run", env!("CARGO_BIN_EXE_repro"));
    let mut command = std::process::Command::new("sh");
    let output = command
        .args(["-c", &line])
        .current_dir(space.dir())
        .output();
    let said = crate::common::said(output.expect("sh starts"));
    assert_eq!(said.code, Some(1), "{}", said.err);
    for says in [
        "cannot start cat: its 12000 arguments",
        "too long",
        "{inputs}, a JSON file",
    ] {
        assert!(said.err.contains(says), "{says} not in\n{}", said.err);
    }
}

#[test]
fn what_set_changes_must_be_there() {
    let space = stage(
        "params.lr = 0.1\nparams.optim.decay = 1\nparams.clip = 1.0\nfor.n = [0.5, 2]\nshell = 'cp {params} {out.x}'",
    );
    for (set, says) in [
        (
            "a.lrr=1",
            "--set a.lrr=1: stage `a` has no parameter `lrr`\nhint: did you mean `lr`?\n",
        ),
        (
            "a.decay=1",
            "stage `a` has no parameter `decay`\nhint: one of clip, lr, optim.decay\n",
        ),
        (
            "*.seed=1",
            "no stage has a parameter `seed`\nhint: `*` means",
        ),
        ("a@3.lr=1", "there is no stage `a@3`"),
        (
            "a.clip=inf",
            "--set a.clip=inf: only finite numbers can be parameters\n",
        ),
        ("a.clip=-nan", "only finite numbers can be parameters\n"),
        ("a.clip=1e999", "only finite numbers can be parameters\n"),
        (
            "a.lr=99999999999999999999",
            "this integer does not fit 64 bits\n",
        ),
    ] {
        let said = space.repro(&["run", "--set", set]);
        assert_eq!(said.code, Some(2), "{set}");
        assert!(said.err.contains(says), "{says} not in\n{}", said.err);
    }
    let said = space.repro(&[
        "run",
        "--set",
        "a@0.5.lr=3",
        "--set",
        "a@5e-1.optim.decay=word",
        "--set",
        "a@2.lr=4",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let explained = space
        .repro(&[
            "explain",
            "a@0.5",
            "--set",
            "a@0.5.lr=3",
            "--set",
            "a@0.5.optim.decay=word",
        ])
        .out;
    assert!(
        explained.contains("params.lr: 3\n")
            && explained.contains("params.optim.decay: \"word\"\n"),
        "{explained}"
    );
    assert!(explained.contains("a@0.5 is fresh"), "{explained}");
}
