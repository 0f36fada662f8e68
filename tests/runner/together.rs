//! Several runs on one store: what one works on the others wait for, and take over if it dies.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{Said, Space, eventually, said};
use crate::kills::{COUNT, WORK, alive, kill, next, wanted};

/// Two stages that take their time, and one that needs both. Each notes outside of the project that it ran.
fn noting(notes: &Path) -> Space {
    let notes = notes.display();
    Space::new(&format!(
        r#"
[stage.part]
kind = "command"
for.i = [1, 2]
shell = "echo part {{i}} >> {notes}/ran; sleep 0.5; echo n = {{i}} > {{out.n}}"
out.n = {{ file = "n.toml", holds = "metrics" }}

[stage.all]
kind = "command"
shell = "echo all >> {notes}/ran; cat {{in.n}} > {{out.x}}"
in.n = "part@*.n"
out.x = "x"

[table.1]
title = "Parts"
head = "part"
columns = [{{ id = "n", metric = "n", better = "higher", digits = 0 }}]
[[table.1.row]]
name = "first"
n = {{ stage = "part@1" }}
"#
    ))
}

fn ran(notes: &Path) -> Vec<String> {
    let text = fs::read_to_string(notes.join("ran")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn ended(child: Child) -> Said {
    said(child.wait_with_output().expect("it was started here"))
}

/// What a store holds only while runs are there.
fn left(space: &Space) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["running", "claims", "work", "trash"] {
        let entries = fs::read_dir(space.path("artifacts").join(folder));
        for entry in entries.into_iter().flatten().flatten() {
            names.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    names
}

#[test]
fn two_runs_of_one_pipeline_make_each_stage_once() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = noting(notes.path());
    let runs = [space.start("run"), space.start("run")];
    let [one, two] = runs.map(|run| ended(run).ends(0));
    assert_eq!(ran(notes.path()), ["all", "part 1", "part 2"]);
    assert!(one.out.contains("first"), "{}{}", one.out, one.err);
    assert_eq!(one.out, two.out, "{}\n{}", one.err, two.err);
    assert_eq!(left(&space), [""; 0]);
    space.repro("run").ends(0).complains("nothing to do");
    space.repro("verify").ends(0);
}

/// A program that ends when it has seen `all` to have started.
fn meeting(notes: &Path, all: &str) -> String {
    format!(
        "touch {0}/{{me}}; i=0; for other in {all}; do while [ ! -e {0}/$other ]; do i=$((i + 1)); \
         [ $i -lt 600 ]; sleep 0.05; done; done; echo {{me}} > {{out.x}}",
        notes.display()
    )
}

#[test]
fn other_profiles_settings_pipelines_and_folders_run_side_by_side() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let script = meeting(notes.path(), "here profile setting pipeline folder");
    let pipeline = |me: &str| {
        format!(
            "[pipeline]\nprofile = 'usual'\n[pipeline.profiles.usual]\nabout = 'x'\n[pipeline.profiles.other]\nabout = 'x'\n[profile.other.meet]\nme = 'profile'\n[stage.meet]\nkind = 'command'\n\
             shell = '''{}'''\nparams.me = '{me}'\nout.x = 'x'\n",
            script.replace("{me}", "{params.me}")
        )
    };
    let space = Space::new(&pipeline("here"));
    space.write("other.toml", &pipeline("pipeline"));
    space.write("tree/pipeline.toml", &pipeline("folder"));
    let runs = [
        "run",
        "run --profile other",
        "run --set meet.me=setting",
        "run --file other.toml",
        "run --file tree/pipeline.toml --store artifacts",
    ];
    let runs = runs.map(|words| space.start(words));
    for run in runs {
        ended(run).ends(0);
    }
    let results = fs::read_dir(space.path("artifacts/results")).expect("there");
    assert_eq!(results.count(), 5);
    assert_eq!(left(&space), [""; 0]);
    space.repro("run").ends(0).complains("nothing to do");
}

/// A stage that counts to 40 with a checkpoint at every step, and notes where it begins.
fn counting(notes: &Path) -> Space {
    let space = Space::new(
        "[stage.count]\nkind = 'command'\nrun = ['sh', 'count.sh', '{out.x}']\nout.x = 'x'\n",
    );
    let script = r#"
c="$REPRO_CHECKPOINT/at"
i=0; [ ! -f "$c" ] || i=$(cat "$c")
echo "from $i" >> NOTES/ran
while [ $i -lt 40 ]; do
  i=$((i + 1)); echo $i > "$c.new"; mv "$c.new" "$c"; sleep 0.05
done
echo $i > "$1"
"#;
    space.write(
        "count.sh",
        &script.replace("NOTES", &notes.display().to_string()),
    );
    space
}

/// The second run of the two waits for the first.
fn one_waits_for_the_other(space: &Space, notes: &Path) -> (Child, Child) {
    let first = space.start("run");
    eventually("the first works", || ran(notes).len() == 1);
    let second = space.start("run");
    eventually("the second is there", || {
        fs::read_dir(space.path("artifacts/running")).is_ok_and(|all| all.count() == 2)
    });
    std::thread::sleep(Duration::from_millis(500));
    (first, second)
}

#[test]
fn what_a_killed_run_was_at_is_taken_over_with_its_checkpoint() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = counting(notes.path());
    let (first, second) = one_waits_for_the_other(&space, notes.path());
    let pid = first.id();
    kill(pid, Signal::KILL);
    ended(first);
    let second = ended(second).ends(0);
    let told = format!("count waits for the run of process {pid}\n");
    assert!(second.err.contains(&told), "{}", second.err);
    let ran = ran(notes.path());
    assert_eq!(ran.len(), 2, "{ran:?}");
    assert!(ran[0] == "from 0" && ran[1] != "from 0", "{ran:?}");
    assert_eq!(space.output("count", "x"), b"40\n");
    // The next run tidies up.
    space.repro("run --force").ends(0);
    assert_eq!(left(&space), [""; 0]);
}

