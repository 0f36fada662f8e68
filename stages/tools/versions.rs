//! What results were computed with, for their records.

use std::collections::BTreeMap;

/// Names and versions: the compiler, candle, and for a GPU its libraries.
pub fn versions(device: &str) -> BTreeMap<String, String> {
    let built = [
        ("rustc", option_env!("REPRO_RUSTC")),
        ("candle", option_env!("REPRO_CANDLE")),
    ];
    let built = built
        .into_iter()
        .filter_map(|(name, version)| Some((name.to_owned(), version?.to_owned())));
    let mut all: BTreeMap<String, String> = built.collect();
    if device.starts_with("cuda") {
        all.extend(cuda());
    }
    all
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<(String, String)> {
    use crate::nn::cuda::{driver, library, trouble};
    let name = |library: &str| {
        library
            .trim_start_matches("lib")
            .trim_end_matches(".so")
            .into()
    };
    let libraries = library::all().into_iter();
    // The driver's own library has no version but the driver's.
    let libraries = libraries.filter(|library| library.name != "libcuda.so");
    let mut all: Vec<(String, String)> = libraries.map(|l| (name(l.name), l.version)).collect();
    if let Ok(version) = driver::check() {
        all.push(("cuda".into(), trouble::version(version)));
    }
    all
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<(String, String)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::versions;

    #[test]
    fn a_build_knows_what_it_was_made_with() {
        let all = versions("cpu");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["candle", "rustc"]);
        for version in all.values() {
            assert!(
                version.starts_with(|c: char| c.is_ascii_digit()),
                "{version}"
            );
        }
    }
}
