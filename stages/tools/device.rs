//! What stages could compute on here, and what to say when a device's memory is full.

use serde::Serialize;
use serde_json::Value;

#[cfg(any(feature = "cuda", test))]
use crate::nn::cuda::trouble::explain_text;

/// What this build can do with NVIDIA GPUs on this machine.
#[derive(Debug, Default, Serialize)]
pub struct Cuda {
    /// False: built without `--features cuda`.
    pub built: bool,
    /// The driver's interface, such as `13.0`.
    pub driver: Option<String>,
    pub gpus: Vec<Gpu>,
    /// Name, version and file of each library this process is linked to.
    pub libraries: Vec<Library>,
    /// Why no GPU can be used, with a hint.
    pub trouble: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Gpu {
    pub name: String,
    pub memory_bytes: u64,
    pub free_bytes: Option<u64>,
    /// Such as `9.0`.
    pub compute_capability: String,
    /// Why this one cannot be used, with a hint.
    pub trouble: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Library {
    pub name: &'static str,
    pub version: String,
    /// Where it was loaded from.
    pub file: Option<String>,
}

/// Asks the driver; slow the first time (a context on each GPU).
#[cfg(feature = "cuda")]
pub fn cuda() -> Cuda {
    use crate::nn::cuda::{driver, library, trouble};
    let mut all = Cuda {
        built: true,
        libraries: library::all(),
        ..Default::default()
    };
    match driver::check() {
        Ok(version) => all.driver = Some(trouble::version(version)),
        Err(e) => {
            all.trouble = Some(e.to_string());
            return all;
        }
    }
    match driver::gpus() {
        Ok(gpus) => {
            if gpus.is_empty() {
                let (what, hint) = trouble::explain(100);
                all.trouble = Some(format!("{what}; hint: {hint}"));
            }
            let gpu = |g: driver::Gpu| Gpu {
                name: g.name,
                memory_bytes: g.memory,
                free_bytes: g.free,
                compute_capability: format!("{}.{}", g.capability.0, g.capability.1),
                trouble: g.trouble,
            };
            all.gpus = gpus.into_iter().map(gpu).collect();
        }
        Err(e) => all.trouble = Some(e.to_string()),
    }
    all
}

/// Nothing, as this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn cuda() -> Cuda {
    Cuda::default()
}

/// The most bytes that tensors and scratch of this process have taken on the GPU of this thread, if it
/// computes on one.
pub fn peak_memory() -> Option<u64> {
    #[cfg(feature = "cuda")]
    return crate::nn::cuda::driver::peak_memory();
    #[cfg(not(feature = "cuda"))]
    None
}

/// If a job failed because of its GPU: what is wrong, and what helps. Where memory was short, what was
/// tried and what may fit.
pub fn trouble(stage: &str, params: &Value, error: &anyhow::Error) -> Option<String> {
    #[cfg(feature = "cuda")]
    let memory = crate::nn::cuda::driver::memory();
    #[cfg(not(feature = "cuda"))]
    let memory = None;
    let text = format!("{error:#}");
    if is_out_of_memory(&text) {
        return Some(advise(stage, params, memory));
    }
    let (what, hint) = explain_text(&text)?;
    Some(format!("{stage}: {what}; hint: {hint}"))
}

/// Without CUDA no driver reports anything.
#[cfg(not(any(feature = "cuda", test)))]
fn explain_text(_: &str) -> Option<(&'static str, &'static str)> {
    None
}

/// As the driver, cuBLAS and cuDNN put it.
fn is_out_of_memory(text: &str) -> bool {
    let signs = [
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ];
    signs.iter().any(|sign| text.contains(sign))
}

fn advise(stage: &str, params: &Value, memory: Option<(u64, u64)>) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let has = match memory {
        Some((free, all)) => format!(" of {:.1} GiB, {:.1} are free", gib(all), gib(free)),
        None => String::new(),
    };
    let name = stage.split('@').next().unwrap_or(stage);
    let mut batches = Vec::new();
    find_batches(params, name, &mut batches);
    let tried: Vec<_> = batches
        .iter()
        .map(|(path, batch)| format!("{path} = {batch}"))
        .collect();
    let tried = match tried.is_empty() {
        true => String::new(),
        false => format!(", with {}", tried.join(", ")),
    };
    let smaller = batches.iter().filter(|(_, batch)| *batch > 1);
    let smaller: Vec<_> = smaller
        .map(|(path, batch)| format!("--set {path}={}", batch / 2))
        .collect();
    let mut text = format!("{stage}: the GPU ran out of memory{tried}{has}");
    if !smaller.is_empty() {
        text += &format!(
            "; hint: half of that may fit, as memory grows about in proportion with the batch: {} \
             (another batch is another result)",
            smaller.join(" ")
        );
    }
    text + "; hint: `nvidia-smi` shows whether another process holds memory"
}

/// Every parameter called `batch`, as `--set` names it.
fn find_batches(params: &Value, path: &str, found: &mut Vec<(String, u64)>) {
    let Value::Object(members) = params else {
        return;
    };
    for (key, value) in members {
        let path = format!("{path}.{key}");
        match value.as_u64() {
            Some(batch) if key == "batch" => found.push((path, batch)),
            _ => find_batches(value, &path, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_gpu_names_the_stage_the_batch_and_a_smaller_one() {
        let error = anyhow::anyhow!("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")
            .context("step 3");
        let text = trouble("glow@celeba", &json!({"batch": 64, "lr": 1}), &error);
        let text = text.expect("it is out of memory");
        assert!(
            text.starts_with("glow@celeba: the GPU ran out of memory, with glow.batch = 64"),
            "{text}"
        );
        assert!(text.contains("--set glow.batch=32 "), "{text}");
        let gib = 1 << 30;
        let text = advise(
            "timing",
            &json!({"vae": {"batch": 64}, "glow": {"batch": 1}}),
            Some((gib / 2, 80 * gib)),
        );
        assert!(
            text.contains("timing.glow.batch = 1, timing.vae.batch = 64 of 80.0 GiB, 0.5 are free"),
            "{text}"
        );
        assert!(text.contains("--set timing.vae.batch=32 ("), "{text}");
        let other = anyhow::anyhow!("no such file");
        assert!(trouble("glow", &json!({}), &other).is_none());
    }

    #[test]
    fn what_the_driver_reports_of_a_job_comes_with_advice() {
        for (name, what, hint) in [
            ("DEVICE_UNAVAILABLE", "the GPU is busy", "--device cuda:N"),
            ("UNSUPPORTED_PTX_VERSION", "too old", "driver 580"),
            (
                "NO_BINARY_FOR_GPU",
                "cannot run the kernels",
                "CUDA_COMPUTE_CAP=80",
            ),
            ("ILLEGAL_ADDRESS", "has faulted", "CUDA_LAUNCH_BLOCKING=1"),
        ] {
            let error = anyhow::anyhow!("DriverError(CUDA_ERROR_{name}, \"…\")").context("step 3");
            let text = trouble("vae", &json!({}), &error).expect("it is the driver's");
            assert!(text.starts_with("vae: ") && text.contains(what), "{text}");
            assert!(text.contains("; hint: ") && text.contains(hint), "{text}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        assert!(!cuda().built && cuda().gpus.is_empty());
    }
}
