//! `repro init`: a first pipeline, as an example or from what a script was seen to do.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Space, eventually};
use crate::observed::has;

/// A folder without a pipeline.
fn project() -> Space {
    let space = Space::new("");
    fs::remove_file(space.path("pipeline.toml")).expect("ours");
    space
}

/// What was proposed for a script; everything it leaves is taken away, as in a fresh clone.
fn traced(space: &Space, script: &str) -> String {
    space.write("run_all.sh", script);
    let before: Vec<_> = entries(space);
    let said = space.repro(&["init", "--trace", "bash run_all.sh"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let text = space.read("pipeline.toml");
    for name in entries(space) {
        if !before.contains(&name) && name != "pipeline.toml" {
            let path = space.path(&name);
            fs::remove_dir_all(&path)
                .or_else(|_| fs::remove_file(&path))
                .expect("ours");
        }
    }
    text
}

fn entries(space: &Space) -> Vec<String> {
    let all = fs::read_dir(space.dir()).expect("it is there").flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn the_example_runs_and_shows_a_table() {
    let space = project();
    space.repro(&["init"]).ends(0).says("next: repro run");
    assert_eq!(space.run().len(), 3);
    space.repro(&["tables"]).ends(0).says("| second | **55** |");
    assert_eq!(space.run(), [""; 0]);
    let again = space.repro(&["init"]).ends(1);
    again.complains("pipeline.toml is here already; hint: move it away");
}

#[test]
fn a_script_of_python_becomes_a_cached_pipeline_with_its_table() {
    if !has("python3") {
        return;
    }
    let space = project();
    space.write("raw.csv", "1,2\n2,4\n3,6.5\n");
    space.write("config/train.yaml", "# how long\nepochs: 20\n");
    space.write("prepare.py", "import os\nos.makedirs('data', exist_ok=True)\nopen('data/clean.csv', 'w').write(open('raw.csv').read())\n");
    space.write(
        "train.py",
        "import argparse, json, config\np = argparse.ArgumentParser()\np.add_argument('--lr', type=float)\np.add_argument('--out')\na = p.parse_args()\n\
         rows = [list(map(float, l.split(','))) for l in open('data/clean.csv')]\nw = 0.0\n\
         for _ in range(config.epochs()):\n    for x, y in rows:\n        w -= a.lr * 2 * x * (w * x - y)\njson.dump({'w': w}, open(a.out, 'w'))\n",
    );
    space.write(
        "config.py",
        "def epochs():\n    return int(open('config/train.yaml').read().split(': ')[1])\n",
    );
    space.write(
        "evaluate.py",
        "import json, sys\nw = json.load(open(sys.argv[1]))['w']\nrows = [list(map(float, l.split(','))) for l in open('data/clean.csv')]\n\
         json.dump({'error': sum((w * x - y) ** 2 for x, y in rows) / 3}, open('metrics.json', 'w'))\n",
    );
    space.write("plot.py", "import json\nopen('figures/plot.svg', 'w').write('<svg>%s</svg>' % json.load(open('metrics.json'))['error'])\n");
    let text = traced(
        &space,
        "set -e\nexport SEED=0\nmkdir -p figures models\npython3 prepare.py\npython3 train.py --lr 0.01 --out models/model.json\n\
         python3 evaluate.py models/model.json\npython3 plot.py\necho done\n",
    );
    for line in [
        "python3 train.py --lr 0.01 --out {out.model}\n",
        "python3 evaluate.py {in.model}\n",
        "in.clean = \"prepare.clean\"\n",
        "cp data/clean.csv {out.clean}\n",
        "env = [\"SEED=0\"]\n",
        "mkdir -p figures\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(space.run(), ["evaluate", "plot", "prepare", "train"]);
    space
        .repro(&["tables"])
        .ends(0)
        .says("| evaluate | 0.030 |");
    let said = space.repro(&["run"]);
    assert_eq!(
        said.err, "nothing to do: 4 stages fresh\n",
        "no remark, no run"
    );
    // What the programs read counts, and putting it back needs no run.
    space.write("config/train.yaml", "# longer\nepochs: 2\n");
    assert_eq!(space.run(), ["evaluate", "plot", "train"]);
    space.write("config/train.yaml", "# how long\nepochs: 20\n");
    assert_eq!(space.run(), [""; 0]);
    space.write("raw.csv", "1,2\n2,4\n3,7\n");
    assert_eq!(space.run(), ["evaluate", "plot", "prepare", "train"]);
    space.write("raw.csv", "1,2\n2,4\n3,6.5\n");
    assert_eq!(space.run(), [""; 0]);
}

#[test]
fn pipes_redirections_folders_and_what_is_printed_are_kept() {
    let space = project();
    space.write("names.txt", "b\na\n");
    space.write("sub/show.sh", "cat ../sorted.txt; echo \"$WORD\"\n");
    let text = traced(
        &space,
        "set -e\ncat names.txt | sort > sorted.txt\n(cd sub && WORD='two {words}' sh show.sh)\n\
         sh -c 'exit 3' || cat sorted.txt > copy.txt 2>&1\necho by hand > own.txt\ncat <<< told > here.txt\n",
    );
    for line in [
        "shell = \"cat names.txt | sort > {out.sorted}\"\n",
        "(cd sub && sh show.sh) > {out.printed}",
        "env = [\"WORD=two {{words}}\"]",
        "cat {in.sorted} > {out.copy} 2>&1",
        "# The script gave this command its input (`<<`), which must be in a file here.\ncat > {out.here}\n",
        "# The script itself wrote own.txt, which no stage makes yet.\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(space.run(), ["copy", "here", "show", "sorted"]);
    assert_eq!(space.output("show", "printed.txt"), b"a\nb\ntwo {words}\n");
    assert_eq!(space.output("copy", "copy.txt"), b"a\nb\n");
}

#[test]
fn steps_that_write_the_same_file_keep_their_order() {
    let space = project();
    space.write("step.sh", "echo $1 > now.txt\n");
    space.write("keep.sh", "cat now.txt >> log.txt\n");
    let text = traced(
        &space,
        "set -e\nfor i in 1 2; do sh step.sh $i; sh keep.sh; done\nmv log.txt all.txt\n",
    );
    assert!(text.contains("in.after-keep = \"keep.log\"\n"), "{text}");
    for _ in 0..3 {
        let ran = space.run();
        assert_eq!(ran, ["all", "keep", "keep-2", "step", "step-2"], "{text}");
        assert_eq!(space.output("all", "all.txt"), b"1\n2\n", "{text}");
        assert_eq!(space.run(), [""; 0]);
        fs::remove_dir_all(space.path("artifacts")).expect("ours");
    }
}

#[test]
fn what_make_or_a_program_starts_is_found_and_folders_are_outputs() {
    let space = project();
    space.write("raw.txt", "b\na\n");
    space.write(
        "split.sh",
        "mkdir -p parts\nfor i in 1 2 3 4 5 6 7 8 9; do echo $i > parts/$i; done\n",
    );
    space.write("Makefile", "all: sorted.txt\n\tsh split.sh\n\tcat sorted.txt parts/3 > all.txt\nsorted.txt: raw.txt\n\tsort raw.txt > sorted.txt\n");
    if !has("make") {
        return;
    }
    let said = space.repro(&["init", "--trace", "make"]).ends(0);
    assert!(
        said.out
            .ends_with("3 stages: sorted, split, all\nnext: repro run\n"),
        "{}",
        said.out
    );
    let text = space.read("pipeline.toml");
    assert!(
        text.contains("cp -r parts {out.parts}\n") && text.contains("cp -rT {in.parts} parts\n"),
        "{text}"
    );
    assert_eq!(space.run(), ["all", "sorted", "split"]);
    assert_eq!(space.output("all", "all.txt"), b"a\nb\n3\n");
    let said = space.repro(&["run"]);
    assert_eq!(said.err, "nothing to do: 3 stages fresh\n");
    fs::remove_file(space.path("pipeline.toml")).expect("ours");
    let one = space
        .repro(&["init", "--trace", "env A=1 sh split.sh"])
        .ends(0);
    assert!(one.out.contains("1 stage: split"), "{}", one.out);
    assert!(
        space
            .read("pipeline.toml")
            .contains("\nenv A=1 sh split.sh\n")
    );
}

#[test]
fn outputs_have_names_that_can_be_kept() {
    let space = project();
    space.write("a/x", "");
    space.write("b/x", "");
    space.write(
        "make.sh",
        "echo 1 > a/m.json; echo 2 > b/m.json; echo 3 > log; echo 4 > state.txt\n",
    );
    let text = traced(&space, "sh make.sh\n");
    assert_eq!(space.run(), ["make"], "{text}");
    assert_eq!(space.output("make", "m.json"), b"1\n");
    assert_eq!(space.output("make", "m-2-m.json"), b"2\n");
    assert_eq!(space.output("make", "log-output"), b"3\n");
    // Too many for a file that people edit.
    fs::remove_file(space.path("pipeline.toml")).expect("ours");
    let many = "sh -c 'i=0; while [ $i -lt 200 ]; do echo > a/$i; i=$((i+1)); done'; :";
    let said = space.repro(&["init", "--trace", many]).ends(1);
    said.complains("left 200 files, too many to name each as an output; hint: let it write them");
}

#[test]
fn a_script_that_fails_or_leaves_nothing_writes_no_pipeline() {
    let space = project();
    for (line, why) in [
        ("exit 3", "`exit 3` failed: exit 3; nothing was written"),
        ("true", "`true` started nothing that left a file below"),
        ("no-such-program", "failed: exit 127"),
    ] {
        let said = space.repro(&["init", "--trace", line]).ends(1);
        said.complains(why);
        assert!(!space.path("pipeline.toml").exists());
    }
}

#[test]
fn ctrl_c_ends_what_is_traced_and_writes_nothing() {
    let space = project();
    let line = "sh -c 'echo $$ > begun; sleep 60; echo x > y'; :";
    let mut child = space.start(&["init", "--trace", line]);
    eventually("it begins", || {
        fs::read_to_string(space.path("begun")).is_ok_and(|text| !text.is_empty())
    });
    let number = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &number]).status();
    assert!(sent.expect("kill starts").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    assert!(!space.path("pipeline.toml").exists());
    let shell = space.read("begun");
    eventually("what it had started is gone", || {
        let status = fs::read_to_string(format!("/proc/{}/status", shell.trim()));
        status.is_ok_and(|status| status.contains("zombie"))
            || !Path::new(&format!("/proc/{}", shell.trim())).exists()
    });
}
