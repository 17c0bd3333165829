//! How the program ends: what it says last, and its exit code.

use std::fmt;
use std::io::{self, Write};

use walbench_metrics::Failure;
use walbench_phases::PlanError;

/// A verification or a threshold failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or plan.
pub(crate) const USAGE: u8 = 2;
/// Nothing can be said.
pub(crate) const INCONCLUSIVE: u8 = 3;
/// A server or a worker failed.
pub(crate) const COMPONENT: u8 = 4;
/// Interrupted by a signal.
pub(crate) const INTERRUPTED: u8 = 130;

/// An end that is not a verdict.
#[derive(Debug)]
pub(crate) struct Ending {
    /// `error:` / `caused by:` / `hint:`.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl Ending {
    /// Something the user asked for is not possible as asked.
    pub(crate) fn usage(failure: impl fmt::Display) -> Self {
        Self { message: failure.to_string(), code: USAGE }
    }

    /// A server, a worker or the machine failed.
    #[expect(clippy::needless_pass_by_value, reason = "shorter at every place it is used")]
    pub(crate) fn component(failure: Failure) -> Self {
        Self { message: failure.to_string(), code: COMPONENT }
    }

    /// Several of them failed, the first one first.
    pub(crate) fn components(failures: &[Failure]) -> Self {
        let messages: Vec<String> = failures.iter().map(ToString::to_string).collect();
        Self { message: messages.join("\n"), code: COMPONENT }
    }

    /// The user ended it.
    pub(crate) fn interrupted() -> Self {
        Self { message: "interrupted".into(), code: INTERRUPTED }
    }
}

impl From<PlanError> for Ending {
    fn from(error: PlanError) -> Self {
        Self::usage(error)
    }
}

/// Prints to standard output; nobody reading it is not an error.
pub(crate) fn print(text: &str) -> Result<u8, Ending> {
    let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    // A reader that went away, or a terminal that was closed.
    let is_unread = |e: &io::Error| {
        e.kind() == io::ErrorKind::BrokenPipe || e.raw_os_error() == Some(nix::libc::EIO)
    };
    match written {
        Err(e) if !is_unread(&e) => {
            Err(Ending::component(Failure::new("can't write to standard output").caused_by(&e)))
        }
        _ => Ok(0),
    }
}

/// Says something on standard error; nobody listening must not end a run.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a JSON document.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<u8, Ending> {
    print(&format!("{value:#}\n"))
}
