//! What is wrong with a plan, and where.

use std::fmt;

/// Everything that is wrong with a plan. Prints each problem as `error: …`, with a `hint: …` line
/// where there is one; print it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// At least one, in the order of the file, then of the overrides.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The key concerned (`phases[1].name`); empty when it is the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Where a value was written. Orders as a reader meets them: the file from its top, then the
/// overrides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file as a whole.
    File {
        /// Its path, or a built-in plan's name.
        name: String,
    },
    /// A position in a file.
    Line {
        /// Its path, or a built-in plan's name.
        name: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// An override, as the user typed it.
    Override {
        /// Which of the overrides, from 0.
        number: usize,
        /// What the user typed.
        origin: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name } => f.write_str(name),
            Self::Line { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Override { origin, .. } => f.write_str(origin),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanError {}

impl From<Problem> for PlanError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}
