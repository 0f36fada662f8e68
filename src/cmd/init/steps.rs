//! From what a script was seen to do to steps: the commands that it started, one after the other, and the files
//! that go from one to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::exec::trace::{Deed, Started, Trace, What};
use crate::store::places::join;

/// One command of the script, or several that a pipe joins.
#[derive(Debug, Default)]
pub struct Step {
    pub commands: Vec<Started>,
    /// What it leaves behind: files, and folders that it made with all in them.
    pub made: BTreeSet<PathBuf>,
    /// What it read of what others left: the path, and the step that has left it.
    pub needs: BTreeMap<PathBuf, usize>,
    /// What it wrote to, moved or took away, of its own or of others.
    pub changed: BTreeSet<PathBuf>,
    /// It read or ran a file of the project.
    pub reads: bool,
    /// Where its standard output goes, if that is where the script's own goes.
    pub prints: bool,
    /// Steps that must have ended before, for they write to the same place.
    pub after: BTreeSet<usize>,
    /// Folders that it writes to and others have made.
    pub wants: BTreeSet<PathBuf>,
    /// Folders that it made.
    folders: BTreeSet<PathBuf>,
}

/// All steps that leave something behind or print what they have found in files of the project.
#[derive(Debug, Default)]
pub struct Steps {
    pub all: Vec<Step>,
    /// What the script wrote itself, by `echo` and its like.
    pub own: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// Variables that the script was started with, and its streams.
    pub env: Vec<(OsString, OsString)>,
    pub streams: [PathBuf; 3],
}

/// More files of one folder are an output together.
const MUCH: usize = 8;

/// Programs whose children are the steps.
const STARTERS: [&str; 9] = [
    "sh", "bash", "dash", "zsh", "ksh", "make", "gmake", "ninja", "just",
];

pub fn steps(trace: &Trace) -> Steps {
    let steps = steps_within(trace, true);
    match steps.all.is_empty() {
        // A script that does all by itself is one step.
        true => steps_within(trace, false),
        false => steps,
    }
}

/// `opened` looks into the only program that the line starts, if that starts others.
fn steps_within(trace: &Trace, opened: bool) -> Steps {
    let Some(root) = trace.processes.first() else {
        return Steps::default();
    };
    let (env, streams) = match &root.program {
        Some(program) => (program.env.clone(), program.streams.clone()),
        None => Default::default(),
    };
    let (groups, of) = groups(trace, opened);
    let mut steps: Vec<Step> = groups
        .into_iter()
        .map(|commands| Step {
            prints: prints(&commands, root.program.as_ref()),
            commands,
            ..Step::default()
        })
        .collect();
    let mut follower = Follower {
        steps: &mut steps,
        owner: HashMap::new(),
        own: BTreeSet::new(),
        folders: BTreeSet::new(),
    };
    for deed in &trace.deeds {
        follower.take(deed, of[deed.by]);
    }
    let Follower {
        mut own, folders, ..
    } = follower;
    own.retain(|path| path.exists());
    let mut all = Steps {
        all: steps,
        own,
        folders,
        env,
        streams,
    };
    all.want_folders();
    all.gather();
    all.drop_idle();
    all.order();
    all
}

/// The commands that the script started, those of one pipe together, and to which of them each process belongs.
fn groups(trace: &Trace, opened: bool) -> (Vec<Vec<Started>>, Vec<Option<usize>>) {
    let parent_of = |at: usize| {
        let parent = trace.processes[at].parent;
        let mut earlier = trace.processes[..at].iter();
        earlier.rposition(|process| process.number == parent)
    };
    let mut groups: Vec<Vec<Started>> = Vec::new();
    let mut of: Vec<Option<usize>> = Vec::new();
    // Processes whose children are looked at one by one.
    let mut open: Vec<bool> = Vec::new();
    let mut starters = usize::from(!opened);
    for (at, process) in trace.processes.iter().enumerate() {
        let parent = parent_of(at);
        let inside = match parent {
            Some(parent) => of[parent],
            None => None,
        };
        let above_is_open = at == 0 || parent.is_none_or(|parent| open[parent]);
        let (mut group, mut is_open) = (inside, false);
        if above_is_open && inside.is_none() {
            match &process.program {
                // A part of a shell: what it starts counts.
                None => is_open = true,
                Some(program) if at == 0 && is_starter(program) => is_open = true,
                // `bash run_all.sh` within `make`, when nothing else is there, is no step either.
                Some(program) if starters == 0 && is_starter(program) && is_alone(trace, at) => {
                    starters += 1;
                    is_open = true;
                }
                Some(program) => group = Some(group_of(&mut groups, program)),
            }
        }
        of.push(group);
        open.push(is_open);
    }
    (groups, of)
}

