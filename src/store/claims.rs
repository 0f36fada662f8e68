//! Several runs on one store: which there are, and which works on what.
//!
//! A run holds the lock of its file in `running/` as long as it, its guard or one of its workers lives;
//! then the run counts as gone, and what it has claimed stands for nothing. `claims/FINGERPRINT` names the
//! run that works on it. Claims are made in the store's turn, so that of two runs only one is first.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lock::{Holder, Lock};
use crate::base::digest::Fingerprint;
use crate::base::read;

/// Folders in the store.
pub(super) const RUNNING: &str = "running";
pub(super) const CLAIMS: &str = "claims";

/// Bytes of a claim or of what a run says of itself.
const LONG: u64 = 64 << 10;

/// What a stage that runs occupies of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    #[serde(default)]
    pub cpu: usize,
    #[serde(default)]
    pub memory: u64,
    #[serde(default)]
    pub gpus: Vec<String>,
    /// Nothing may run beside it.
    #[serde(default)]
    pub alone: bool,
}

/// A stage that a run works on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claim {
    run: String,
    pub stage: String,
    #[serde(flatten)]
    pub taken: Taken,
}

/// A run, and what it works on.
#[derive(Debug, Clone)]
pub struct Running {
    pub id: String,
    pub holder: Holder,
    pub work: Vec<(Fingerprint, Claim)>,
}

/// What came of claiming work.
#[derive(Debug)]
pub enum Claimed<T> {
    /// It is ours. `left` if a run that is gone had claimed it before.
    Ours {
        seat: T,
        left: bool,
    },
    Theirs(Holder),
    NoRoom,
}

/// This run among those of the store. When it is dropped, nothing is claimed any more.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    root: PathBuf,
    /// The store's lock, shared or alone.
    store: Lock,
    own: Lock,
}

impl Session {
    pub(super) fn begin(root: &Path, id: String, store: Lock) -> io::Result<Self> {
        let _turn = Lock::turn(root)?;
        let folder = root.join(RUNNING);
        for entry in fs::read_dir(&folder)?.flatten() {
            if !is_held(&entry.path()) {
                // Of a run that was killed.
                let _ = fs::remove_file(entry.path());
            }
        }
        if fs::read_dir(&folder)?.next().is_none() {
            // Nobody waits for what is claimed here.
            for entry in fs::read_dir(root.join(CLAIMS))?.flatten() {
                let _ = fs::remove_file(entry.path());
            }
        }
        let own = Lock::of_run(&folder.join(&id))?;
        let root = root.to_path_buf();
        Ok(Self {
            id,
            root,
            store,
            own,
        })
    }

    /// Both locks for a process that may outlive this one, and what it has started.
    pub fn held(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.store.held()?, self.own.held()?])
    }

    /// The run's own lock, for a worker.
    pub fn held_by_worker(&self) -> io::Result<OwnedFd> {
        self.own.held()
    }

    /// Whether no other run is there any more, or will be before this one has ended.
    pub fn is_last(&self) -> bool {
        self.store.is_last()
    }

    /// Runs besides this one.
    pub fn others(&self) -> Vec<Running> {
        running_but(&self.root, &self.id)
    }

    /// Claims work, if `room` has a seat for it beside what other runs do.
    pub fn claim<T>(
        &self,
        fp: &Fingerprint,
        stage: &str,
        room: impl FnOnce(&[Running]) -> Option<(T, Taken)>,
    ) -> io::Result<Claimed<T>> {
        let _turn = Lock::turn(&self.root)?;
        let path = place(&self.root, fp);
        let before = load(&path).filter(|claim| claim.run != self.id);
        let others = self.others();
        if let Some(claim) = &before
            && let Some(other) = others.iter().find(|other| other.id == claim.run)
        {
            return Ok(Claimed::Theirs(other.holder.clone()));
        }
        let Some((seat, taken)) = room(&others) else {
            return Ok(Claimed::NoRoom);
        };
        let claim = Claim {
            run: self.id.clone(),
            stage: stage.into(),
            taken,
        };
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        let mut file = read::open_own(&mut options, &path)?;
        file.write_all(&serde_json::to_vec(&claim)?)?;
        Ok(Claimed::Ours {
            seat,
            left: before.is_some(),
        })
    }

    /// Gives work back; what came of it must have been told by now.
    pub fn release(&self, fp: &Fingerprint) {
        // One that cannot be removed stands for nothing when this run is gone.
        if let Ok(_turn) = Lock::turn(&self.root) {
            let _ = fs::remove_file(place(&self.root, fp));
        }
    }

    /// Whether another run works on this.
    pub fn is_elsewhere(&self, fp: &Fingerprint) -> bool {
        is_claimed(&self.root, fp, &self.id)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.root.join(RUNNING).join(&self.id));
    }
}

