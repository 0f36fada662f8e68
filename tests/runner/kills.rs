//! Programs killed at random moments: the next run goes on and ends with the same bytes.
//!
//! `REPRO_KILLS=200 cargo test --release --test runner kill` is the full length, together with
//! training.rs, which does the same to stages that train.

use std::fs;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Space, eventually, said};

/// Work that counts to 30 with a checkpoint at every step, by a grandchild, twice over.
pub const WORK: &str = r#"
[stage.count]
kind = "command"
for.seed = [1, 2]
run = ["sh", "count.sh", "{params.seed}", "{out.sum}"]
params = { seed = "{seed}", round = 0 }
out.sum = "sum"

[stage.total]
kind = "command"
shell = "cat {in.sums} > {out.all}"
in.sums = "count@*.sum"
out.all = "all"
"#;

/// Appends a line a step; a checkpoint is a whole file, renamed. The sleeper in the background is
/// the process that must not be left behind.
pub const COUNT: &str = r#"
sleep 997 &
c="$REPRO_CHECKPOINT/at"
i=0; : > "$2.part"
if [ -f "$c" ]; then cp "$c" "$2.part"; i=$(wc -l < "$c"); fi
while [ $i -lt 30 ]; do
  i=$((i + 1)); echo "$1 $i" >> "$2.part"
  cp "$2.part" "$c.new"; mv "$c.new" "$c"
  sleep 0.01
done
mv "$2.part" "$2"
kill $!
"#;

fn space() -> Space {
    let space = Space::new(WORK);
    space.write("count.sh", COUNT);
    space
}

/// Processes whose working folder is the space: all that its runs have started.
pub fn alive(space: &Space) -> Vec<u32> {
    let here = space.dir().canonicalize().expect("there");
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == here) {
            pids.push(pid);
        }
    }
    pids
}

/// Of a process that may be gone by now.
pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

fn reap(mut child: Child) {
    child.wait().expect("it was started here");
}

/// A generator that needs no seed from outside: the moments differ, the test does not.
pub fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    *state >> 33
}

/// How often to kill: a few times by default, `REPRO_KILLS` times where it is set.
pub fn wanted(default: usize) -> usize {
    let asked = std::env::var("REPRO_KILLS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_bytes() {
    let whole = space();
    whole.run();
    let expected = whole.output("total", "all");
    let (wanted, mut kills, mut state) = (wanted(12), 0, 7);
    while kills < wanted {
        let space = space();
        loop {
            let mut child = space.start(&["run"]);
            std::thread::sleep(Duration::from_millis(next(&mut state) % 400));
            if kills >= wanted || child.try_wait().expect("ours").is_some() {
                reap(child);
                break;
            }
            // Every third time a stage dies instead of the runner, if there is one yet.
            let runner = child.id();
            let victim = match next(&mut state) % 3 {
                0 => alive(&space)
                    .into_iter()
                    .find(|pid| *pid != runner)
                    .unwrap_or(runner),
                _ => runner,
            };
            kill(victim, Signal::KILL);
            kills += 1;
            if victim != runner {
                kill(runner, Signal::KILL);
            }
            reap(child);
            eventually("no process is left behind", || alive(&space).is_empty());
        }
        space.repro(&["run"]);
        assert_eq!(space.output("total", "all"), expected);
        assert_eq!(space.repro(&["verify"]).code, Some(0));
        let work = fs::read_dir(space.path("artifacts/work")).expect("there");
        assert_eq!(work.count(), 0, "nothing half-done is left");
    }
}

/// A run of a stage that answers a request to stop with `when_asked`. It is at work.
fn stubborn(when_asked: &str) -> (Space, Child) {
    let script = format!("trap '{when_asked}' TERM; touch ready; while :; do sleep 0.05; done");
    let space = Space::new(&format!(
        "[stage.one]\nkind = \"command\"\nrun = [\"sh\", \"-c\", \"{script}\"]\nout.x = \"x\"\n"
    ));
    let child = space.start(&["run"]);
    eventually("it works", || space.path("ready").exists());
    (space, child)
}

/// Whoever starts `repro` may pass on a Ctrl-C that has reached it already (`timeout`, some package
/// managers): that is still one.
#[test]
fn two_signals_at_once_are_one() {
    let (space, child) = stubborn("sleep 0.2; touch $REPRO_CHECKPOINT/half; exit 5");
    kill(child.id(), Signal::INT);
    std::thread::sleep(Duration::from_millis(10));
    kill(child.id(), Signal::INT);
    let stopped = said(child.wait_with_output().expect("ours"));
    assert_eq!(stopped.code, Some(5), "{}", stopped.err);
    let work = fs::read_dir(space.path("artifacts/work")).expect("there");
    let half = |folder: fs::DirEntry| folder.path().join("checkpoint/half").exists();
    assert!(work.flatten().any(half), "it had the time it needed");
}

/// A later one ends what does not listen, and that is no failure of the stage.
#[test]
fn asked_once_more_it_ends_at_once() {
    let (space, mut child) = stubborn("true");
    // Twice is enough, unless the machine is so busy that two come at once.
    for _ in 0..20 {
        kill(child.id(), Signal::INT);
        std::thread::sleep(Duration::from_millis(700));
        if child.try_wait().expect("ours").is_some() {
            break;
        }
    }
    let stopped = said(child.wait_with_output().expect("ours"));
    assert_eq!(stopped.code, Some(5), "{}", stopped.err);
    assert!(stopped.err.contains("`repro run` goes on from here"));
    assert!(!stopped.err.contains("failed"), "{}", stopped.err);
    eventually("no process is left behind", || alive(&space).is_empty());
}

#[test]
fn asked_to_stop_it_stops_and_says_how_to_go_on() {
    let space = space();
    let child = space.start(&["run"]);
    eventually("it works", || alive(&space).len() > 2);
    kill(child.id(), Signal::INT);
    let stopped = said(child.wait_with_output().expect("ours"));
    assert_eq!(stopped.code, Some(5), "{}", stopped.err);
    assert!(
        stopped.err.contains("`repro run` goes on from here"),
        "{}",
        stopped.err
    );
    eventually("no process is left behind", || alive(&space).is_empty());
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
}
