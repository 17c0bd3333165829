//! How the threads of a process are scheduled.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use procfs::process::{Process, Task};
use walbench_metrics::vitals::{Scheduling, ThreadUse};

use crate::MeterError;

/// Share of a core from which a thread is named.
const NAMED_SHARE: f64 = 0.01;

/// Measures the threads of one process: 30 µs for each. Cheap once a second, not in a loop.
#[derive(Debug)]
pub struct SchedulingMeter {
    process: Process,
    before: BTreeMap<i32, Thread>,
    measured: Instant,
}

/// What a thread has had since it began.
#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    cpu_us: u64,
    run_delay_us: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

impl SchedulingMeter {
    /// Begins to measure the process `pid`.
    ///
    /// # Errors
    ///
    /// The process does not exist or may not be looked at.
    pub fn open(pid: u32) -> Result<Self, MeterError> {
        let failed = |source| MeterError { pid, source };
        let process = Process::new(pid.cast_signed()).map_err(failed)?;
        let mut meter = Self { process, before: BTreeMap::new(), measured: Instant::now() };
        meter.read();
        Ok(meter)
    }

    /// What its threads had since the last time; those that ended since are left out. `None` once the
    /// process has ended, and where the kernel keeps no scheduler statistics.
    pub fn read(&mut self) -> Option<Scheduling> {
        let mut now = BTreeMap::new();
        let mut names = BTreeMap::new();
        for task in self.process.tasks().ok()?.flatten() {
            // It may end while it is looked at.
            if let Some((thread, name)) = thread(&task) {
                now.insert(task.tid, thread);
                names.insert(task.tid, name);
            }
        }
        let before = std::mem::replace(&mut self.before, now);
        let passed_us =
            std::mem::replace(&mut self.measured, Instant::now()).elapsed().as_micros() as f64;
        let mut all = Scheduling::default();
        for (tid, now) in &self.before {
            let then = before.get(tid).copied().unwrap_or_default();
            let cpu_us = now.cpu_us.saturating_sub(then.cpu_us);
            let run_delay_us = now.run_delay_us.saturating_sub(then.run_delay_us);
            all.run_delay_us += run_delay_us;
            all.voluntary_switches +=
                now.voluntary_switches.saturating_sub(then.voluntary_switches);
            all.involuntary_switches +=
                now.involuntary_switches.saturating_sub(then.involuntary_switches);
            if (cpu_us + run_delay_us) as f64 >= NAMED_SHARE * passed_us {
                let name = format!("{}/{tid}", names[tid]);
                all.threads.push(ThreadUse { name, cpu_us, run_delay_us });
            }
        }
        (!self.before.is_empty()).then_some(all)
    }
}

/// Measures the threads of several processes together, which come and go.
#[derive(Debug, Default)]
pub struct GroupSchedulingMeter(BTreeMap<u32, SchedulingMeter>);

impl GroupSchedulingMeter {
    /// What the threads of these processes had since the last time, or since they were first named;
    /// `None` if nothing is known of any.
    pub fn read(&mut self, pids: &[u32]) -> Option<Scheduling> {
        self.0.retain(|pid, _| pids.contains(pid));
        for &pid in pids {
            if let Entry::Vacant(entry) = self.0.entry(pid)
                && let Ok(meter) = SchedulingMeter::open(pid)
            {
                entry.insert(meter);
            }
        }
        self.0.values_mut().filter_map(SchedulingMeter::read).reduce(|mut all, other| {
            all.merge(other);
            all
        })
    }
}

/// Source: proc(5), `/proc/pid/task/tid/schedstat` and `status`.
fn thread(task: &Task) -> Option<(Thread, String)> {
    let schedstat = task.schedstat().ok()?;
    let status = task.status().ok()?;
    let thread = Thread {
        cpu_us: schedstat.sum_exec_runtime / 1_000,
        run_delay_us: schedstat.run_delay / 1_000,
        voluntary_switches: status.voluntary_ctxt_switches.unwrap_or_default(),
        involuntary_switches: status.nonvoluntary_ctxt_switches.unwrap_or_default(),
    };
    Some((thread, status.name))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_busy_thread_is_named_and_those_that_want_a_core_wait() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let mut meter = SchedulingMeter::open(std::process::id()).unwrap();
        // More than there are cores: some wait at all times.
        let cores = std::thread::available_parallelism().unwrap().get();
        let spin = || {
            while !STOP.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let spinners: Vec<_> = (0..cores + 2)
            .map(|_| std::thread::Builder::new().name("spinner".into()).spawn(spin).unwrap())
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let seen = meter.read().unwrap();
        STOP.store(true, Ordering::Relaxed);
        spinners.into_iter().for_each(|spinner| spinner.join().unwrap());
        let spinning = seen.threads.iter().filter(|t| t.name.starts_with("spinner/")).count();
        assert_eq!(spinning, cores + 2, "{seen:?}");
        assert!(seen.run_delay_us > 200_000, "{seen:?}");
        assert!(seen.involuntary_switches > 0, "{seen:?}");
        std::thread::sleep(Duration::from_millis(20));
        let later = meter.read().unwrap();
        assert!(later.threads.iter().all(|t| !t.name.starts_with("spinner/")), "{later:?}");
    }

    #[test]
    fn processes_of_a_group_come_and_go() {
        let mut meter = GroupSchedulingMeter::default();
        assert_eq!(meter.read(&[]), None);
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let both = [std::process::id(), child.id()];
        assert!(meter.read(&both).is_some() && meter.0.len() == 2);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(meter.read(&both[..1]).is_some() && meter.0.len() == 1);
    }

    #[test]
    fn an_ended_process_has_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let meter = SchedulingMeter::open(child.id());
        child.wait().unwrap();
        assert!(meter.is_err() || meter.unwrap().read().is_none());
    }
}