fn is_starter(program: &Started) -> bool {
    let name = program.arguments.first().map(Path::new);
    let name = name.and_then(Path::file_name).unwrap_or_default();
    STARTERS.iter().any(|starter| *starter == name)
}

/// True if no other program was started beside it.
fn is_alone(trace: &Trace, at: usize) -> bool {
    let process = &trace.processes[at];
    let mut others = trace.processes.iter().enumerate();
    !others.any(|(i, other)| i != at && other.parent == process.parent && other.program.is_some())
}

/// The group of a new command: that of the one whose output it reads through a pipe, or one of its own.
fn group_of(groups: &mut Vec<Vec<Started>>, program: &Started) -> usize {
    let is_pipe = |path: &Path| path.as_os_str().as_encoded_bytes().starts_with(b"pipe:");
    let [input, output, _] = &program.streams;
    let at = groups.iter().rposition(|group| {
        group.iter().any(|other| {
            is_pipe(input) && other.streams[1] == *input
                || is_pipe(output) && other.streams[0] == *output
        })
    });
    match at {
        Some(at) => {
            let group = &mut groups[at];
            let before = group
                .iter()
                .position(|other| is_pipe(output) && other.streams[0] == *output);
            group.insert(before.unwrap_or(group.len()), program.clone());
            at
        }
        None => {
            groups.push(vec![program.clone()]);
            groups.len() - 1
        }
    }
}

fn prints(commands: &[Started], root: Option<&Started>) -> bool {
    let last = commands.last().map(|command| &command.streams[1]);
    last.is_some() && last == root.map(|root| &root.streams[1])
}

/// Goes through all that happened, and tells each step what it made and what it needs.
struct Follower<'a> {
    steps: &'a mut [Step],
    /// Who has left a file, by its name now; nobody stands for the script itself.
    owner: HashMap<PathBuf, Option<usize>>,
    /// What the script itself has made.
    own: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl Follower<'_> {
    fn take(&mut self, deed: &Deed, step: Option<usize>) {
        let path = &deed.path;
        let known = self.owner.get(path).copied();
        let goes_on = !matches!(
            deed.what,
            What::Wrote { anew: true } | What::MadeFolder | What::Removed
        );
        if let Some(step) = step
            && !matches!(deed.what, What::Read | What::MadeFolder)
        {
            self.steps[step].changed.insert(path.clone());
        }
        if let Some(step) = step
            && goes_on
        {
            if let Some(from) = known.flatten().filter(|from| *from != step) {
                self.steps[step].needs.insert(path.clone(), from);
            }
            self.steps[step].reads |= known.is_none() && deed.what == What::Read;
        }
        match &deed.what {
            What::Read => {}
            What::Wrote { .. } => self.put(path, step),
            What::MadeFolder => {
                match step {
                    Some(step) => self.steps[step].folders.insert(path.clone()),
                    None => self.folders.insert(path.clone()),
                };
            }
            What::Removed => {
                self.take_away(path, step);
            }
            What::Moved(to) => {
                let gone = self.take_away(path, step);
                if gone.is_empty() {
                    self.put(to, step);
                }
                for inside in gone {
                    self.put(&join(to, &inside), step);
                }
            }
        }
    }

    fn put(&mut self, path: &Path, step: Option<usize>) {
        self.owner.insert(path.into(), step);
        match step {
            Some(step) => self.steps[step].made.insert(path.into()),
            None => self.own.insert(path.into()),
        };
    }

    /// Forgets what was left at a path and below it, which are returned relative to the path.
    fn take_away(&mut self, path: &Path, step: Option<usize>) -> Vec<PathBuf> {
        let known = self.owner.keys().filter(|known| known.starts_with(path));
        let known: Vec<PathBuf> = known.cloned().collect();
        for gone in &known {
            self.owner.remove(gone);
            self.own.remove(gone);
            if let Some(step) = step {
                self.steps[step].made.remove(gone);
            }
        }
        let inside = known
            .iter()
            .filter_map(|known| known.strip_prefix(path).ok());
        inside.map(Path::to_path_buf).collect()
    }
}

