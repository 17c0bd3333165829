//! What keepers of private servers have in common: how they are told what to do, and when to end.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::{LinkError, WorkerReader, WorkerWriter};
use walbench_metrics::message::{FromWorker, PROTOCOL_VERSION, ToWorker};

/// Held locked while the keeper lives, so that `walbench clean` can tell a folder in use from one
/// that was left.
pub(crate) const LOCK_FILE: &str = "keeper.lock";

type Out = FromWorker<()>;

/// What the keeper is to keep; `None` when the orchestrator is gone, or is no orchestrator.
pub(crate) async fn greet<P: DeserializeOwned>(
    reader: &mut WorkerReader,
    writer: &mut WorkerWriter,
) -> Option<P> {
    loop {
        let answer = match reader.recv::<ToWorker<P>>().await.ok()? {
            ToWorker::Hello { .. } => Out::Hello {
                protocol: PROTOCOL_VERSION,
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
            },
            ToWorker::Ping { sent_us } => Out::Pong { sent_us, now_us: wall_us() },
            ToWorker::Prepare(server) => return Some(server),
            _ => return None,
        };
        writer.send(&answer).await.ok()?;
    }
}

/// Waits for the word to stop; an error is a link that broke, which means the same with more haste.
pub(crate) async fn until_stop(reader: &mut WorkerReader) -> Result<(), LinkError> {
    while !matches!(reader.recv::<ToWorker<serde_json::Value>>().await?, ToWorker::Stop) {}
    Ok(())
}

/// Whoever ends all processes of a session or a service ends the keeper too: then its server must
/// not be left.
pub(crate) async fn until_signal() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Takes the lock of a private server's folder, for as long as it is not dropped.
pub(crate) fn lock(folder: &Path) -> io::Result<Flock<File>> {
    let lock = File::create(folder.join(LOCK_FILE))?;
    Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e.into())
}
