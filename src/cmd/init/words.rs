//! The commands of a step as lines of shell, with ports in the place of the files that they name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::steps::{Step, Steps};
use super::text::Stage;
use crate::exec::trace::Started;
use crate::pipeline::spec::braces;

/// What a step's commands say, and which of the paths in them are ports.
pub struct Words<'a> {
    pub step: &'a Step,
    pub stage: &'a Stage,
    pub project: &'a Path,
}

impl Words<'_> {
    /// The commands as a line of shell.
    pub fn line(&self, steps: &Steps) -> String {
        let commands = self.step.commands.iter().map(|c| self.command(c, steps));
        let mut line = commands.collect::<Vec<_>>().join(" | ");
        if let [(port, None)] = &self.stage.outputs[..] {
            let _ = write!(line, " > {{out.{port}}}");
        }
        line
    }

    /// True if the script itself gave a command what it reads: a here-document.
    pub fn is_told(&self, steps: &Steps) -> bool {
        let from_another = |input: &Path| self.step.commands.iter().any(|c| c.streams[1] == input);
        self.step.commands.iter().any(|command| {
            let input = &command.streams[0];
            *input != steps.streams[0]
                && input != Path::new("/dev/null")
                && !input.starts_with(self.project)
                && !from_another(input)
        })
    }

    fn command(&self, command: &Started, steps: &Steps) -> String {
        let mut words: Vec<String> = Vec::new();
        match line_of(command) {
            Some(line) => words.push(braces::escape(line)),
            None => {
                let mut all = command.arguments.iter();
                words.extend(all.next().map(|program| quoted(program)));
                words.extend(all.map(|word| self.argument(word, command)));
            }
        }
        let own = |i: usize| {
            let stream = &command.streams[i];
            (stream.starts_with(self.project) && *stream != steps.streams[i]).then_some(stream)
        };
        if let Some(input) = own(0) {
            words.push(format!("< {}", self.place(input, command)));
        }
        if let Some(output) = own(1) {
            let sign = if command.appends { ">>" } else { ">" };
            words.push(format!("{sign} {}", self.place(output, command)));
        }
        if let Some(error) = own(2) {
            words.push(match own(1) == Some(error) {
                true => "2>&1".into(),
                false => format!("2> {}", self.place(error, command)),
            });
        }
        let line = words.join(" ");
        match command.dir.strip_prefix(self.project) {
            Ok(dir) if !dir.as_os_str().is_empty() => {
                format!("(cd {} && {line})", quoted(dir.as_os_str()))
            }
            _ => line,
        }
    }

    /// A word of a command: the file that it names alone, or behind `=`, is the port's.
    fn argument(&self, word: &OsStr, command: &Started) -> String {
        let bytes = word.as_bytes();
        let equals = bytes.iter().position(|b| *b == b'=').map_or(0, |at| at + 1);
        for from in [0, equals] {
            let path = command.dir.join(OsStr::from_bytes(&bytes[from..]));
            if let Some(port) = self.port(&path) {
                let before = OsString::from(OsStr::from_bytes(&bytes[..from]));
                return match before.is_empty() {
                    true => port,
                    false => quoted(&before) + &port,
                };
            }
        }
        quoted(word)
    }

    /// Where a stream goes or comes from.
    fn place(&self, path: &Path, command: &Started) -> String {
        let here = path.strip_prefix(&command.dir).unwrap_or(path);
        self.port(path).unwrap_or_else(|| quoted(here.as_os_str()))
    }

    /// `{in.x}` or `{out.x}` for a path that the port may take the place of.
    fn port(&self, path: &Path) -> Option<String> {
        let is = |at: &Option<PathBuf>| at.as_deref() == Some(path);
        if let Some((port, _)) = self.stage.outputs.iter().find(|(_, at)| is(at))
            && self.may_move(path)
        {
            return Some(format!("{{out.{port}}}"));
        }
        let input = self.stage.inputs.iter().find(|(_, _, at)| is(at));
        input
            .filter(|_| {
                !self
                    .step
                    .changed
                    .iter()
                    .any(|changed| changed.starts_with(path))
            })
            .map(|(port, ..)| format!("{{in.{port}}}"))
    }

    /// A program that is told one name often writes others beside it; then all stay where they are. So does
    /// what it goes on with.
    fn may_move(&self, path: &Path) -> bool {
        let made = self.step.made.iter();
        let beside = made.filter(|other| other.parent() == path.parent()).count();
        beside == 1 && !self.step.needs.contains_key(path) && self.step.after.is_empty()
    }

    /// True if the command says this path where a port can stand.
    fn names(&self, path: &Path, port: &str) -> bool {
        let said = self.step.commands.iter().any(|command| {
            let named = command.arguments.iter().skip(1).any(|word| {
                let bytes = word.as_bytes();
                let equals = bytes.iter().position(|b| *b == b'=').map_or(0, |at| at + 1);
                let at = |from: usize| command.dir.join(OsStr::from_bytes(&bytes[from..]));
                at(0) == path || at(equals) == path
            });
            named || command.streams.iter().any(|stream| stream == path)
        });
        said && self.port(path).is_some_and(|is| is.starts_with(port))
    }

    pub fn names_output(&self, path: &Path) -> bool {
        self.names(path, "{out.")
    }

    pub fn names_input(&self, path: &Path) -> bool {
        self.names(path, "{in.")
    }

    /// A path as a command in the project's folder says it.
    pub fn relative(&self, path: &Path) -> String {
        quoted(path.strip_prefix(self.project).unwrap_or(path).as_os_str())
    }
}

/// Variables that a shell and make set for themselves.
const SHELL_S_OWN: [&str; 9] = [
    "_",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "MAKELEVEL",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKE_TERMOUT",
    "MAKE_TERMERR",
];

/// A word as a shell reads it, with what looks like a placeholder of ours taken for itself.
fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,@/:+=%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into_owned(),
        false => braces::escape(&format!("'{}'", text.replace('\'', "'\\''"))),
    }
}

/// The line of `sh -c LINE`, as make starts it.
pub fn line_of(command: &Started) -> Option<&str> {
    let [shell, option, line] = &command.arguments[..] else {
        return None;
    };
    let is_shell = ["sh", "bash", "dash"]
        .iter()
        .any(|s| Path::new(shell).ends_with(s));
    (is_shell && option == "-c").then(|| line.to_str())?
}

/// Variables that the script had set before, as a stage declares them, and lines for those that need a shell.
pub fn environment(step: &Step, steps: &Steps) -> (Vec<String>, Vec<String>) {
    let (mut env, mut lines) = (Vec::new(), Vec::new());
    let commands = step.commands.iter().flat_map(|command| &command.env);
    let mut set: BTreeMap<&OsString, &OsString> = BTreeMap::new();
    for (name, value) in commands {
        let as_before = steps.env.iter().any(|(n, v)| n == name && v == value);
        if !as_before && !SHELL_S_OWN.iter().any(|own| own == name) {
            set.insert(name, value);
        }
    }
    for (name, value) in set {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let before = steps.env.iter().find(|(n, _)| *n == *name);
        // `PATH=$PWD/bin:$PATH` goes on meaning that where the rest is another.
        let front =
            before.and_then(|(_, v)| value.strip_suffix(&format!(":{}", v.to_string_lossy())));
        match front {
            Some(front) => lines.push(format!(
                "export {name}={}:\"${name}\"",
                quoted(OsStr::new(front))
            )),
            None => env.push(braces::escape(&format!("{name}={value}"))),
        }
    }
    (env, lines)
}
