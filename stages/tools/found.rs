//! Which official files are here already.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::{celeba, cifar10, fashion_mnist};
use crate::models::inception_weights;

/// An official data set or a file of weights.
#[derive(Debug, Serialize)]
pub struct Official {
    pub name: &'static str,
    /// What reads it, for people.
    pub what: &'static str,
    /// A file or folder of it, if it is here. Its content is verified when a stage reads it.
    pub path: Option<PathBuf>,
    /// Other ways to get it than the download.
    pub ways: Option<String>,
}

type Find = fn(&Path) -> Option<PathBuf>;

fn look(folders: &[&Path], known: &[(&'static str, &'static str, Find)]) -> Vec<Official> {
    let all = known.iter().map(|&(name, what, find)| Official {
        name,
        what,
        path: folders.iter().find_map(|folder| find(folder)),
        ways: None,
    });
    all.collect()
}

/// The data sets, in the folder of `--data` or among earlier downloads.
pub fn data_sets(folders: &[&Path]) -> Vec<Official> {
    let known: [(_, _, Find); 3] = [
        ("cifar10", "data set", cifar10::found),
        ("celeba", "data set", celeba::found),
        ("fashion-mnist", "data set", fashion_mnist::found),
    ];
    look(folders, &known)
}

/// The weights of networks that are not trained here.
pub fn weights(folders: &[&Path]) -> Vec<Official> {
    let known: [(_, _, Find); 1] = [(
        "inception-2015-12-05",
        "the network of the FID",
        inception_weights::found,
    )];
    let cache = inception_weights::torch_cache();
    let folders: Vec<&Path> = folders.iter().copied().chain(cache.as_deref()).collect();
    let mut all = look(&folders, &known);
    for official in &mut all {
        let cache = cache
            .as_ref()
            .map(|cache| format!(" or in {}", cache.display()));
        official.ways = Some(format!(
            "{} in the folder of --data{} is taken too",
            inception_weights::NAMES.join(" or "),
            cache.unwrap_or_default()
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_layouts_are_recognised_in_either_folder() -> anyhow::Result<()> {
        let (data, downloads) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let folders = [data.path(), downloads.path()];
        let names = |all: Vec<Official>| -> Vec<&str> {
            all.iter()
                .filter(|o| o.path.is_some())
                .map(|o| o.name)
                .collect()
        };
        assert!(names(data_sets(&folders)).is_empty());
        std::fs::create_dir_all(downloads.path().join("cifar-10-batches-bin"))?;
        std::fs::create_dir_all(data.path().join("celeba/img_align_celeba"))?;
        std::fs::create_dir_all(data.path().join("fashion-mnist"))?;
        let idx = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"];
        for name in idx {
            std::fs::write(
                data.path().join(format!("fashion-mnist/{name}-ubyte.gz")),
                "",
            )?;
        }
        // Three files of four are no data set.
        assert_eq!(names(data_sets(&folders)), ["cifar10", "celeba"]);
        std::fs::write(data.path().join("t10k-labels-idx1-ubyte"), "")?;
        assert_eq!(names(data_sets(&folders)).len(), 3);
        std::fs::write(
            downloads
                .path()
                .join("pt_inception-2015-12-05-6726825d.pth"),
            "",
        )?;
        assert_eq!(names(weights(&folders)), ["inception-2015-12-05"]);
        Ok(())
    }
}
