//! Names and versions of installed packages, from what package managers leave beside them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What is installed of the packages that were used: `(folder of packages, name in it)`.
pub fn versions(used: &HashSet<(PathBuf, PathBuf)>) -> BTreeMap<String, String> {
    let mut folders: HashMap<&Path, HashSet<&str>> = HashMap::new();
    for (folder, name) in used {
        if let Some(name) = name.to_str() {
            folders.entry(folder).or_default().insert(name);
        }
    }
    let mut known = BTreeMap::new();
    for (folder, names) in folders {
        match folder.file_name().and_then(|n| n.to_str()) {
            Some("node_modules") => known.extend(names.iter().filter_map(|n| node(folder, n))),
            _ => python(folder, &names, &mut known),
        }
    }
    known
}

/// What is imported by which name, of one folder of packages.
type Imported = HashMap<String, (String, String)>;

/// Looked through once a run: with hundreds of packages it takes some milliseconds.
static LOOKED_AT: Mutex<BTreeMap<PathBuf, Arc<Imported>>> = Mutex::new(BTreeMap::new());

fn python(folder: &Path, names: &HashSet<&str>, known: &mut BTreeMap<String, String>) {
    let mut all = LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    let imported = all
        .entry(folder.into())
        .or_insert_with(|| Arc::new(look(folder)));
    for name in names {
        if let Some((package, version)) = imported.get(*name) {
            known.insert(package.clone(), version.clone());
        }
    }
}

/// From `NAME-VERSION.dist-info/`: `top_level.txt`, or else `RECORD`, says what is imported as what.
fn look(folder: &Path) -> Imported {
    let mut imported = Imported::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some((name, version)) = file
            .to_str()
            .and_then(|f| f.strip_suffix(".dist-info"))
            .and_then(|f| f.rsplit_once('-'))
        else {
            continue;
        };
        let package = (name.replace('_', "-").to_lowercase(), version.to_owned());
        let mut add = |top: &str| {
            imported.insert(top.into(), package.clone());
        };
        let read = |name: &str| fs::read_to_string(entry.path().join(name));
        match read("top_level.txt") {
            Ok(text) => text.lines().for_each(|top| {
                add(top.trim());
                add(&format!("{}.py", top.trim()));
            }),
            Err(_) => {
                let text = read("RECORD").unwrap_or_default();
                let tops = text
                    .lines()
                    .filter_map(|line| line.split(['/', ',']).next());
                tops.filter(|top| !top.ends_with(".dist-info"))
                    .for_each(add);
            }
        }
    }
    imported
}

fn node(folder: &Path, name: &str) -> Option<(String, String)> {
    let text = fs::read(folder.join(name).join("package.json")).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some((name.to_owned(), json.get("version")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_known_by_what_they_are_imported_as() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let site = dir.path().join("site-packages");
        let write = |name: &str, text: &str| {
            let path = site.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&site))?;
            fs::write(path, text)
        };
        write("PyYAML-6.0.1.dist-info/top_level.txt", "_yaml\nyaml\n")?;
        write("numpy-2.3.4.dist-info/RECORD", "numpy/a.py,,\n")?;
        write("six-1.16.0.dist-info/RECORD", "six.py,,\n")?;
        write("unused-1.dist-info/RECORD", "unused/a.py,,\n")?;
        let used = ["yaml", "numpy", "six.py"].map(|n| (site.clone(), PathBuf::from(n)));
        let known = versions(&used.into_iter().collect());
        let expected = [("numpy", "2.3.4"), ("pyyaml", "6.0.1"), ("six", "1.16.0")];
        let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(known, BTreeMap::from(expected));
        Ok(())
    }
}
