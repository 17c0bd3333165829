//! What a run runs on and against, for `environment.json`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use walbench_phases::Plan;
use walbench_phases::plan::SynchronousCommit;
use walbench_profiles::Machine;
use walbench_results::environment::{Environment, Server};

use crate::postgres::source::Source;

/// Settings of PostgreSQL that figures depend on.
const SETTINGS: [&str; 15] = [
    "checkpoint_timeout",
    "commit_delay",
    "fsync",
    "full_page_writes",
    "logical_decoding_work_mem",
    "max_connections",
    "max_wal_size",
    "server_version",
    "shared_buffers",
    "ssl",
    "wal_buffers",
    "wal_compression",
    "wal_level",
    "wal_sender_timeout",
    "wal_sync_method",
];

/// Threads of a worker's runtime; a consumer has its receiving thread beside them.
const WORKER_THREADS: u32 = 2;

/// Everything that is known before a server is.
pub(crate) fn of_this_machine() -> Environment {
    Environment {
        machine: Machine::read(),
        walbench_version: env!("CARGO_PKG_VERSION").into(),
        build_profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
        git_commit: git_commit(),
        worker_threads: WORKER_THREADS,
        ..Environment::default()
    }
}

/// The commit of the checkout we are in, if we are in one and git is here.
fn git_commit() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The source server. Settings it does not tell are left out.
pub(crate) async fn of_server(source: &Source, plan: &Plan, managed: bool) -> Server {
    let sql = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)";
    let rows = source.control.client.query(sql, &[&SETTINGS.as_slice()]).await;
    let mut settings: BTreeMap<String, String> =
        rows.unwrap_or_default().iter().map(|row| (row.get(0), row.get(1))).collect();
    // The producers' sessions set it; the server's own value says nothing about the run.
    let synchronous_commit = match plan.postgres.synchronous_commit {
        SynchronousCommit::On => "on",
        SynchronousCommit::Off => "off",
    };
    settings.insert("synchronous_commit".into(), synchronous_commit.into());
    let version = source.facts.version.clone();
    Server { name: "PostgreSQL".into(), version, settings, managed, description: None }
}