/// Runs that are there now, the oldest first.
pub fn running(root: &Path) -> Vec<Running> {
    running_but(root, "")
}

fn running_but(root: &Path, own: &str) -> Vec<Running> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join(RUNNING))
        .into_iter()
        .flatten()
        .flatten()
    {
        let id = entry.file_name().to_string_lossy().into_owned();
        if id != own && is_held(&entry.path()) {
            let holder = Holder::load(&entry.path(), &id);
            let work = Vec::new();
            all.push(Running { id, holder, work });
        }
    }
    if all.is_empty() {
        return all;
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    for entry in fs::read_dir(root.join(CLAIMS))
        .into_iter()
        .flatten()
        .flatten()
    {
        let fp = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Some(fp), Some(claim)) = (fp, load(&entry.path()))
            && let Some(run) = all.iter_mut().find(|run| run.id == claim.run)
        {
            run.work.push((fp, claim));
        }
    }
    all
}

/// Whether a run of this name is there.
pub(super) fn is_live(root: &Path, id: &str) -> bool {
    let plain = !id.is_empty() && !id.contains('/');
    plain && is_held(&root.join(RUNNING).join(id))
}

/// Whether a run other than `own` works on this.
pub(super) fn is_claimed(root: &Path, fp: &Fingerprint, own: &str) -> bool {
    load(&place(root, fp)).is_some_and(|claim| claim.run != own && is_live(root, &claim.run))
}

fn place(root: &Path, fp: &Fingerprint) -> PathBuf {
    root.join(CLAIMS).join(fp.to_string())
}

fn load(path: &Path) -> Option<Claim> {
    let text = read::own_bytes(path, LONG).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether somebody holds the lock of a file. What cannot be told may be held.
fn is_held(path: &Path) -> bool {
    let file: io::Result<File> = read::open_own(OpenOptions::new().read(true), path);
    match file {
        Ok(file) => matches!(
            file.try_lock_shared(),
            Err(TryLockError::WouldBlock | TryLockError::Error(_))
        ),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(root: &Path) -> io::Result<Session> {
        for folder in [RUNNING, CLAIMS] {
            fs::create_dir_all(root.join(folder))?;
        }
        let lock = Lock::share(&root.join("lock")).ok_or(io::ErrorKind::Other)?;
        Session::begin(root, super::super::lock::new_id(), lock)
    }

    #[test]
    fn work_is_claimed_by_one_until_it_is_given_back_or_its_run_is_gone() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (one, two) = (session(dir.path())?, session(dir.path())?);
        let fp = Fingerprint::of("work");
        let claim = |session: &Session| session.claim(&fp, "a", |_| Some(((), Taken::default())));
        let ours = |claimed, was| matches!(claimed, Claimed::Ours { left, .. } if left == was);
        assert!(ours(claim(&one)?, false));
        assert!(ours(claim(&one)?, false), "it is ours already");
        assert!(matches!(claim(&two)?, Claimed::Theirs(_)));
        assert!(two.is_elsewhere(&fp) && !one.is_elsewhere(&fp));
        // It could write nothing of itself.
        fs::write(dir.path().join(RUNNING).join(&one.id), "")?;
        assert!(
            matches!(claim(&two)?, Claimed::Theirs(holder) if holder.pid == std::process::id())
        );
        assert_eq!(two.others()[0].work[0].1.stage, "a");
        one.release(&fp);
        assert!(ours(claim(&two)?, false));
        assert!(!two.is_last());
        drop(two);
        assert!(ours(claim(&one)?, true), "its run is gone");
        assert!(one.others().is_empty() && one.is_last());
        Ok(())
    }

    #[test]
    fn what_others_occupy_counts() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (one, two) = (session(dir.path())?, session(dir.path())?);
        let taken = Taken {
            gpus: vec!["0".into()],
            ..Taken::default()
        };
        one.claim(&Fingerprint::of("x"), "x", |_| Some(((), taken.clone())))?;
        let mut seen = Vec::new();
        let claimed = two.claim(&Fingerprint::of("y"), "y", |others| {
            seen = others.to_vec();
            None::<((), Taken)>
        })?;
        assert!(matches!(claimed, Claimed::NoRoom));
        assert_eq!(seen[0].work[0].1.taken, taken);
        assert!(!two.is_elsewhere(&Fingerprint::of("y")));
        Ok(())
    }
}