#[test]
fn what_a_stopped_run_was_at_is_taken_over() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = counting(notes.path());
    let (first, second) = one_waits_for_the_other(&space, notes.path());
    kill(first.id(), Signal::INT);
    ended(first).ends(5);
    ended(second).ends(0);
    assert_eq!(ran(notes.path()).len(), 2);
    assert_eq!(space.output("count", "x"), b"40\n");
}

#[test]
fn a_failure_of_another_run_is_tried_again_here() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let dir = notes.path().display();
    let space = Space::new(&format!(
        "[stage.a]\nkind = 'command'\nshell = '''\necho a >> {dir}/ran\n\
         if [ ! -e {dir}/failed ]; then touch {dir}/failed; sleep 1.5; exit 3; fi\necho 1 > {{out.x}}\n'''\nout.x = 'x'\n"
    ));
    let (first, second) = one_waits_for_the_other(&space, notes.path());
    ended(first).ends(1).complains("exit 3");
    let second = ended(second).ends(0);
    assert!(
        second.err.contains("a waits for the run of process"),
        "{}",
        second.err
    );
    assert_eq!(ran(notes.path()).len(), 2);
    space.repro("run").ends(0).complains("nothing to do");
}

#[test]
fn one_that_waits_can_be_stopped() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = counting(notes.path());
    let (first, second) = one_waits_for_the_other(&space, notes.path());
    kill(second.id(), Signal::INT);
    let second = ended(second).ends(5);
    assert!(
        second.err.contains("stopped: 0 ran, 1 left"),
        "{}",
        second.err
    );
    ended(first).ends(0);
    assert_eq!(ran(notes.path()), ["from 0"]);
}

#[test]
fn status_tells_what_other_runs_are_at() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = counting(notes.path());
    let (first, second) = one_waits_for_the_other(&space, notes.path());
    let status = space.repro("status").ends(0);
    let now = format!(
        "count  stale  never run (process {} runs it now)\n",
        first.id()
    );
    assert!(status.out.starts_with(&now), "{}", status.out);
    for (run, on) in [(&first, ": count\n"), (&second, ")\n")] {
        let line = status.err.split_inclusive('\n');
        let mut line = line.filter(|line| line.contains(&format!("(process {} on ", run.id())));
        assert!(
            line.next().is_some_and(|line| line.ends_with(on)),
            "{}",
            status.err
        );
    }
    let json: serde_json::Value =
        serde_json::from_str(&space.repro("status --json").out).expect("JSON");
    assert_eq!(json["running"][0]["stages"], serde_json::json!(["count"]));
    assert_eq!(json["running"][1]["stages"], serde_json::json!([]));
    assert_eq!(json["stages"][0]["process"], first.id());
    for run in [first, second] {
        ended(run).ends(0);
    }
    assert!(!space.repro("status").err.contains("running"));
}

#[test]
fn gc_waits_for_runs_and_removes_nothing_they_need() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = noting(notes.path());
    space.repro("run --set part.x=1").ends(2);
    space.edit("echo all", "echo sum");
    space.repro("run").ends(0);
    space.edit("echo sum", "echo all");
    space.edit("sleep 0.5", "sleep 1.5");
    let run = space.start("run");
    eventually("it works", || ran(notes.path()).len() > 3);
    let gc = space.start("gc --this-profile");
    std::thread::sleep(Duration::from_millis(300));
    space.repro("gc --dry-run --this-profile");
    ended(run).ends(0);
    let gc = ended(gc).ends(0);
    assert!(gc.err.starts_with("waiting for `"), "{}", gc.err);
    assert!(gc.err.contains("3 folders gone"), "{}", gc.err);
    space.repro("run").ends(0).complains("nothing to do");
    space.repro("verify").ends(0);
}

