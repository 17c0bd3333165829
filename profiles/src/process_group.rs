//! CPU time and memory of a server and its children together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use procfs::ProcResult;
use procfs::process::{Process, Stat};

use crate::MeterError;
use crate::process::{ProcessMeter, Usage, ticks_to_us};

/// Measures a server that works in child processes, as PostgreSQL does: the root process (the
/// postmaster) and its direct children. One reading with ten children took 0.5 ms (debug build, AMD
/// EPYC, Linux 6.18).
#[derive(Debug)]
pub struct TreeMeter {
    root: ProcessMeter,
    process: Process,
    children: BTreeMap<u32, ProcessMeter>,
    last: Usage,
}

impl TreeMeter {
    /// Begins to measure the process `root_pid` and its children.
    ///
    /// # Errors
    ///
    /// The process does not exist or may not be looked at.
    pub fn open(root_pid: u32) -> Result<Self, MeterError> {
        let root = ProcessMeter::open(root_pid)?;
        let failed = |source| MeterError { pid: root_pid, source };
        let process = Process::new(root_pid.cast_signed()).map_err(failed)?;
        let mut meter = Self { root, process, children: BTreeMap::new(), last: Usage::default() };
        meter.read();
        Ok(meter)
    }

    /// Numbers of the children that live now, ascending; none once the root has ended.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let mut pids = children_of(&self.process).unwrap_or_default();
        pids.sort_unstable();
        pids
    }

    /// What the server has used up to now; `None` once the root has ended and was waited for.
    ///
    /// - CPU time is the root's own, its living children's and that of the children it has waited
    ///   for, also from before the meter was opened. A child that ends between two reads is lost
    ///   from neither, so differences of two reads are right even when sessions come and go.
    /// - Memory is what each process has to itself, and once the largest amount that one of them
    ///   shares: all map the same shared buffers, and adding them up would count these for every
    ///   session. The exact figure (PSS) makes the kernel walk all page tables, which takes
    ///   milliseconds with large shared buffers and would disturb what is measured.
    pub fn read(&mut self) -> Option<Usage> {
        let root = self.root.read()?;
        let stat = self.process.stat().ok()?;
        self.follow_children();
        let living: u64 = self.children.values().map(|child| child.last().cpu_us).sum();
        let cpu_us = root.cpu_us + waited_for_us(&stat) + living;
        // A child may end and be counted nowhere for a moment: the next read has it.
        self.last = Usage { cpu_us: cpu_us.max(self.last.cpu_us), rss_bytes: self.rss_bytes() };
        Some(self.last)
    }

    /// What the last successful [`Self::read`] said.
    #[must_use]
    pub fn last(&self) -> Usage {
        self.last
    }

    /// Reads all children that live, takes new ones in and lets go of those that ended.
    fn follow_children(&mut self) {
        let pids = self.children();
        // The number of one that ended may be a new child's already; its meter knows.
        self.children
            .retain(|pid, meter| pids.binary_search(pid).is_ok() && meter.read().is_some());
        for pid in pids {
            if let Entry::Vacant(entry) = self.children.entry(pid)
                && let Ok(meter) = ProcessMeter::open(pid)
            {
                entry.insert(meter);
            }
        }
    }

    fn rss_bytes(&self) -> u64 {
        let members = self.children.values().chain([&self.root]);
        let (own, shared) = members.filter_map(ProcessMeter::own_and_shared_bytes).fold(
            (0, 0),
            |(own, shared): (u64, u64), (its_own, its_shared)| {
                (own + its_own, shared.max(its_shared))
            },
        );
        own + shared
    }
}

fn waited_for_us(stat: &Stat) -> u64 {
    ticks_to_us(u64::try_from(stat.cutime + stat.cstime).unwrap_or_default())
}

/// Source: proc(5), `/proc/pid/task/tid/children`. The kernel may leave a child out while another
/// one ends; a later read finds it.
fn children_of(process: &Process) -> ProcResult<Vec<u32>> {
    // Children belong to the thread that started them. PostgreSQL's postmaster has one thread.
    let mut pids = Vec::new();
    for task in process.tasks()? {
        match task.and_then(|task| task.children()) {
            Ok(children) => pids.extend(children),
            // Kernels built without the file: found by looking at all processes.
            Err(procfs::ProcError::NotFound(_)) if process.is_alive() => {
                return children_by_search(process.pid);
            }
            Err(_) => {}
        }
    }
    Ok(pids)
}

fn children_by_search(parent: i32) -> ProcResult<Vec<u32>> {
    Ok(procfs::process::all_processes()?
        .filter_map(|process| process.ok()?.stat().ok())
        .filter(|stat| stat.ppid == parent)
        .map(|stat| stat.pid.unsigned_abs())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use super::*;

    /// A shell that runs one line at a time and says when it is done.
    struct Shell {
        child: Child,
        input: ChildStdin,
        output: BufReader<ChildStdout>,
    }

    impl Shell {
        fn start() -> Self {
            let mut child = Command::new("sh")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("sh is there");
            let input = child.stdin.take().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            Self { child, input, output }
        }

        fn run(&mut self, line: &str) {
            writeln!(self.input, "{line}\necho done").unwrap();
            let mut answer = String::new();
            self.output.read_line(&mut answer).unwrap();
            assert_eq!(answer.trim(), "done");
        }

        fn end(mut self) {
            drop(self.input);
            self.child.wait().unwrap();
        }
    }

    const WORK: &str = "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; true)";

    #[test]
    fn children_count_while_they_live_and_after() {
        let mut shell = Shell::start();
        let mut meter = TreeMeter::open(shell.child.id()).unwrap();
        let before = meter.read().unwrap().cpu_us;
        shell.run(WORK);
        let ended = meter.read().unwrap().cpu_us;
        assert!(ended > before, "{ended} against {before}");
        assert_eq!(meter.children(), Vec::<u32>::new());

        shell.run("sleep 30 & pid=$!");
        let children = meter.children();
        assert_eq!(children.len(), 1);
        assert!(meter.read().unwrap().rss_bytes > 0);
        shell.run("kill $pid; wait $pid 2>/dev/null");
        assert!(meter.read().unwrap().cpu_us >= ended);
        assert_eq!(meter.children(), Vec::<u32>::new());
        shell.end();
        assert_eq!(meter.read(), None);
        assert!(meter.last().cpu_us >= ended);
    }

    #[test]
    fn shared_memory_counts_once() {
        let mut shell = Shell::start();
        let mut meter = TreeMeter::open(shell.child.id()).unwrap();
        shell.run("sleep 30 & a=$!; sleep 30 & b=$!; sleep 30 & c=$!");
        // A child is a copy of the shell until it becomes what it was started for; until then its
        // memory changes from one look to the next.
        let is_sleep = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n")
        };
        while meter.children().iter().filter(|pid| is_sleep(pid)).count() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        let together = meter.read().unwrap().rss_bytes;
        let added_up: u64 = meter
            .children()
            .into_iter()
            .chain([shell.child.id()])
            .map(|pid| ProcessMeter::open(pid).unwrap().last().rss_bytes)
            .sum();
        assert!(together < added_up, "{together} against {added_up}");
        shell.run("kill $a $b $c; wait 2>/dev/null");
        shell.end();
    }

    #[test]
    fn both_ways_find_the_same_children() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let own = std::process::id().cast_signed();
        assert!(children_by_search(own).unwrap().contains(&child.id()));
        assert!(TreeMeter::open(std::process::id()).unwrap().children().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
