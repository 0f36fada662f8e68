//! `repro accept`: a person declares that a change of code changes no result.

use anyhow::Result;
use contract::StageDef;

use super::{Ended, print};
use crate::base::diag::Diagnostic;
use crate::base::human;
use crate::base::say::say;
use crate::pipeline::graph::Kind;
use crate::plan::Verdict;
use crate::plan::accepted::{Accepted, Equivalence};
use crate::plan::project::{PipelineArgs, Project};
use crate::store::Lock;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages or instances whose code changed
    #[arg(value_name = "STAGE", required = true)]
    stages: Vec<String>,
    /// Why the results are the same; kept in accepted.toml
    #[arg(long, value_name = "REASON")]
    why: String,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    if args.why.trim().is_empty() {
        return Err(Diagnostic::new("an empty reason convinces nobody")
            .hint("--why \"renamed a variable\"")
            .into());
    }
    let mut project = Project::open(pipeline, kinds)?;
    let chosen = project.graph.select(&args.stages)?;
    let order = project.graph.with_needs(&chosen);
    let mut planner = project.planner();
    planner.judge_all(&order);
    let mut new: Vec<Equivalence> = Vec::new();
    let mut told = Vec::new();
    for &id in &chosen {
        let stage = &planner.graph.stages[id];
        let name = stage.name.clone();
        let of = match &stage.kind {
            Kind::Library(def) => def.kind.to_owned(),
            Kind::Command(_) => stage.family.clone(),
        };
        match planner.verdict(id) {
            Some(Verdict::Stale(_)) => {}
            Some(Verdict::Waits(ids)) => {
                let first = &planner.graph.stages[ids[0]].name;
                let message =
                    format!("{name} waits for {first}, so that nobody knows what it reads");
                let hint = format!("accept or run {first} first");
                return Err(Diagnostic::new(message).hint(hint).into());
            }
            _ => continue,
        }
        let changes = planner.acceptable(id).map_err(|others| {
            let message = format!(
                "{name}: {}, which is no change of code alone",
                others.join("; ")
            );
            Diagnostic::new(message)
                .hint("only a change of code can be accepted; `repro run` makes the rest anew")
        })?;
        let also = planner.brought_in(id);
        for change in changes {
            let known =
                |e: &Equivalence| e.of == of && e.what == change.what && e.new == change.new;
            if !new.iter().any(known) {
                let words = change.told.iter();
                told.extend(words.map(|words| format!("accepted  {of}: {words}\n")));
                new.push(Equivalence {
                    of: of.clone(),
                    what: change.what,
                    old: change.old,
                    new: change.new,
                    also: also.clone(),
                    why: args.why.trim().into(),
                    when: human::now(),
                });
            }
        }
    }
    if new.is_empty() {
        let message = format!(
            "no code of {} changed since its last result",
            args.stages.join(", ")
        );
        return Err(Diagnostic::new(message)
            .hint("`repro status` says why a stage is stale")
            .into());
    }
    // What is said to be accepted must be fresh then, or nothing is.
    project.facts.accepted.all.extend(new.iter().cloned());
    let mut planner = project.planner();
    planner.judge_all(&order);
    for id in chosen {
        if let Some(Verdict::Stale(reasons)) = planner.verdict(id) {
            let name = &planner.graph.stages[id].name;
            let message = format!("{name} would still be stale: {}", reasons.join("; "));
            return Err(Diagnostic::new(message)
                .hint("nothing was accepted; `repro run`")
                .into());
        }
    }
    let path = project.facts.dir.join("accepted.toml");
    // Two of these at once would each leave out what the other has accepted.
    let _turn = Lock::turn(&project.store.root);
    let mut accepted = Accepted::load(&path)?;
    for line in told {
        print(&line)?;
    }
    accepted.all.extend(new);
    accepted.save(&path)?;
    say!("kept in {}; commit it", path.display());
    Ok(Ended::Done)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use contract::{CodeModule, Input, Job, Output, Stage, define};
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::store::record::Record;
    use crate::store::{Store, Work};

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        seed: u64,
        patience: u64,
    }

    /// A kind whose code is what the test says.
    struct Toy;
    impl Stage for Toy {
        const KIND: &'static str = "toy";
        const ABOUT: &'static str = "Nothing.";
        const INPUTS: &'static [Input] = &[];
        const OUTPUTS: &'static [Output] = &[Output::new("x", "x", "x")];
        const FORMER: &'static [(&'static str, &'static str)] = &[("patience", "0")];
        type Params = Params;
        fn run(_: &Params, _: &mut Job) -> Result<()> {
            Ok(())
        }
    }

    type Modules = BTreeMap<String, String>;

    /// The kind with this code, for the rest of the process.
    fn kinds(code: &Modules) -> &'static [StageDef] {
        let module = |(name, digest): (&String, &String)| -> CodeModule {
            (name.clone().leak(), digest.clone().leak())
        };
        let modules: &'static [CodeModule] = code.iter().map(module).collect::<Vec<_>>().leak();
        vec![define::<Toy>(vec![modules].leak())].leak()
    }

    struct Space {
        dir: tempfile::TempDir,
        args: PipelineArgs,
    }

    impl Space {
        fn new(params: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("pipeline.toml");
            let text = format!("[stage.s]\nkind = \"toy\"\nparams = {{ {params} }}\n");
            fs::write(&file, text).unwrap();
            let args = PipelineArgs {
                file: Some(file),
                device: "cpu".into(),
                ..Default::default()
            };
            Self { dir, args }
        }

        /// What the stage is now, and why.
        fn verdict(&self, kinds: &'static [StageDef]) -> Verdict {
            let mut project = Project::open(&self.args, kinds).unwrap();
            let mut planner = project.planner();
            planner.judge_all(&[0]);
            planner.verdict(0).unwrap().clone()
        }

        /// A result as a run with this code leaves it.
        fn make(&self, kinds: &'static [StageDef]) {
            let mut project = Project::open(&self.args, kinds).unwrap();
            let profile = project.facts.profile.clone();
            let mut planner = project.planner();
            planner.judge_all(&[0]);
            let manifest = planner.manifest(0).unwrap().clone();
            let code = planner.code(0).clone();
            let root: PathBuf = self.dir.path().join("artifacts");
            for folder in ["work", "results"] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            let work = Work::prepare(&root, &manifest.fingerprint()).unwrap();
            fs::write(work.result().join("x"), "made").unwrap();
            let (out, _) = work.collect(&[("x".into(), "x".into())]).unwrap();
            let record: Record = serde_json::from_value(json!({
                "result": {
                    "fp": manifest.fingerprint(), "stage": "s", "at": 1, "wall": 0.0, "out": out,
                    "device": "cpu",
                },
                "kind": "toy", "profile": profile, "params": {}, "inputs": {}, "code": code,
                "started": "", "finished": "", "wall_seconds": 0.0, "cpu_seconds": 0.0,
                "peak_memory_bytes": 0, "threads": 1, "device": "cpu", "exit": 0, "host": "",
                "system": "", "versions": {},
            }))
            .unwrap();
            let entry = work
                .commit(&root, &manifest.to_string(), &record, false, false)
                .unwrap();
            let mut store = Store::open(&root).unwrap();
            store.index.add_name(&profile, "s", entry.fp);
            store.index.add_result(entry);
            store.index.flush().unwrap();
        }

        fn accept(&self, kinds: &'static [StageDef]) {
            let args = Args {
                stages: vec!["s".into()],
                why: "the same bytes".into(),
            };
            run(&self.args, &args, kinds).unwrap();
        }
    }

    #[derive(Deserialize)]
    struct Change {
        commit: String,
        same: usize,
        before: Modules,
        after: Modules,
    }

    /// Ten changes of our own history, see tests/golden/refactorings.py: each makes results stale, says which
    /// modules, and can be blessed.
    #[test]
    fn past_refactorings_are_blessed() {
        let text = include_str!("../../tests/golden/refactorings.json");
        let changes: Vec<Change> = serde_json::from_str(text).unwrap();
        assert_eq!(changes.len(), 10);
        for change in changes {
            let whole = |part: &Modules| {
                let same = (0..change.same).map(|i| (format!("same{i}"), format!("{i:032x}")));
                let all: Modules = part.clone().into_iter().chain(same).collect();
                kinds(&all)
            };
            let (before, after) = (whole(&change.before), whole(&change.after));
            let space = Space::new("seed = 1, patience = 0");
            space.make(before);
            assert!(
                matches!(space.verdict(before), Verdict::Fresh(_)),
                "{}",
                change.commit
            );
            let Verdict::Stale(reasons) = space.verdict(after) else {
                panic!("{} changed nothing", change.commit);
            };
            let moved = change
                .after
                .keys()
                .find(|m| !change.before.contains_key(*m));
            let gone = change
                .before
                .keys()
                .find(|m| !change.after.contains_key(*m));
            let reasons = reasons.join("; ");
            for name in moved.iter().chain(&gone) {
                assert!(
                    reasons.contains(name.as_str()),
                    "{name} is not in {reasons}"
                );
            }
            space.accept(after);
            assert!(
                matches!(space.verdict(after), Verdict::Fresh(_)),
                "{}",
                change.commit
            );
            // Whoever goes back needs no blessing.
            assert!(
                matches!(space.verdict(before), Verdict::Fresh(_)),
                "{}",
                change.commit
            );
        }
    }

    /// Results made before a parameter was there count while it has the value that they were made with.
    #[test]
    fn a_parameter_can_be_born_without_harm() {
        let code = Modules::from([("toy".into(), "d".into())]);
        let space = Space::new("seed = 1, patience = 0");
        space.make(kinds(&code));
        let name = fs::read_dir(space.dir.path().join("artifacts/results")).unwrap();
        let folder = name.flatten().next().unwrap().path();
        let manifest = fs::read_to_string(folder.join("manifest.txt")).unwrap();
        assert!(
            manifest.contains("params.seed: 1") && !manifest.contains("patience"),
            "{manifest}"
        );
        let edit = |params: &str| {
            let text = format!("[stage.s]\nkind = \"toy\"\nparams = {{ {params} }}\n");
            fs::write(space.dir.path().join("pipeline.toml"), text).unwrap();
            space.verdict(kinds(&code))
        };
        assert!(matches!(edit("seed = 1, patience = 0"), Verdict::Fresh(_)));
        let new = Verdict::Stale(vec!["params.patience: 3 is new".into()]);
        assert_eq!(edit("seed = 1, patience = 3"), new);
    }
}
