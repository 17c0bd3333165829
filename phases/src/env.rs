//! The variables a plan may refer to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use crate::problem::{Place, PlanError, Problem};

/// Where `${NAME}` is looked up: the process environment, then a `.env` file.
#[derive(Clone, Debug, Default)]
pub struct Env {
    process: bool,
    pairs: BTreeMap<String, String>,
    problem: Option<Problem>,
}

impl Env {
    /// The process environment over the `.env` file in the folder of the plan at `path`, if there
    /// is one. The process environment itself is never changed.
    ///
    /// # Errors
    ///
    /// A `.env` file that can't be read or understood.
    pub fn beside(path: &Path) -> Result<Self, PlanError> {
        let pairs = read(&path.with_file_name(".env"))?;
        Ok(Self { process: true, pairs, problem: None })
    }

    /// The process environment over the `.env` file in the current folder. A malformed one is a
    /// problem only once a variable is missing: it may well be another program's.
    #[must_use]
    pub fn here() -> Self {
        let (pairs, problem) = match read(Path::new(".env")) {
            Ok(pairs) => (pairs, None),
            Err(problem) => (BTreeMap::new(), Some(problem)),
        };
        Self { process: true, pairs, problem }
    }

    /// These variables and no others.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { process: false, pairs, problem: None }
    }

    /// The value of `name`, if it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let from_process = self.process.then(|| std::env::var(name).ok()).flatten();
        from_process.or_else(|| self.pairs.get(name).cloned())
    }

    /// Who runs this process, as the operating system calls them.
    pub(crate) fn system_user(&self) -> Option<String> {
        let user = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        self.process.then(user).flatten().map(|user| user.name)
    }

    /// Why variables may be missing.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, Problem> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&path.display().to_string(), &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(Problem {
            place: Place::File { name: path.display().to_string() },
            key: String::new(),
            message: format!("cannot be read: {error}"),
            hint: Some("variables are looked up in it; make it readable or move it away".into()),
        }),
    }
}

fn parse(name: &str, text: &str) -> Result<BTreeMap<String, String>, Problem> {
    let text = text.trim_start_matches('\u{feff}');
    let lines_read = Cell::new(0);
    let reader = Lines { rest: text.as_bytes(), read: &lines_read };
    let mut variables = dotenvy::Iter::new(reader);
    let mut pairs = BTreeMap::new();
    loop {
        let first_line = lines_read.get();
        match variables.next() {
            None => return Ok(pairs),
            // As dotenvy itself sets them: the first of several wins.
            Some(Ok((name, value))) => drop(pairs.entry(name).or_insert(value)),
            Some(Err(_)) => return Err(malformed(name, text, first_line)),
        }
    }
}

/// The problem with the first line, from `first_line` on, that says something. Never shows it: a
/// `.env` file holds secrets.
fn malformed(name: &str, text: &str, first_line: usize) -> Problem {
    let says_something = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let skipped = text.lines().skip(first_line).take_while(|line| !says_something(line)).count();
    Problem {
        place: Place::Line { name: name.into(), line: first_line + skipped + 1, column: 1 },
        key: String::new(),
        message: "not of the form NAME=value".into(),
        hint: Some("put a value with spaces, quotes or $ in single quotes".into()),
    }
}

/// Hands out one line a read, so that `read` tells which line was reached.
struct Lines<'a> {
    rest: &'a [u8],
    read: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end =
            self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let length = end.min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        if length > 0 && length == end {
            self.read.set(self.read.get() + 1);
        }
        self.rest = &self.rest[length..];
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read() {
        let text = "\u{feff}# who\nexport A=1\nB='two words'\r\n\nC=\"x\ny\"\nA=2\n";
        let pairs = parse(".env", text).unwrap();
        let expected = [("A", "1"), ("B", "two words"), ("C", "x\ny")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.into(), v.into())).into());
    }

    #[test]
    fn a_malformed_line_is_named_and_not_shown() {
        for (text, line) in [
            ("A=1\n\n# b\nhunter2\nC=3\n", 4),
            ("A=1\nB=two words hunter2\n", 2),
            ("A=1\nB=\"x\ny\"\nC='hunter2\nD=4\n", 4),
        ] {
            let problem = parse(".env", text).unwrap_err();
            assert!(
                problem.to_string().starts_with(&format!("error: .env:{line}:1: ")),
                "{problem}"
            );
            assert!(!problem.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_file_beside_the_plan_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let plan = folder.path().join("plan.toml");
        assert_eq!(Env::beside(&plan).unwrap().get("WALBENCH_TEST_A"), None);
        std::fs::write(folder.path().join(".env"), "WALBENCH_TEST_A=1\nPATH=none\n").unwrap();
        let env = Env::beside(&plan).unwrap();
        assert_eq!(env.get("WALBENCH_TEST_A").as_deref(), Some("1"));
        assert_ne!(env.get("PATH").as_deref(), Some("none"), "the process comes first");
    }
}
