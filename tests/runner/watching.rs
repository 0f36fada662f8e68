//! Programs run watched as they do unwatched, and what the kernel itself opens for them is seen too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::common::Space;
use crate::observed::{has, shell};

fn executable(space: &Space, name: &str) {
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(space.path(name), mode).expect("ours");
}

/// A program of the system as the project's own, with other bytes behind its end.
fn copy(space: &Space, program: &str, name: &str) -> Vec<u8> {
    let mut bytes = fs::read(program).expect("it is there");
    bytes.push(b'\n');
    fs::create_dir_all(space.path(name).parent().expect("a folder")).expect("ours");
    fs::write(space.path(name), &bytes).expect("ours");
    executable(space, name);
    bytes
}

#[test]
fn an_interpreter_counts_also_where_a_script_names_it_relatively() {
    let space = shell("./tool > {out.x}");
    copy(&space, "/bin/cat", "bin/show");
    space.write("tool", "#!bin/show\nwhat it shows\n");
    executable(&space, "tool");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"#!bin/show\nwhat it shows\n");
    assert_eq!(space.run(), [""; 0]);
    copy(&space, "/bin/head", "bin/show");
    assert!(space.status().contains("a  stale  file bin/show changed"));
}

#[test]
fn the_loader_that_a_program_names_counts() {
    let loaders = [
        "/lib64/ld-linux-x86-64.so.2\0",
        "/lib/ld-linux-aarch64.so.1\0",
    ];
    let mut program = fs::read("/bin/cat").expect("it is there");
    let place = |name: &&&str| {
        program
            .windows(name.len())
            .position(|w| w == name.as_bytes())
    };
    let Some((name, at)) = (loaders.iter()).find_map(|name| Some((name, place(&name)?))) else {
        eprintln!("SKIPPED: /bin/cat names no loader that is known here");
        return;
    };
    let space = shell("bin/cat data.txt > {out.x}");
    copy(&space, name.trim_end_matches('\0'), "bin/loader");
    let mut own = b"bin/loader".to_vec();
    own.resize(name.len(), 0);
    program[at..at + own.len()].copy_from_slice(&own);
    fs::write(space.path("bin/cat"), &program).expect("ours");
    executable(&space, "bin/cat");
    space.write("data.txt", "1\n");
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.run(), [""; 0]);
    let mut loader = fs::read(space.path("bin/loader")).expect("ours");
    loader.push(0);
    fs::write(space.path("bin/loader"), &loader).expect("ours");
    assert!(space.status().contains("a  stale  file bin/loader changed"));
}

#[test]
fn what_a_stage_leaves_running_is_ended_with_it() {
    if !has("setsid") {
        return;
    }
    let space = shell(
        "echo good > {out.x}; setsid sh -c 'exec 7>>$0; sleep 1; echo LATE >&7' {out.x} & sleep 0.2",
    );
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.err.contains("a left ") && said.err.contains(" running, which w"),
        "{}",
        said.err
    );
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(space.output("a", "x"), b"good\n");
}

#[test]
fn a_program_runs_the_same_watched_or_not() {
    let line = "i=0; while [ $i -lt 40 ]; do (cat data.txt; cat nowhere 2>/dev/null || echo none) >> log & i=$((i+1)); done; wait; \
        sh -c 'kill -STOP $$' & p=$!; sleep 0.1; kill -CONT $p; wait $p; echo $? >> log; sort log > {out.x}; rm log; \
        exec sh -c 'exec env sh -c \"cat data.txt >> {out.x}\"'";
    let space = shell(line);
    space.write("data.txt", "1\n");
    assert_eq!(space.run(), ["a"]);
    let watched = space.output("a", "x");
    let text = space.read("pipeline.toml");
    space.write("pipeline.toml", &format!("{text}watch = false\n"));
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), watched);
    for (line, code) in [("exit 7", "exit 7"), ("kill -USR1 $$", "killed by ")] {
        let said = shell(line).repro(&["run"]);
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains(code), "{}", said.err);
    }
}

#[test]
fn a_ring_through_which_files_could_be_opened_unseen_is_not_to_be_had() {
    if !has("python3") {
        return;
    }
    // 425 is io_uring_setup on every processor, 38 is ENOSYS.
    let ask = "import ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n\
               got = libc.syscall(425, 4, ctypes.create_string_buffer(120))\n\
               sys.exit(0 if got == -1 and ctypes.get_errno() == 38 else 1)\n";
    let space = shell("python3 ask.py && exit 3");
    space.write("ask.py", ask);
    let said = space.repro(&["run"]);
    assert!(said.err.contains("exit 3"), "{}", said.err);
    assert!(said.err.contains("it asked for io_uring"), "{}", said.err);
}

#[test]
fn threads_that_open_files_and_a_filter_of_its_own_go_on_as_ever() {
    if !has("python3") {
        return;
    }
    let program = "import sys, threading, ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
# A filter that lets everything pass, on top of ours: prctl(PR_SET_NO_NEW_PRIVS), prctl(PR_SET_SECCOMP).
assert libc.prctl(38, 1, 0, 0, 0) == 0
allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 1, ctypes.addressof(allow)))
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
total = []
def read(i):
    for k in range(50):
        total.append(int(open('data/%d' % (i % 8)).read()))
threads = [threading.Thread(target=read, args=(i,)) for i in range(64)]
[t.start() for t in threads]
[t.join() for t in threads]
open(sys.argv[1], 'w').write(str(sum(total)))
";
    let space = shell("python3 many.py {out.x}");
    space.write("many.py", program);
    for i in 0..8 {
        space.write(&format!("data/{i}"), &i.to_string());
    }
    assert_eq!(space.run(), ["a"]);
    assert_eq!(
        space.output("a", "x"),
        (28 * 8 * 50).to_string().into_bytes()
    );
    assert_eq!(space.run(), [""; 0]);
    space.write("data/7", "8");
    assert!(space.status().contains("a  stale  file data/7 changed"));
}
