//! What keepers of private servers have in common: how they are told what to do and when to end, and
//! what they do at their end.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{User, geteuid};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::{LinkError, WorkerReader, WorkerWriter};
use walbench_metrics::message::{FromWorker, PROTOCOL_VERSION, ToWorker};

/// Held locked while the keeper lives, so that `walbench clean` can tell a folder in use from one
/// that was left.
pub(crate) const LOCK_FILE: &str = "keeper.lock";

/// What a server's folder may take to be removed.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Who runs a private server, which `server` is called: root does not.
pub(crate) fn owner(server: &str, name: &str) -> Result<Option<User>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = |name| User::from_name(name).ok().flatten();
    user(name).or_else(|| user("nobody")).map(Some).ok_or_else(|| {
        Failure::new(format!("{server} is not run as root, and there is no user {name} or nobody"))
            .hint(format!("run walbench as another user, or make one called {name}"))
    })
}

/// The end of a keeper's life, whose server has ended: the folder goes, and the orchestrator is told.
pub(crate) async fn finish(
    folder: &Path,
    is_kept: bool,
    ended: Result<(), Failure>,
    writer: &mut WorkerWriter,
) -> Result<(), Failure> {
    // A folder that is kept loses its lock, so that it no longer counts as left behind.
    if is_kept {
        let _ = fs::remove_file(folder.join(LOCK_FILE));
    } else {
        remove(folder).await;
    }
    let last = match &ended {
        Ok(()) => Out::Done(()),
        Err(failure) => Out::Failed(failure.clone()),
    };
    // The orchestrator may be gone; the server is, and that was the point.
    let _ = writer.send(&last).await;
    ended
}

/// Removes a server's folder. What was ended at once, above all initdb, leaves processes that write for
/// a moment more: then what was emptied is not empty, and is emptied again.
async fn remove(folder: &Path) {
    let deadline = Instant::now() + REMOVE_TIMEOUT;
    while folder.exists() && Instant::now() < deadline {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                // It goes last: without it `walbench clean` would not know the rest.
                false if entry.file_name() == LOCK_FILE => Ok(()),
                false => fs::remove_file(&path),
            };
        }
        if fs::read_dir(folder).is_ok_and(|left| left.count() <= 1) {
            let _ = fs::remove_dir_all(folder);
            if !folder.exists() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
