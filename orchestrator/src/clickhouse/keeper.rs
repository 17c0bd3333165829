//! The keeper of a private ClickHouse: a process of its own that starts it, and stops and removes it
//! when it is told to or when nobody is left to tell it. The embedded engine runs in the keeper
//! itself.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use walbench_consumer::clickhouse::front::{Access, Front};
use walbench_metrics::Failure;
use walbench_metrics::link::{WorkerReader, WorkerWriter};
use walbench_metrics::message::FromWorker;

use super::binaries::Program;
use super::config;
use super::embedded::Embedded;
use super::private::{PrivateClickHouse, USER};
use crate::keeper;
use crate::postgres::private::free_port;
use crate::worker::tail;

type Out = FromWorker<()>;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What running queries are given at a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The same when nobody is left to read their answers.
const HASTY_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Lines of a server's log that are shown when it does not start.
const LOG_TAIL_LINES: usize = 8;

/// Lives a keeper's life.
pub(crate) async fn serve(
    mut reader: WorkerReader,
    mut writer: WorkerWriter,
) -> Result<(), Failure> {
    let server = keeper::greet::<PrivateClickHouse>(&mut reader, &mut writer).await;
    let Some(server) = server else { return Ok(()) };
    let ended = keep(&server, &mut reader, &mut writer).await;
    keeper::finish(&server.folder, server.keep, ended, &mut writer).await
}

async fn keep(
    server: &PrivateClickHouse,
    reader: &mut WorkerReader,
    writer: &mut WorkerWriter,
) -> Result<(), Failure> {
    // ClickHouse's own scripts never run it as root; the engine runs in this process.
    let owner = match server.program {
        Program::Library(_) => None,
        _ => keeper::owner("a ClickHouse server", "clickhouse")?,
    };
    let _lock = make_folder(server, owner.as_ref())?;
    let mut running = tokio::select! {
        started = start(server, owner.as_ref()) => started?,
        // Said to stop, or left alone, while it starts.
        _ = reader.recv::<serde_json::Value>() => return Ok(()),
        Ok(()) = keeper::until_signal() => return Ok(()),
    };
    let _ = writer.send(&Out::Ready).await;
    let in_order = tokio::select! {
        status = running.ended() => {
            let failure = Failure::new(format!("the private ClickHouse ended by itself ({status})"));
            return Err(with_log(failure, server));
        }
        ended = keeper::until_stop(reader) => ended.is_ok(),
        Ok(()) = keeper::until_signal() => true,
    };
    running.stop(if in_order { STOP_TIMEOUT } else { HASTY_STOP_TIMEOUT }).await;
    Ok(())
}

/// What runs.
enum Running {
    Server(Child),
    Embedded(Front, Arc<Embedded>),
}

impl Running {
    /// Waits until it ends by itself, which the engine in this process does not.
    async fn ended(&mut self) -> String {
        match self {
            Self::Server(child) => {
                child.wait().await.map_or_else(|e| e.to_string(), |status| status.to_string())
            }
            Self::Embedded(..) => std::future::pending().await,
        }
    }

