//! Processes of this machine, as /proc shows them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything these tests wait for takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `ready` has an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// The living child of `parent` whose command line ends with `arguments`, or has them before others.
pub(crate) fn child(parent: i32, arguments: &str) -> Option<i32> {
    pids().find(|pid| {
        let line = text(*pid, "cmdline");
        let has_them =
            line.trim_end().ends_with(arguments) || line.contains(&format!(" {arguments} "));
        has_them && parent_of(*pid) == Some(parent)
    })
}

/// Processes that have `folder` in their command line or environment, or work in it: workers
/// inherit TMPDIR, and a server's backends work in its data folder.
pub(crate) fn of_folder(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let belongs = |pid: &i32| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd.starts_with(folder))
            || text(*pid, "cmdline").contains(name)
            || text(*pid, "environ").contains(name)
    };
    pids().filter(belongs).map(|pid| format!("{pid} {}", text(pid, "cmdline"))).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// A file of strings that end with a zero byte, as one line; empty for a process that has ended.
fn text(pid: i32, file: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
