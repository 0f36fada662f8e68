//! Random programs that read random files in random ways, and random edits: a stage is stale if and
//! only if a simple model says that it read what changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;

use crate::common::Space;

/// Marsaglia's xorshift: a failure is found again by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const FOLDERS: [&str; 4] = ["d0", "d1", "d1/deep", "d2"];
const FILES: usize = 4;

/// What one program depends on, by the model.
#[derive(Default)]
struct Model {
    read: BTreeSet<String>,
    asked: BTreeSet<String>,
    listed: BTreeSet<String>,
}

impl Model {
    fn reads(&mut self, file: &str) {
        self.read.insert(file.into());
    }

    fn is_stale_after(&self, edit: &Edit) -> bool {
        let listed = |path: &str| {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            self.listed.contains(folder)
        };
        match edit {
            Edit::Change(path) => self.read.contains(path),
            Edit::Same(_) => false,
            Edit::Remove(path) => {
                self.read.contains(path) || self.asked.contains(path) || listed(path)
            }
            Edit::Add(path) => self.asked.contains(path) || listed(path),
        }
    }
}

#[derive(Debug)]
enum Edit {
    Change(String),
    /// Written anew with the content that it has.
    Same(String),
    Remove(String),
    Add(String),
}

fn file(dice: &mut Dice) -> String {
    format!("{}/f{}", dice.pick(&FOLDERS), dice.below(FILES))
}

fn missing(dice: &mut Dice) -> String {
    format!("{}/m{}", dice.pick(&FOLDERS), dice.below(FILES))
}

/// One of the ways to write a path: plain, crooked, absolute, through a link to its folder.
fn spelled(dice: &mut Dice, space: &Space, path: &str) -> String {
    match dice.below(5) {
        0 => format!("./{path}"),
        1 => format!("d2/../{path}"),
        2 => space.path(path).display().to_string(),
        3 => format!("links/{path}"),
        _ => path.to_owned(),
    }
}

/// A line of shell that does something with files, told to the model.
fn line(dice: &mut Dice, space: &Space, model: &mut Model, python: bool) -> String {
    let path = file(dice);
    let name = spelled(dice, space, &path);
    let ways = if python { 16 } else { 13 };
    match dice.below(ways) {
        0 => {
            model.reads(&path);
            format!("cat {name}")
        }
        1 => {
            model.reads(&path);
            format!("sh -c 'exec env X=1 timeout 60 cat {name}'")
        }
        2 => {
            model.reads(&path);
            format!("(nice cat < {name}) & wait")
        }
        3 => {
            model.reads(&path);
            format!(". ./{path}")
        }
        4 => {
            model.reads(&path);
            let (folder, file) = path.rsplit_once('/').expect("in a folder");
            format!("(cd {folder} && cat {file})")
        }
        5 => {
            let path = missing(dice);
            model.asked.insert(path.clone());
            format!("[ -e {path} ] || :")
        }
        6 => {
            model.asked.insert(path.clone());
            format!("test -f {path}")
        }
        7 => {
            let folder = *dice.pick(&FOLDERS);
            model.listed.insert(folder.into());
            format!("ls {folder}")
        }
        8 => {
            let n = dice.below(1000);
            format!("echo 1 > own{n}.$$; cat own{n}.$$; mv own{n}.$$ own{n}.$$.b; rm own{n}.$$.b")
        }
        9 => {
            model.reads(&path);
            format!("cp {name} own.$$; cat own.$$; rm own.$$")
        }
        10 => {
            model.reads(&path);
            let folder = space.dir().display();
            format!("ln -s {folder}/{path} own.$$; cat own.$$; rm own.$$")
        }
        11 => {
            model.reads(&path);
            let (folder, _) = path.rsplit_once('/').expect("in a folder");
            format!("rmdir {folder}; unlink {folder}; cat {name}")
        }
        12 => {
            model.reads(&path);
            let (folder, file) = path.rsplit_once('/').expect("in a folder");
            format!("ln -s {folder} own.$$; cat < own.$$/{file}; rm own.$$; mkdir {folder}")
        }
        13 => {
            model.reads(&path);
            format!("python3 -c \"open('{name}').read()\"")
        }
        14 => {
            model.reads(&path);
            format!(
                "python3 -c \"import os
if os.fork() == 0:
    open('{name}').read(); os._exit(0)
os.wait()\""
            )
        }
        _ => {
            model.reads(&path);
            format!(
                "python3 -I -c \"import os
os.rename('{name}', '{name}.away'); os.rename('{name}.away', '{name}')\" || :"
            )
        }
    }
}

