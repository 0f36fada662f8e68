//! `repro doctor` and devices that cannot be had, through the binary on a machine without a GPU.

mod common;

use common::Space;
use serde_json::Value;

fn report(space: &Space, words: &str, code: i32) -> Value {
    let said = space.repro(words).ends(code);
    serde_json::from_str(&said.out).expect("a report")
}

#[cfg(feature = "kinds")]
#[test]
fn it_tells_what_is_here_also_without_a_pipeline() {
    let space = Space::new("");
    std::fs::remove_file(space.path("pipeline.toml")).expect("an empty folder");
    space.write("data/cifar-10-batches-bin/test_batch.bin", "");
    let said = space.repro("--device cpu doctor --data data").ends(0);
    let said = said
        .says("thread")
        .says("free")
        .says("cifar10 (data set): data/cifar-10-batches-bin");
    said.says("celeba (data set): not here")
        .says("pt_inception-2015-12-05-6726825d.pth or weights-inception-2015-12-05-6726825d.pth in the folder of --data")
        .says("no problem found");

    let all = report(&space, "--device cpu doctor --json --data data", 0);
    assert!(all["threads"].as_u64().is_some_and(|n| n > 0));
    assert!(all["disk"]["free_bytes"].as_u64().is_some_and(|n| n > 0));
    assert!(
        all["store"]
            .as_str()
            .is_some_and(|s| s.ends_with("/artifacts"))
    );
    assert_eq!(all["data_sets"][0]["path"], "data/cifar-10-batches-bin");
    assert_eq!(all["cuda"]["built"], cfg!(feature = "cuda"));
    assert_eq!(all["problems"], serde_json::json!([]));
    // It looked, and made nothing.
    assert!(!space.path("artifacts").exists());
}

#[test]
fn problems_are_listed_and_end_with_1() {
    let space = Space::new("");
    let all = report(&space, "--device cpu doctor --json --data nowhere", 1);
    assert_eq!(
        all["problems"][0],
        "--data nowhere: there is no such folder"
    );
    space
        .repro("--device tpu doctor")
        .ends(1)
        .says("`tpu` is no device");
}

/// Every test that needs there to be no GPU ends here where there is one.
#[cfg(feature = "kinds")]
fn no_gpu(test: &str) -> bool {
    let none = !std::path::Path::new("/dev/nvidia0").exists();
    if !none {
        eprintln!("SKIPPED {test}: there is a GPU");
    }
    none
}

#[cfg(feature = "kinds")]
#[test]
fn a_gpu_that_is_not_there_is_explained() {
    if !no_gpu("a_gpu_that_is_not_there_is_explained") {
        return;
    }
    let space = Space::new(include_str!("../pipeline.toml"));
    let said = space.repro("run --profile quick --device cuda").ends(2);
    if cfg!(feature = "cuda") {
        said.complains("--device cuda: ").complains("hint: ");
    } else {
        said.complains("this build of repro has no CUDA")
            .complains("--features cuda");
    }
    let all = report(&space, "--device cuda doctor --json", 1);
    assert!(!all["problems"].as_array().expect("problems").is_empty());
}

/// What a cluster node would say that got a job for a GPU it has not.
#[cfg(feature = "kinds")]
#[test]
fn a_worker_without_its_gpu_says_why() {
    if !no_gpu("a_worker_without_its_gpu_says_why") {
        return;
    }
    let space = Space::new("");
    let job = serde_json::json!({
        "stage": "extractor", "kind": "extractor", "inputs": {}, "outputs": {},
        "params": {"network": {"kind": "inception-2015-12-05"}},
        "checkpoint": "c", "state": "s", "extends": null, "device": "cuda:0", "threads": 1,
        "data": null, "downloads": "d", "checkpoint_every": {},
    });
    space.write("job.json", &job.to_string());
    let said = space
        .repro("worker job.json")
        .ends(1)
        .complains("device cuda:0: ");
    let why = match cfg!(feature = "cuda") {
        // The stub of a toolkit or a driver without devices: either has its hint.
        true => "hint: ",
        false => "this build of repro has no CUDA; hint: cargo build --release --features cuda",
    };
    said.complains(why);
}

/// The program that `cargo build --features cuda` makes, without the libraries it needs.
#[cfg(feature = "cuda")]
#[test]
fn a_missing_library_is_named_with_the_places_searched() {
    let missing = std::process::Command::new(env!("CARGO_BIN_EXE_repro"))
        .arg("doctor")
        .env_clear()
        .env("LD_LIBRARY_PATH", "/nowhere")
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&missing.stderr);
    if missing.status.success() {
        eprintln!(
            "SKIPPED a_missing_library_is_named_with_the_places_searched: the system has them all"
        );
        return;
    }
    assert_eq!(missing.status.code(), Some(2), "{text}");
    for words in [
        "libcudnn.so.9  (from nvidia-cudnn-cu13)",
        "looked in LD_LIBRARY_PATH: /nowhere",
        "hint: ",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}
