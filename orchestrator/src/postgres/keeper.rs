//! The keeper of a private server: a process of its own that starts it, and stops and removes it
//! when it is told to or when nobody is left to tell it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, User, chown};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use walbench_metrics::Failure;
use walbench_metrics::link::{WorkerReader, WorkerWriter};
use walbench_metrics::message::FromWorker;
use walbench_phases::plan::Transport;

use super::private::PrivateServer;
use crate::keeper;

type Out = FromWorker<()>;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A fast shutdown that takes longer becomes an immediate one.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Lives a keeper's life.
pub(crate) async fn serve(
    mut reader: WorkerReader,
    mut writer: WorkerWriter,
) -> Result<(), Failure> {
    let Some(server) = keeper::greet::<PrivateServer>(&mut reader, &mut writer).await else {
        return Ok(());
    };
    let ended = keep(&server, &mut reader, &mut writer).await;
    keeper::finish(&server.folder, server.keep, ended, &mut writer).await
}

async fn keep(
    server: &PrivateServer,
    reader: &mut WorkerReader,
    writer: &mut WorkerWriter,
) -> Result<(), Failure> {
    // PostgreSQL refuses root.
    let owner = keeper::owner("PostgreSQL", "postgres")?;
    let _lock = make_folder(server, owner.as_ref())?;
    let mut starting = Box::pin(start(server, owner.as_ref()));
    let mut child = tokio::select! {
        child = &mut starting => child?,
        // Said to stop, or left alone, while it starts.
        _ = reader.recv::<serde_json::Value>() => return Ok(()),
        Ok(()) = keeper::until_signal() => return Ok(()),
    };
    let _ = writer.send(&Out::Ready).await;
    tokio::select! {
        status = child.wait() => {
            let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
            Err(Failure::new(format!("the private PostgreSQL server ended by itself ({status})")))
        }
        ended = keeper::until_stop(reader) => {
            stop(&mut child, ended.is_ok()).await;
            Ok(())
        }
        Ok(()) = keeper::until_signal() => {
            stop(&mut child, true).await;
            Ok(())
        }
    }
}

fn make_folder(server: &PrivateServer, owner: Option<&User>) -> Result<Flock<File>, Failure> {
    let failed = |e: &dyn std::error::Error| {
        let text = format!("can't make the server's folder {}", server.folder.display());
        Failure::new(text).caused_by(e).hint("TMPDIR names the folder it is made in")
    };
    let own = |path: &Path| match owner {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    };
    for folder in [&server.folder, &server.socket_folder()] {
        DirBuilder::new().mode(0o700).create(folder).map_err(|e| failed(&e))?;
        own(folder).map_err(|e| failed(&e))?;
    }
    keeper::lock(&server.folder).map_err(|e| failed(&e))
}

/// A program of PostgreSQL, as its owner and in a group of its own.
fn command(program: &Path, server: &PrivateServer, owner: Option<&User>) -> Command {
    let mut command = super::command(program);
    command.current_dir(&server.folder).stdin(Stdio::null()).process_group(0);
    if let Some(user) = owner {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.into()
}

async fn start(server: &PrivateServer, owner: Option<&User>) -> Result<Child, Failure> {
    initialise(server, owner).await?;
    let mut command = command(&server.postgres, server, owner);
    command.arg("-D").arg(server.data()).arg("-k").arg(server.socket_folder());
    command.arg("-p").arg(server.port.to_string());
    for (name, value) in &server.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::new("can't start postgres").caused_by(&e))?;
    let deadline = Instant::now() + START_TIMEOUT;
    let address = server.address(Transport::Unix);
    loop {
        match walbench_producer::connect(&address, "walbench keeper").await {
            Ok(_) => return Ok(child),
            Err(e) if Instant::now() >= deadline => {
                return Err(Failure::new("the private PostgreSQL server did not start in time")
                    .caused_by(&e));
            }
            Err(_) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            let text = format!("the private PostgreSQL server ended while starting ({status})");
            return Err(Failure::new(text).hint("check postgres.settings in the plan"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn initialise(server: &PrivateServer, owner: Option<&User>) -> Result<(), Failure> {
    let failed = |text: &str| Failure::new(format!("can't initialise a database cluster: {text}"));
    let password_file = server.folder.join("password");
    fs::write(&password_file, &server.password)
        .and_then(|()| match owner {
            Some(u) => chown(&password_file, Some(u.uid), Some(u.gid)).map_err(io::Error::from),
            None => Ok(()),
        })
        .map_err(|e| failed("no password file").caused_by(&e))?;
    let mut command = command(&server.initdb, server, owner);
    command
        .arg("--pgdata")
        .arg(server.data())
        .args(["--username=postgres", "--encoding=UTF8", "--locale=C"])
        .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"])
        .arg("--pwfile")
        .arg(&password_file);
    let output = output_of_group(command).await.map_err(|e| {
        let failed = failed("initdb can't be started").caused_by(&e);
        match owner {
            Some(user) => failed.hint(format!(
                "user {} must be able to enter {}, which TMPDIR names, and to run {}",
                user.name,
                server.folder.parent().unwrap_or(&server.folder).display(),
                server.initdb.display()
            )),
            None => failed,
        }
    })?;
    let _ = fs::remove_file(&password_file);
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut failure = failed(&format!("initdb ended with {}", output.status));
    failure.causes.push(said.trim().to_owned());
    Err(failure)
}

/// Runs a command in its group to its end. If we end before, so does its whole group: initdb has
/// children that would go on writing.
async fn output_of_group(mut command: Command) -> io::Result<std::process::Output> {
    struct Group(Option<u32>);
    impl Drop for Group {
        fn drop(&mut self) {
            if let Some(pid) = self.0 {
                let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut group = Group(child.id());
    let output = child.wait_with_output().await;
    group.0 = None;
    output
}

/// A fast shutdown if there is time, an immediate one if there is none.
async fn stop(child: &mut Child, in_order: bool) {
    let steps = if in_order {
        [(Signal::SIGINT, STOP_TIMEOUT), (Signal::SIGQUIT, STOP_TIMEOUT)]
    } else {
        [(Signal::SIGQUIT, Duration::from_secs(2)), (Signal::SIGQUIT, Duration::from_secs(3))]
    };
    for (signal, timeout) in steps {
        let Some(pid) = child.id() else { return };
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        if tokio::time::timeout(timeout, child.wait()).await.is_ok() {
            return;
        }
    }
    let _ = child.kill().await;
}
