//! The guard of a command: runs it, and ends it and all that it started when nobody is left who wants
//! that: when the guard's standard input is closed, as it is by the end of whoever started it.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use walbench_metrics::Failure;
use walbench_profiles::process_group::descendants;

use crate::{ending, keeper};

/// A command that was asked to end has this long for it.
const GRACE: Duration = Duration::from_secs(5);

/// Processes that were killed need a moment.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// Children of the command that outlived it and have ended are let go this often.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// What a shell says of a command that it can't start.
const NOT_STARTED: u8 = 127;

/// Runs a command to its end, or to ours; its exit code, or as shells have it 128 and the signal.
pub(crate) async fn guard(words: &[OsString]) -> u8 {
    // What the command's children leave behind becomes ours: to be counted, and to be ended.
    let _ = set_child_subreaper(true);
    let Some((program, arguments)) = words.split_first() else { return NOT_STARTED };
    let started =
        Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            let text = format!("the command \"{}\" can't be started", program.display());
            ending::say(&Failure::new(text).caused_by(&error).to_string());
            return NOT_STARTED;
        }
    };
    let group = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
    let mut status = tokio::select! {
        status = until_it_ends(&mut child) => Some(status),
        () = until_nobody_wants_it() => None,
    };
    if status.is_none() {
        signal_all(group, Signal::SIGTERM);
        status = tokio::time::timeout(GRACE, until_it_ends(&mut child)).await.ok();
    }
    end_what_is_left(&mut child, group).await;
    status.flatten().map_or(NOT_STARTED, |status| {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
    })
}

async fn until_it_ends(child: &mut Child) -> Option<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status.ok(),
            () = tokio::time::sleep(REAP_INTERVAL) => reap(child.id()),
        }
    }
}

/// Whoever started us closes our standard input, or somebody ends us directly.
async fn until_nobody_wants_it() {
    let closed = async {
        let (mut input, mut bytes) = (tokio::io::stdin(), [0; 64]);
        while matches!(input.read(&mut bytes).await, Ok(1..)) {}
    };
    tokio::select! {
        () = closed => {}
        Ok(()) = keeper::until_signal() => {}
    }
}

fn signal_all(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = killpg(group, signal);
    }
}

/// Lets go of processes that ended and have become ours.
fn reap(command: Option<u32>) {
    let own = std::process::id();
    for pid in descendants(own).into_iter().filter(|pid| Some(*pid) != command) {
        let _ = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
    }
}

/// Kills what does not end, also what has left the command's group.
async fn end_what_is_left(child: &mut Child, group: Option<Pid>) {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        signal_all(group, Signal::SIGKILL);
        let left = descendants(std::process::id());
        for pid in &left {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let _ = child.try_wait();
        reap(child.id());
        if left.is_empty() || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
