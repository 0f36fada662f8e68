//! What the driver's error numbers mean to whoever sits before the machine.

/// The least version of the driver's interface that this build works with: NVRTC 13.0 writes code
/// that older drivers refuse.
pub const DRIVER: i32 = 13_000;

/// `12040` as `12.4`.
pub fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// What is wrong, and what helps, by the number of a `CUresult`.
pub fn explain(code: i32) -> (&'static str, &'static str) {
    match code {
        2 => (
            "the GPU has no memory left",
            "`nvidia-smi` shows what uses it; a smaller batch needs less",
        ),
        34 => (
            "libcuda.so.1 is the toolkit's stub, not a driver's library",
            "take the toolkit's `stubs` folder out of LD_LIBRARY_PATH; without a GPU use --device cpu",
        ),
        3 | 100 => (
            "the NVIDIA driver sees no GPU",
            "`nvidia-smi -L` lists what it sees; CUDA_VISIBLE_DEVICES may hide it, and a container \
             needs to be given one (docker run --gpus all)",
        ),
        35 | 222 | 803 | 804 => (
            "the NVIDIA driver is too old for CUDA 13.0",
            "install driver 580 or newer (`nvidia-smi` prints the version in its first line)",
        ),
        46 => (
            "the GPU is busy: another process has it to itself",
            "`nvidia-smi` names the process; wait for it, choose another with --device cuda:N, or \
             ask for shared mode (nvidia-smi -c DEFAULT)",
        ),
        101 => (
            "there is no GPU of that number",
            "`repro doctor` lists those there are, from 0",
        ),
        209 => (
            "this GPU cannot run the kernels that were built",
            "build for it: CUDA_COMPUTE_CAP=80 for A100, 89 for RTX 40, 90 for H100 and H200",
        ),
        802 => (
            "the GPUs are not ready yet",
            "on machines with NVSwitch the fabric manager must run: systemctl status nvidia-fabricmanager",
        ),
        214 | 700..=720 => (
            "the GPU has faulted while it computed",
            "`dmesg | grep -i xid` tells whether it is the hardware; otherwise it is a defect of repro, \
             please report it with CUDA_LAUNCH_BLOCKING=1 set",
        ),
        999 => (
            "the NVIDIA driver has failed",
            "the kernel module and the library may differ after an update: restart the machine",
        ),
        _ => (
            "the NVIDIA driver reports an error",
            "`nvidia-smi` should work first",
        ),
    }
}

/// [`explain`] for a driver's error that has become part of a text.
pub fn explain_text(text: &str) -> Option<(&'static str, &'static str)> {
    const NAMES: [(&str, i32); 11] = [
        ("CUDA_ERROR_OUT_OF_MEMORY", 2),
        ("CUDA_ERROR_NO_DEVICE", 100),
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", 46),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", 209),
        ("CUDA_ERROR_ECC_UNCORRECTABLE", 214),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", 222),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", 700),
        ("CUDA_ERROR_MISALIGNED_ADDRESS", 716),
        ("CUDA_ERROR_LAUNCH_FAILED", 719),
        ("CUDA_ERROR_SYSTEM_NOT_READY", 802),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", 803),
    ];
    let found = NAMES.iter().find(|(name, _)| text.contains(name));
    found.map(|(_, code)| explain(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(
            (version(12_040), version(DRIVER)),
            ("12.4".into(), "13.0".into())
        );
    }

    #[test]
    fn each_kind_of_trouble_has_its_own_words() {
        let kinds = [2, 34, 100, 35, 46, 101, 209, 802, 700, 999, 1];
        let mut words: Vec<_> = kinds.iter().map(|code| explain(*code).0).collect();
        words.dedup();
        assert_eq!(words.len(), kinds.len());
        assert_eq!(explain(35), explain(222));
        assert!(explain(46).0.contains("busy"));
        assert!(explain(35).1.contains("580"));
    }
}
