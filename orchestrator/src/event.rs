//! What can happen in a run, wherever it comes from: all of it goes into one queue.

use std::net::SocketAddr;

use serde_json::Value;
use walbench_metrics::Failure;
use walbench_metrics::link::LinkError;
use walbench_metrics::message::{FromWorker, ToWorker};
use walbench_metrics::sample::ResourceSample;
use walbench_results::folder::FolderError;

/// Roles differ in what they are given and what they leave; the orchestrator passes both through.
pub(crate) type ToAny = ToWorker<Value>;
/// See [`ToAny`].
pub(crate) type FromAny = FromWorker<Value>;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A worker said something.
    Said(usize, Box<FromAny>),
    /// A worker's link ended.
    Broke(usize, LinkError),
    /// A resource sample is complete, with who sends the slots' changes now.
    Resources(Box<ResourceSample>, Vec<Walsender>),
    /// A signal asks for the end.
    Interrupt,
}

/// Who sends a slot's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walsender {
    /// Number of the slot and its consumer.
    pub(crate) slot: usize,
    /// Its process on the server's machine.
    pub(crate) pid: u32,
    /// Whom it sends to, as the server sees it; `None` over a Unix socket.
    pub(crate) client: Option<SocketAddr>,
}

/// Why a run does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A component failed.
    Failed(Failure),
    /// The user wants it ended now.
    Interrupted,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<FolderError> for Stop {
    fn from(error: FolderError) -> Self {
        Self::Failed(Failure::new("the results can't be written").caused_by(&error))
    }
}
