//! An error in the form a person reads it: what is wrong, why, what to do.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, with its causes and what to do about it. Crosses the link from a worker and is
/// printed as `error:` / `caused by:` / `hint:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong and where, in one sentence without a full stop.
    pub error: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with no cause or hint yet.
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), causes: Vec::new(), hint: None }
    }

    /// Adds an error and everything that error names as its source.
    ///
    /// A source whose text its parent already quotes is left out: many libraries do both.
    #[must_use]
    pub fn caused_by(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            if !self.causes.last().is_some_and(|last| last.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds another failure's error and causes; its hint is taken when there is none yet.
    #[must_use]
    pub fn because(mut self, other: Self) -> Self {
        let Self { error, causes, hint } = other;
        self.causes.push(error);
        self.causes.extend(causes);
        self.hint = self.hint.or(hint);
        self
    }

    /// Error and causes in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let parts = std::iter::once(&self.error).chain(&self.causes);
        parts.map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join(": ")
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, causes, hint } = self;
        write!(f, "error: {error}")?;
        for cause in causes {
            write!(f, "\n  caused by: {}", cause.replace('\n', "\n    "))?;
        }
        if let Some(hint) = hint {
            write!(f, "\n  hint: {}", hint.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "can't read the plan: {}", self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn it_reads_as_error_cause_hint() {
        let failure = Failure::new("the run can't start")
            .caused_by(&Outer(std::io::Error::other("disk on fire")))
            .because(Failure::new("somebody smoked").hint("open a window"));
        assert_eq!(
            failure.to_string(),
            "error: the run can't start\n  caused by: can't read the plan: disk on fire\n  \
             caused by: somebody smoked\n  hint: open a window"
        );
        assert_eq!(
            failure.line(),
            "the run can't start: can't read the plan: disk on fire: somebody smoked"
        );
    }
}
