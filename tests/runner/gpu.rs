//! GPUs of `command` stages, which need no build with CUDA: here with device files that only look
//! like NVIDIA's.

use std::process::{Command, Stdio};

use crate::common::{Said, Space, said};

/// Makes a /dev with two GPUs for itself and what it becomes.
const WITH_GPUS: &str = r#"
set -e
dev=$1; shift
mkdir -p "$dev"
mount -t tmpfs none "$dev"
touch "$dev/null" "$dev/nvidia0" "$dev/nvidia1" "$dev/nvidiactl"
mount --bind /dev/null "$dev/null"
mount --rbind "$dev" /dev
exec "$@"
"#;

/// `repro` where two GPUs seem to be; None, and says so, where this user may not pretend that.
fn with_gpus(space: &Space, arguments: &[&str], visible: Option<&str>) -> Option<Said> {
    with_gpus_as(env!("CARGO_BIN_EXE_repro"), space, arguments, visible)
}

fn with_gpus_as(
    program: &str,
    space: &Space,
    arguments: &[&str],
    visible: Option<&str>,
) -> Option<Said> {
    let inside = |program: &[&str]| {
        let mut command = Command::new("unshare");
        let dev = space.path("dev").display().to_string();
        command
            .args(["--mount", "--map-root-user", "sh", "-c", WITH_GPUS, "sh"])
            .arg(dev)
            .args(program)
            .current_dir(space.dir())
            .stdin(Stdio::null());
        command
    };
    if !inside(&["true"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: this user may not mount in a namespace of its own");
        return None;
    }
    let mut command = inside(&[&[program], arguments].concat());
    command.env_remove("REPRO_DEVICE");
    match visible {
        Some(ids) => command.env("CUDA_VISIBLE_DEVICES", ids),
        None => command.env_remove("CUDA_VISIBLE_DEVICES"),
    };
    Some(said(command.output().expect("unshare starts")))
}

/// `a` and `b` ask for a GPU and meet; `c` does not ask.
const THREE: &str = r#"
[stage.train]
kind = "command"
for.name = ["a", "b"]
shell = "echo $CUDA_VISIBLE_DEVICES > {out.id}; touch here-{name}; for i in $(seq 200); do [ -e here-a ] && [ -e here-b ] && exit 0; sleep 0.05; done; exit 1"
out.id = "id"
resources = { gpu = 1 }
[stage.c]
kind = "command"
shell = "echo \"none: $CUDA_VISIBLE_DEVICES\" > {out.id}"
out.id = "id"
[pipeline]
ignore = ["here-*"]
"#;

fn id(space: &Space, stage: &str) -> String {
    String::from_utf8(space.output(stage, "id")).expect("text")
}

#[test]
fn commands_that_ask_run_side_by_side_on_a_gpu_each() {
    let space = Space::new(THREE);
    let Some(said) = with_gpus(&space, &["run", "-j3"], None) else {
        return;
    };
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mut ids = ["train@a", "train@b"].map(|stage| id(&space, stage));
    ids.sort();
    assert_eq!(ids, ["0\n", "1\n"]);
    assert_eq!(id(&space, "c"), "none: \n");
    let record = space.result("train@a").join("record.json");
    let record = std::fs::read_to_string(record).expect("a record");
    assert!(record.contains(r#""device": "cuda:"#), "{record}");
    assert!(record.contains(r#""device": "CUDA device""#), "{record}");
}

#[test]
fn a_run_tells_how_full_the_gpu_of_a_stage_is() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'sleep 0.5; touch {out.x}'\nout.x = 'x'\nresources = { gpu = 1 }\n",
    );
    // Stands for the driver's program.
    space.write(
        "bin/nvidia-smi",
        "#!/bin/sh\ncase $1 in *memory*) echo '0, GPU-5fd4, 1024, 81559'; echo '1, GPU-77aa, 0, 81559';; *) echo H100;; esac\n",
    );
    let script = "chmod +x bin/nvidia-smi; PATH=$PWD/bin:$PATH exec \"$0\" run --json";
    let arguments = ["-c", script, env!("CARGO_BIN_EXE_repro")];
    let Some(said) = with_gpus_as("sh", &space, &arguments, Some("GPU-5fd4")) else {
        return;
    };
    assert_eq!(said.code, Some(0), "{}", said.err);
    let event = said.out.lines().find(|l| l.contains("gpu-memory"));
    let event = event.unwrap_or_else(|| panic!("{}", said.out));
    for part in [
        "\"stage\":\"a\"",
        "\"used\":1073741824",
        "\"total\":85520809984",
    ] {
        assert!(event.contains(part), "{event}");
    }
}

#[test]
fn a_gpu_that_the_environment_names_is_the_one_that_is_given() {
    let space = Space::new(
        &THREE
            .replace(r#"["a", "b"]"#, r#"["a"]"#)
            .replace("[ -e here-b ]", "true"),
    );
    let Some(said) = with_gpus(&space, &["run"], Some("GPU-5fd4")) else {
        return;
    };
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(id(&space, "train@a"), "GPU-5fd4\n");
}

#[test]
fn more_gpus_than_there_are_is_an_error_before_anything_runs() {
    let space = Space::new(&THREE.replace("gpu = 1", "gpu = 3"));
    let Some(said) = with_gpus(&space, &["run"], None) else {
        return;
    };
    assert_eq!(said.code, Some(2), "{}", said.err);
    let says = "pipeline.toml:2:8: stage `train@a` asks for 3 GPUs, and there are 2: 0, 1\nhint: ";
    assert!(said.err.starts_with(says), "{}", said.err);
    assert!(!space.path("artifacts").exists());
}

#[test]
fn a_gpu_where_none_is_is_an_error_unless_the_cpu_is_asked_for() {
    let space = Space::new(&THREE.replace("[ -e here-a ] && [ -e here-b ]", "true"));
    let run = |device: &str| {
        let mut command = space.command(&["run", "--device", device]);
        // With this no GPU is seen anywhere.
        command.env("CUDA_VISIBLE_DEVICES", "");
        said(command.output().expect("repro starts"))
    };
    let refused = run("auto");
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    let says = "pipeline.toml:2:8: stage `train@a` asks for 1 GPU, and there is none: ";
    assert!(refused.err.starts_with(says), "{}", refused.err);
    assert!(refused.err.contains("\nhint: "), "{}", refused.err);
    let on_cpu = run("cpu");
    assert_eq!(on_cpu.code, Some(0), "{}", on_cpu.err);
    assert_eq!(id(&space, "train@a"), "\n");
    // Fresh results need no GPU.
    assert_eq!(run("auto").code, Some(0));
}
