//! The libraries this process is linked to, with their versions and files.

use candle_core::cuda::cudarc::{cublas, cudnn, nvrtc};

use crate::tools::device::Library;

pub fn all() -> Vec<Library> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let file = |name: &str| {
        let paths = maps.lines().filter_map(|line| line.split_once('/'));
        let mut paths = paths.map(|(_, path)| format!("/{path}"));
        paths.find(|path| path.rsplit('/').next().is_some_and(|f| f.starts_with(name)))
    };
    let library = |name, version| Library {
        name,
        version,
        file: file(name),
    };
    // SAFETY: plain queries without arguments, or with places for one int each.
    let (cudnn, cublas, nvrtc) = unsafe {
        let number = cudnn::sys::cudnnGetVersion();
        let (mut major, mut minor) = (0, 0);
        nvrtc::sys::nvrtcVersion(&mut major, &mut minor);
        let part = |of| {
            let mut value = 0;
            cublas::sys::cublasGetProperty(of, &mut value);
            value
        };
        use cublas::sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
        (
            format!(
                "{}.{}.{}",
                number / 10_000,
                number / 100 % 100,
                number % 100
            ),
            format!(
                "{}.{}.{}",
                part(MAJOR_VERSION),
                part(MINOR_VERSION),
                part(PATCH_LEVEL)
            ),
            format!("{major}.{minor}"),
        )
    };
    vec![
        library("libcuda.so", "see driver".into()),
        library("libcudnn.so", cudnn),
        library("libcublas.so", cublas),
        library("libnvrtc.so", nvrtc),
    ]
}
