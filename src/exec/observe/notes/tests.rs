//! Notes of what a stage does, one call after the other.

use super::*;
use crate::store::places::Root;
use globset::GlobSet;

struct Scene {
    dir: tempfile::TempDir,
    notes: Notes,
}

impl Scene {
    fn new(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, "x").expect("a file");
        }
        let roots = vec![Root::new(dir.path(), Path::new(""))];
        let places = Places::new(roots, &dir.path().join("artifacts"), GlobSet::empty());
        let notes = Notes::new(Arc::new(places));
        Self { dir, notes }
    }

    /// As the listener does: looks, lets it happen, takes it in.
    fn does(&mut self, act: Act, path: &str, happen: impl FnOnce(&Path)) {
        let path = self.dir.path().join(path);
        let event = Event::Path {
            act,
            path: path.clone(),
            absolute: true,
        };
        let before = self.notes.before(&event);
        happen(&path);
        self.notes.take(&event, before, None);
        self.notes.end();
    }

    fn renames(&mut self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.dir.path().join(name));
        let event = |act, path: &Path| Event::Path {
            act,
            path: path.into(),
            absolute: true,
        };
        let all = [
            event(Act::Carry, &from),
            event(Act::Remove, &from),
            event(Act::Make(Thing::Moved), &to),
        ];
        let before = all.each_ref().map(|event| self.notes.before(event));
        // What cannot be done is what is tried here too.
        let _ = fs::rename(&from, &to);
        for (event, before) in all.iter().zip(before) {
            self.notes.take(event, before, None);
        }
        self.notes.end();
    }

    fn marks(&self, path: &str) -> Marks {
        self.notes.of(&self.dir.path().join(path))
    }
}

const READ: Act = Act::Open(libc::O_RDONLY);
const WRITE: Act = Act::Open(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC);

#[test]
fn what_was_there_is_read_and_what_the_stage_made_is_its_own() {
    let mut scene = Scene::new(&["a", "b", "c/d"]);
    let write = |path: &Path| fs::write(path, "new").expect("written");
    scene.does(READ, "a", |_| {});
    scene.does(WRITE, "b", write);
    scene.does(READ, "b", |_| {});
    scene.does(WRITE, "new", write);
    scene.does(READ, "new", |_| {});
    scene.does(READ, "none", |_| {});
    scene.does(Act::Look { follow: true }, "c/d", |_| {});
    assert!(scene.marks("a").has(Marks::READ));
    assert!(!scene.marks("b").has(Marks::READ) && scene.marks("b").has(Marks::READ_LATER));
    assert!(!scene.marks("new").has(Marks::READ));
    assert!(scene.marks("none").has(Marks::ABSENT));
    assert!(scene.marks("c/d").has(Marks::THERE) && !scene.marks("c/d").has(Marks::READ));
}

#[test]
fn a_file_replaced_after_it_was_read_stays_read() {
    let mut scene = Scene::new(&["state", "old"]);
    scene.does(READ, "state", |_| {});
    let make = |path: &Path| fs::write(path, "new").expect("written");
    scene.does(WRITE, "state.tmp", make);
    scene.renames("state.tmp", "state");
    assert!(scene.marks("state").has(Marks::READ) && scene.marks("state").has(Marks::WROTE));
    scene.does(Act::Open(libc::O_RDWR), "old", |_| {});
    assert!(scene.marks("old").has(Marks::READ) && scene.marks("old").has(Marks::WROTE));
}

#[test]
fn all_in_a_folder_that_the_stage_made_is_its_own() {
    let mut scene = Scene::new(&["a"]);
    let folder = |path: &Path| fs::create_dir(path).expect("made");
    scene.does(Act::Make(Thing::Folder), "tmp", folder);
    scene.does(READ, "tmp/none", |_| {});
    assert_eq!(scene.marks("tmp/none"), Marks::default());
    // A folder that is there already was not made.
    scene.does(Act::Make(Thing::Folder), "tmp", |_| {});
    assert!(scene.notes.own(&scene.dir.path().join("tmp/x")));
}

#[test]
fn what_was_refused_is_not_the_stage_s_own() {
    let mut scene = Scene::new(&["a", "b/c", "d/e"]);
    scene.does(Act::Remove, "b", |_| {});
    scene.does(READ, "b/c", |_| {});
    assert!(scene.marks("b/c").has(Marks::READ));
    scene.does(WRITE, "none/x", |_| {});
    assert!(!scene.marks("none/x").has(Marks::OWN) && scene.marks("none/x").has(Marks::ABSENT));
    // A file cannot take the place of a folder.
    scene.renames("a", "d");
    scene.does(READ, "d/e", |_| {});
    scene.does(READ, "a", |_| {});
    assert!(scene.marks("d/e").has(Marks::READ) && scene.marks("a").has(Marks::READ));
    scene.renames("b", "moved");
    assert!(scene.marks("b/c").has(Marks::READ));
    assert!(scene.notes.own(&scene.dir.path().join("moved/c")));
}

#[test]
fn compiled_python_stands_for_its_source() {
    let mut scene = Scene::new(&["pkg/m.py", "pkg/__pycache__/m.cpython-311.pyc"]);
    scene.does(READ, "pkg/__pycache__/m.cpython-311.pyc", |_| {});
    assert!(scene.marks("pkg/m.py").has(Marks::READ));
}