fn project(seed: u64, python: bool) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let space = Space::new("");
    for folder in FOLDERS {
        for i in 0..FILES {
            space.write(&format!("{folder}/f{i}"), &format!(": {folder} {i}\n"));
        }
    }
    symlink(".", space.path("links")).expect("a link");
    let mut models = Vec::new();
    let mut pipeline = String::new();
    for stage in 0..20 {
        let mut model = Model::default();
        let mut script = String::new();
        for _ in 0..=dice.below(5) {
            let line = line(&mut dice, &space, &mut model, python && dice_is_kind(stage));
            let _ = writeln!(script, "{line} > /dev/null 2>&1");
        }
        space.write(&format!("s{stage}.sh"), &format!("{script}echo 1 > $1\n"));
        let start = *dice.pick(&[
            "\"sh\"",
            "\"timeout\", \"60\", \"sh\"",
            "\"env\", \"A=1\", \"bash\"",
        ]);
        let _ = writeln!(
            pipeline,
            "[stage.s{stage}]\nkind = \"command\"\nrun = [{start}, \"s{stage}.sh\", \"{{out.x}}\"]\nout.x = \"x\""
        );
        models.push(model);
    }
    space.write("pipeline.toml", &pipeline);
    // One at a time: what one of them renames for a moment, another would miss.
    assert_eq!(
        space.ran(&["run", "--json", "-j1"]).len(),
        20,
        "seed {seed}"
    );
    assert_eq!(
        stale(&space),
        BTreeSet::new(),
        "seed {seed}: right after the run"
    );
    for _ in 0..8 {
        let edit = match dice.below(5) {
            0 | 1 => Edit::Change(file(&mut dice)),
            2 => Edit::Same(file(&mut dice)),
            3 => Edit::Remove(file(&mut dice)),
            _ => Edit::Add(missing(&mut dice)),
        };
        let (path, before) = match &edit {
            Edit::Change(path) | Edit::Same(path) | Edit::Remove(path) | Edit::Add(path) => {
                (space.path(path), fs::read(space.path(path)).ok())
            }
        };
        match &edit {
            Edit::Change(_) => fs::write(&path, ": other\n").expect("written"),
            Edit::Same(_) => fs::write(&path, before.as_ref().expect("there")).expect("written"),
            Edit::Remove(_) => fs::remove_file(&path).expect("there"),
            Edit::Add(_) => fs::write(&path, ": new\n").expect("written"),
        }
        let expected: BTreeSet<usize> = (0..20)
            .filter(|i| models[*i].is_stale_after(&edit))
            .collect();
        let found = stale(&space);
        if found != expected {
            let odd = *found.symmetric_difference(&expected).next().expect("one");
            panic!(
                "seed {seed}, {edit:?}: stage s{odd} is {}stale\n{}\n{}",
                if found.contains(&odd) { "" } else { "not " },
                space.read(&format!("s{odd}.sh")),
                space.repro(&["explain", "--all", &format!("s{odd}")]).out,
            );
        }
        match before {
            Some(bytes) => fs::write(&path, bytes).expect("written"),
            None => fs::remove_file(&path).expect("there"),
        }
        assert_eq!(
            stale(&space),
            BTreeSet::new(),
            "seed {seed}: after {edit:?} was undone"
        );
    }
}

/// Every fourth stage may start a Python, which takes as long as the others together.
fn dice_is_kind(stage: usize) -> bool {
    stage.is_multiple_of(4)
}

fn stale(space: &Space) -> BTreeSet<usize> {
    let said = space.repro(&["status", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let stages = all["stages"].as_array().expect("a list");
    let stale = stages.iter().filter(|s| s["verdict"] != "fresh");
    let number = |s: &serde_json::Value| s["stage"].as_str()?.strip_prefix('s')?.parse().ok();
    stale.filter_map(number).collect()
}

/// Twenty programs a project; `REPRO_TREES=100` is the full length.
#[test]
fn a_stage_is_stale_just_when_something_that_its_program_read_has_changed() {
    let projects = std::env::var("REPRO_TREES")
        .ok()
        .and_then(|n| n.parse().ok());
    let python = std::process::Command::new("python3")
        .arg("-V")
        .output()
        .is_ok();
    for seed in 1..=projects.unwrap_or(3) {
        project(seed, python);
    }
}