impl Steps {
    /// Folders that `mkdir` has made before, or another step, must be there for a step alone too.
    fn want_folders(&mut self) {
        let made = self
            .all
            .iter()
            .flat_map(|step| &step.folders)
            .chain(&self.folders);
        let made: BTreeSet<PathBuf> = made.cloned().collect();
        for step in &mut self.all {
            let above = step.made.iter().filter_map(|path| path.parent());
            let wants =
                above.filter(|folder| made.contains(*folder) && !step.folders.contains(*folder));
            step.wants = wants.map(Path::to_path_buf).collect();
        }
    }

    /// A folder that a step made stands for what it has put into it, if that is much and nobody else has put
    /// anything there. What is read of it is needed as the folder.
    fn gather(&mut self) {
        for at in 0..self.all.len() {
            let others = self.all.iter().enumerate().filter(|(i, _)| *i != at);
            let others = others.flat_map(|(_, step)| &step.made).chain(&self.own);
            let others: Vec<PathBuf> = others.cloned().collect();
            let step = &mut self.all[at];
            for folder in std::mem::take(&mut step.folders) {
                let inside = |paths: &mut dyn Iterator<Item = &PathBuf>| {
                    paths.filter(|path| path.starts_with(&folder)).count()
                };
                if inside(&mut step.made.iter()) > MUCH && inside(&mut others.iter()) == 0 {
                    step.made.retain(|path| !path.starts_with(&folder));
                    step.made.insert(folder);
                }
            }
        }
        for at in 0..self.all.len() {
            let needs = std::mem::take(&mut self.all[at].needs);
            for (path, from) in needs {
                let made = &self.all[from].made;
                let output = made.iter().find(|made| path.starts_with(made)).cloned();
                if let Some(output) = output {
                    self.all[at].needs.insert(output, from);
                }
            }
        }
    }

    /// Leaves out what leaves nothing: `mkdir`, `echo`, `rm`.
    fn drop_idle(&mut self) {
        let idle = |step: &Step| {
            step.made.is_empty() && !(step.prints && (step.reads || !step.needs.is_empty()))
        };
        let kept: Vec<usize> = (0..self.all.len())
            .filter(|at| !idle(&self.all[*at]))
            .collect();
        let new = |old: usize| kept.iter().position(|kept| *kept == old);
        let mut all: Vec<Step> = Vec::new();
        for (at, mut step) in std::mem::take(&mut self.all).into_iter().enumerate() {
            if kept.contains(&at) {
                let needs = step.needs.into_iter();
                step.needs = needs
                    .filter_map(|(path, from)| Some((path, new(from)?)))
                    .collect();
                all.push(step);
            }
        }
        self.all = all;
    }

    /// Steps that touch what more than one of them writes go one after the other, as they did.
    fn order(&mut self) {
        let mut writers: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
        for (at, step) in self.all.iter().enumerate() {
            for path in &step.made {
                writers.entry(path.clone()).or_default().push(at);
            }
        }
        writers.retain(|_, by| by.len() > 1);
        for path in writers.keys() {
            let touches = |step: &Step| step.made.contains(path) || step.needs.contains_key(path);
            let all: Vec<usize> = (0..self.all.len())
                .filter(|at| touches(&self.all[*at]))
                .collect();
            for pair in all.windows(2) {
                let [before, after] = [pair[0], pair[1]];
                if !self.all[after].needs.values().any(|from| *from == before) {
                    self.all[after].after.insert(before);
                }
            }
        }
    }
}