#[test]
fn force_waits_until_no_other_run_is_there() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let space = counting(notes.path());
    let first = space.start("run");
    eventually("the first works", || ran(notes.path()).len() == 1);
    let forced = ended(space.start("run --force")).ends(0);
    assert!(
        forced.err.contains("--force rewrites results"),
        "{}",
        forced.err
    );
    ended(first).ends(0);
    assert_eq!(ran(notes.path()), ["from 0", "from 0"]);
}

#[test]
fn what_asks_for_all_cpus_is_alone_among_the_stages_of_all_runs() {
    let notes = tempfile::tempdir().expect("a temporary folder");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let dir = notes.path().display();
    let space = Space::new(&format!(
        "[stage.a]\nkind = 'command'\nparams.n = 0\nresources = {{ cpu = {cpus} }}\nshell = '''\n\
         mkdir {dir}/one || touch {dir}/two\nsleep 0.3\nrmdir {dir}/one\necho {{params.n}} > {{out.x}}\n'''\nout.x = 'x'\n"
    ));
    let runs = [1, 2, 3].map(|n| space.start(&format!("run --set a.n={n}")));
    for run in runs {
        ended(run).ends(0);
    }
    assert!(!notes.path().join("two").exists());
}

#[test]
fn a_store_is_open_to_whom_its_folder_is_and_nothing_else_becomes_so() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'mkdir {out.d}; echo 1 > {out.d}/x; touch own; mktemp -p {out.d} y.XXX'\nout.d = 'd'\n",
    );
    let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for (folder, dirs, files, key) in [
        (0o700, 0o700, 0o600, 0o600),
        (0o750, 0o750, 0o640, 0o600),
        (0o770, 0o770, 0o660, 0o640),
        (0o755, 0o755, 0o644, 0o600),
    ] {
        let store = space.path("store");
        fs::create_dir(&store).expect("new");
        fs::set_permissions(&store, Permissions::from_mode(folder)).expect("ours");
        space.shell("umask 077; repro run --store store").ends(0);
        let results = fs::read_dir(store.join("results")).expect("there");
        let result = results.flatten().next().expect("one").path();
        for name in ["", "d"] {
            assert_eq!(mode(result.join(name)), dirs, "{folder:o} {name}");
        }
        let drawn = fs::read_dir(result.join("d")).expect("there").flatten();
        let mut all: Vec<PathBuf> = drawn.map(|file| file.path()).collect();
        all.extend(["record.json", "log"].map(|name| result.join(name)));
        all.extend(["index", "lock", "turn"].map(|name| store.join(name)));
        for file in all {
            assert_eq!(mode(file.clone()), files, "{folder:o} {}", file.display());
        }
        assert_eq!(mode(store.join("key")), key, "{folder:o}");
        assert_eq!(mode(space.path("own")), 0o600);
        fs::remove_file(space.path("own")).expect("ours");
        fs::remove_dir_all(&store).expect("ours");
    }
}

/// `REPRO_KILLS=300 cargo test --release --test runner three_runs` takes more rounds.
#[test]
fn three_runs_that_are_killed_at_any_moment_end_with_the_right_bytes() {
    let counted = |seed: u32| {
        (1..=30)
            .map(|i| format!("{seed} {i}\n"))
            .collect::<String>()
    };
    let expected = counted(1) + &counted(2);
    let (rounds, mut state) = (wanted(30), 11);
    let space = Space::new(WORK);
    space.write("count.sh", COUNT);
    // Every few rounds there is new work.
    let start = |round: usize| space.start(&format!("run --set count.round={}", round / 6));
    let mut runs: Vec<Child> = (0..3).map(|_| start(0)).collect();
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(next(&mut state) % 400));
        let at = next(&mut state) as usize % runs.len();
        let mut killed = std::mem::replace(&mut runs[at], start(round));
        kill(killed.id(), Signal::KILL);
        killed.wait().expect("it was started here");
    }
    for run in runs {
        ended(run).ends(0);
    }
    for round in 0..rounds.div_ceil(6) {
        space
            .repro(&format!("run --set count.round={round}"))
            .ends(0);
    }
    space.repro("run").ends(0);
    eventually("no process is left behind", || alive(&space).is_empty());
    assert_eq!(space.output("total", "all"), expected.as_bytes());
    space.repro("verify").ends(0);
    for round in 0..rounds.div_ceil(6) {
        let said = space
            .repro(&format!("path total.all --set count.round={round}"))
            .ends(0);
        let bytes = fs::read(space.path("artifacts").join(said.out.trim())).expect("there");
        assert_eq!(bytes, expected.as_bytes());
    }
    let gc = space.repro("gc --this-profile").ends(0);
    assert!(!gc.err.contains("waiting"), "{}", gc.err);
    assert_eq!(left(&space), [""; 0]);
}