    /// Lets running queries end, within a time.
    async fn stop(self, grace: Duration) {
        match self {
            Self::Server(mut child) => {
                if let Some(pid) = child.id() {
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
                }
                if tokio::time::timeout(grace, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
            }
            Self::Embedded(front, engine) => {
                // An engine that is still at work is not waited for: it ends with the process.
                if front.stop(grace).await {
                    let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
                }
            }
        }
    }
}

async fn start(server: &PrivateClickHouse, owner: Option<&User>) -> Result<Running, Failure> {
    let (running, port) = match &server.program {
        Program::Library(library) => start_embedded(server, library).await?,
        Program::Clickhouse(program) => start_server(server, program, &["server"], owner).await?,
        Program::Server(program) => start_server(server, program, &[], owner).await?,
    };
    fs::write(server.port(), port.to_string())
        .map_err(|e| Failure::new("the server's port can't be written down").caused_by(&e))?;
    Ok(running)
}

async fn start_embedded(
    server: &PrivateClickHouse,
    library: &Path,
) -> Result<(Running, u16), Failure> {
    let (library, data) = (library.to_owned(), server.data());
    let engine = tokio::task::spawn_blocking(move || Embedded::start(&library, &data)).await;
    let engine = Arc::new(engine.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?);
    let access = Access { user: USER.into(), password: server.password.clone() };
    let failed = |e: io::Error| Failure::new("no port on loopback").caused_by(&e);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    let front = Front::start(listener, engine.clone(), Some(access)).map_err(failed)?;
    let port = front.address().port();
    Ok((Running::Embedded(front, engine), port))
}

async fn start_server(
    server: &PrivateClickHouse,
    program: &Path,
    arguments: &[&str],
    owner: Option<&User>,
) -> Result<(Running, u16), Failure> {
    let failed = |e: &dyn std::error::Error| {
        let failure = Failure::new(format!("{} can't be started", program.display())).caused_by(e);
        match owner {
            Some(user) => failure.hint(format!(
                "user {} must be able to run it and to enter {}, which TMPDIR names",
                user.name,
                server.folder.parent().unwrap_or(&server.folder).display()
            )),
            None => failure,
        }
    };
    let port = free_port()?;
    let config = config::write(server, port).map_err(|e| failed(&e))?;
    give(&config, owner)
        .and_then(|()| give(&server.folder.join("users.xml"), owner))
        .map_err(|e| failed(&e))?;
    let output = File::create(server.output()).map_err(|e| failed(&e))?;
    let errors = output.try_clone().map_err(|e| failed(&e))?;
    let mut command = Command::new(program);
    command.args(arguments).arg(format!("--config-file={}", config.display()));
    // A watchdog of its own would be a second process to stop.
    command.env("CLICKHOUSE_WATCHDOG_ENABLE", "0").current_dir(&server.folder).process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
    if let Some(user) = owner {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    let pid = child.id().unwrap_or_default();
    fs::write(server.pid(), pid.to_string()).map_err(|e| failed(&e))?;
    until_it_answers(&mut child, server, port).await?;
    Ok((Running::Server(child), port))
}

async fn until_it_answers(
    child: &mut Child,
    server: &PrivateClickHouse,
    port: u16,
) -> Result<(), Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let failure = match server.ask(port, "SELECT 1").await {
            Ok(answer) if answer.trim() == "1" => return Ok(()),
            Ok(answer) => {
                Failure::new("it answers otherwise than asked").because(Failure::new(answer))
            }
            Err(e) => Failure::new("it does not answer").caused_by(&e),
        };
        if let Ok(Some(status)) = child.try_wait() {
            let text = format!("the private ClickHouse ended while starting ({status})");
            return Err(with_log(Failure::new(text), server));
        }
        if Instant::now() >= deadline {
            let text = "the private ClickHouse did not start in time";
            return Err(with_log(Failure::new(text).because(failure), server));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn with_log(mut failure: Failure, server: &PrivateClickHouse) -> Failure {
    for (what, path) in [("log", server.log()), ("output", server.output())] {
        let tail = tail(&path, LOG_TAIL_LINES);
        if !tail.is_empty() {
            failure.causes.push(format!("the end of its {what}:\n{tail}"));
        }
    }
    failure
}

fn make_folder(server: &PrivateClickHouse, owner: Option<&User>) -> Result<Flock<File>, Failure> {
    let failed = |e: &dyn std::error::Error| {
        let text = format!("can't make the server's folder {}", server.folder.display());
        Failure::new(text).caused_by(e).hint("TMPDIR names the folder it is made in")
    };
    for name in ["", "data", "tmp", "files"] {
        let folder = server.folder.join(name);
        DirBuilder::new().mode(0o700).create(&folder).map_err(|e| failed(&e))?;
        give(&folder, owner).map_err(|e| failed(&e))?;
    }
    keeper::lock(&server.folder).map_err(|e| failed(&e))
}

fn give(path: &Path, owner: Option<&User>) -> io::Result<()> {
    match owner {
        Some(user) => Ok(chown(path, Some(user.uid), Some(user.gid))?),
        None => Ok(()),
    }
}
