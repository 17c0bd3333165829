//! CPU time and memory of one process.

use procfs::ProcResult;
use procfs::process::{Process, Stat};

use crate::MeterError;

/// CPU time that `stat` may lack against the exact sum, in µs: it shows user and system time apart,
/// each rounded down to a clock tick of 10 ms.
const STAT_ROUNDING_US: u64 = 20_000;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the process started, in µs, user and system, all threads. Never falls.
    pub cpu_us: u64,
    /// Resident memory now, in bytes.
    pub rss_bytes: u64,
}

/// Reads one process's use of CPU and memory. One reading took 43 µs, and 9 µs more for each thread
/// beside the first (debug build, AMD EPYC, Linux 6.18): cheap once a second, not in a loop.
///
/// Holds on to the process itself, not to its number: when the number is given to another process,
/// the meter does not follow it.
#[derive(Debug)]
pub struct ProcessMeter {
    process: Process,
    last: Usage,
}

impl ProcessMeter {
    /// Begins to measure the process `pid`.
    ///
    /// # Errors
    ///
    /// The process does not exist or may not be looked at.
    pub fn open(pid: u32) -> Result<Self, MeterError> {
        let failed = |source| MeterError { pid, source };
        let number = i32::try_from(pid)
            .map_err(|_| failed(procfs::ProcError::Other("not a process number".into())))?;
        let process = Process::new(number).map_err(failed)?;
        let last = usage(&process).map_err(failed)?;
        Ok(Self { process, last })
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid.unsigned_abs()
    }

    /// What the process has used up to now; `None` once it has ended and was waited for. Between
    /// its end and that, its CPU time is the final one and its memory 0.
    pub fn read(&mut self) -> Option<Usage> {
        let now = usage(&self.process).ok()?;
        self.last = Usage { cpu_us: now.cpu_us.max(self.last.cpu_us), ..now };
        Some(self.last)
    }

    /// What the last successful [`Self::read`] said, whether or not the process still lives.
    #[must_use]
    pub fn last(&self) -> Usage {
        self.last
    }

    /// CPU time of the children that it has waited for, and of those that these had, in µs; `None`
    /// once it has ended.
    pub(crate) fn waited_for_us(&self) -> Option<u64> {
        let stat = self.process.stat().ok()?;
        Some(ticks_to_us(u64::try_from(stat.cutime + stat.cstime).unwrap_or_default()))
    }

    /// The process in `/proc`.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Resident memory that is the process's own, and that it may share with others, in bytes.
    /// Source: proc(5), `/proc/pid/statm`.
    pub(crate) fn own_and_shared_bytes(&self) -> Option<(u64, u64)> {
        let pages = self.process.statm().ok()?;
        let page = procfs::page_size();
        Some((pages.resident.saturating_sub(pages.shared) * page, pages.shared * page))
    }
}

/// Source: proc(5), `/proc/pid/stat` and `/proc/pid/task/tid/schedstat`.
fn usage(process: &Process) -> ProcResult<Usage> {
    let stat = process.stat()?;
    let ticks_us = ticks_to_us(stat.utime + stat.stime);
    // The exact sum knows living threads only, `stat` also those that ended.
    let cpu_us = match threads_cpu_us(process) {
        Some(exact) if ticks_us <= exact + STAT_ROUNDING_US => exact,
        _ => ticks_us,
    };
    Ok(Usage { cpu_us, rss_bytes: rss_bytes(&stat) })
}

/// CPU time of the living threads in µs; `None` where the kernel keeps no scheduler statistics.
fn threads_cpu_us(process: &Process) -> Option<u64> {
    let mut ns = 0;
    // `/proc/pid/schedstat` would be less work, but covers the main thread alone.
    for task in process.tasks().ok()? {
        // A thread that ends between the listing and the reading is in `stat`.
        if let Ok(schedstat) = task.and_then(|task| task.schedstat()) {
            ns += schedstat.sum_exec_runtime;
        }
    }
    (ns > 0).then_some(ns / 1_000)
}

fn rss_bytes(stat: &Stat) -> u64 {
    stat.rss * procfs::page_size()
}

/// Clock ticks of `/proc` (`USER_HZ`) in µs.
pub(crate) fn ticks_to_us(ticks: u64) -> u64 {
    ticks * 1_000_000 / procfs::ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn spin(length: Duration) {
        let start = Instant::now();
        let mut x = 1u64;
        while start.elapsed() < length {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }

    #[test]
    fn work_is_seen_and_sleep_is_not() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let mut sleeper = ProcessMeter::open(child.id()).unwrap();
        let mut own = ProcessMeter::open(std::process::id()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let (slept, before) = (sleeper.read().unwrap(), own.read().unwrap());
        spin(Duration::from_millis(100));
        // Other tests' threads may add to ours, none to the sleeper's.
        assert!(own.read().unwrap().cpu_us > before.cpu_us + 5_000);
        // It may still be starting on a busy machine, which takes about 1 ms of CPU.
        assert!(sleeper.read().unwrap().cpu_us < slept.cpu_us + 20_000);
        assert!(slept.rss_bytes > 0 && before.rss_bytes > slept.rss_bytes);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn threads_that_ended_stay_counted() {
        let mut own = ProcessMeter::open(std::process::id()).unwrap();
        let before = own.read().unwrap().cpu_us;
        let worker = std::thread::spawn(|| {
            let mut meter = ProcessMeter::open(std::process::id()).unwrap();
            let start = meter.read().unwrap().cpu_us;
            while meter.read().unwrap().cpu_us < start + 200_000 {
                spin(Duration::from_millis(1));
            }
        });
        worker.join().unwrap();
        assert!(own.read().unwrap().cpu_us > before + 100_000);
    }

    #[test]
    fn a_process_that_ended_says_none_and_keeps_its_last_value() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let mut meter = ProcessMeter::open(child.id()).unwrap();
        assert_eq!(meter.pid(), child.id());
        let last = meter.read().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(meter.read(), None);
        assert!(meter.last().cpu_us >= last.cpu_us);
        assert!(ProcessMeter::open(child.id()).is_err());
    }
}
