//! What a run ran on and against: `environment.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use walbench_metrics::clock::ClockOffset;
use walbench_profiles::Machine;

/// The document `environment.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The machine of the orchestrator and of all workers started here.
    pub machine: Machine,
    /// Version of walbench.
    pub walbench_version: String,
    /// `release` or `debug`: figures of a debug build say little.
    pub build_profile: String,
    /// Commit of the checkout the run was started in; absent outside one.
    pub git_commit: Option<String>,
    /// File system type of the folder that holds the private server's data.
    pub data_filesystem: Option<String>,
    /// Threads each worker process works with: its CPU can't be more than this many cores.
    pub worker_threads: u32,
    /// The servers, source first.
    pub servers: Vec<Server>,
    /// Clock of each worker and server against the orchestrator's, by name.
    pub clocks: BTreeMap<String, ClockOffset>,
    /// What was tolerated and a reader must know, one sentence each.
    pub allowances: Vec<String>,
}

/// A server the run used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `PostgreSQL`, `ClickHouse`, …
    pub name: String,
    /// Its version as it says it.
    pub version: String,
    /// Its settings that figures depend on.
    pub settings: BTreeMap<String, String>,
    /// Whether walbench started it.
    pub managed: bool,
    /// What it is besides: the program of a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Environment {
    /// A server's setting; the first server that has it decides.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.servers.iter().find_map(|server| server.settings.get(name)).map(String::as_str)
    }
}
