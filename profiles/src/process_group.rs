//! CPU time and memory of a process and all that it started together.

use std::collections::{BTreeMap, VecDeque};

use procfs::ProcResult;
use procfs::process::Process;

use crate::MeterError;
use crate::process::{ProcessMeter, Usage};

/// Measures a program that works in child processes, as PostgreSQL does: the root process (the
/// postmaster), its children, theirs, and so on. One reading with ten children took 0.8 ms (debug
/// build, AMD EPYC, Linux 6.18).
#[derive(Debug)]
pub struct TreeMeter {
    root: ProcessMeter,
    /// What the root itself uses counts.
    with_root: bool,
    descendants: BTreeMap<u32, ProcessMeter>,
    last: Usage,
}

impl TreeMeter {
    /// Begins to measure the process `root_pid` and all that it started.
    ///
    /// # Errors
    ///
    /// The process does not exist or may not be looked at.
    pub fn open(root_pid: u32) -> Result<Self, MeterError> {
        Self::open_as(root_pid, true)
    }

    /// Begins to measure all that the process `root_pid` started, and not that process.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`].
    pub fn open_below(root_pid: u32) -> Result<Self, MeterError> {
        Self::open_as(root_pid, false)
    }

    fn open_as(root_pid: u32, with_root: bool) -> Result<Self, MeterError> {
        let root = ProcessMeter::open(root_pid)?;
        let (descendants, last) = Default::default();
        let mut meter = Self { root, with_root, descendants, last };
        meter.read();
        Ok(meter)
    }

    /// Numbers of the processes that count and lived at the last reading, ascending.
    #[must_use]
    pub fn members(&self) -> Vec<u32> {
        let root = self.with_root.then(|| self.root.pid());
        let mut pids: Vec<u32> = self.descendants.keys().copied().chain(root).collect();
        pids.sort_unstable();
        pids
    }

    /// What all have used up to now; `None` once the root has ended and was waited for.
    ///
    /// - CPU time is each living process's own, and that of the children it has waited for, also
    ///   from before the meter was opened. A child that ends between two reads is lost from
    ///   neither, so differences of two reads are right even when sessions come and go.
    /// - Memory is what each process has to itself, and once the largest amount that one of them
    ///   shares: all map the same shared buffers, and adding them up would count these for every
    ///   session. The exact figure (PSS) makes the kernel walk all page tables, which takes
    ///   milliseconds with large shared buffers and would disturb what is measured.
    pub fn read(&mut self) -> Option<Usage> {
        let own = self.root.read()?.cpu_us;
        let waited_for = self.root.waited_for_us()?;
        let cpu_us = waited_for + if self.with_root { own } else { 0 } + self.follow_descendants();
        // A child may end and be counted nowhere for a moment: the next read has it.
        self.last = Usage { cpu_us: cpu_us.max(self.last.cpu_us), rss_bytes: self.rss_bytes() };
        Some(self.last)
    }

    /// What the last successful [`Self::read`] said.
    #[must_use]
    pub fn last(&self) -> Usage {
        self.last
    }

    /// Reads all descendants that live, takes new ones in and lets go of those that ended; says what
    /// they have used, in µs. Each before its children: what it has waited for by then is none of
    /// them any more.
    fn follow_descendants(&mut self) -> u64 {
        let mut known = std::mem::take(&mut self.descendants);
        let mut found = VecDeque::from(children_of(self.root.process()).unwrap_or_default());
        let mut cpu_us = 0;
        while let Some(pid) = found.pop_front() {
            // The number of one that ended may be a new process's already; its meter knows.
            let still = known.remove(&pid).and_then(|mut meter| meter.read().map(|_| meter));
            let Some(meter) = still.or_else(|| ProcessMeter::open(pid).ok()) else { continue };
            cpu_us += meter.last().cpu_us + meter.waited_for_us().unwrap_or_default();
            found.extend(children_of(meter.process()).unwrap_or_default());
            self.descendants.insert(pid, meter);
        }
        cpu_us
    }

    fn rss_bytes(&self) -> u64 {
        let root = self.with_root.then_some(&self.root);
        let members = self.descendants.values().chain(root);
        let (own, shared) = members.filter_map(ProcessMeter::own_and_shared_bytes).fold(
            (0, 0),
            |(own, shared): (u64, u64), (its_own, its_shared)| {
                (own + its_own, shared.max(its_shared))
            },
        );
        own + shared
    }
}

/// Numbers of all processes that a process started and that live, and of those that these did; none
/// for one that has ended.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let children = |pid: u32| {
        Process::new(pid.cast_signed())
            .and_then(|process| children_of(&process))
            .unwrap_or_default()
    };
    let mut pids = children(pid);
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        pids.extend(children(pid));
        next += 1;
    }
    pids
}

/// Source: proc(5), `/proc/pid/task/tid/children`. The kernel may leave a child out while another
/// one ends; a later read finds it.
fn children_of(process: &Process) -> ProcResult<Vec<u32>> {
    // Children belong to the thread that started them.
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

    /// A child is a copy of the shell until it becomes what it was started for; until then its memory
    /// changes from one look to the next.
    fn is_sleep(pid: &u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n")
    }

    #[test]
    fn children_count_while_they_live_and_after() {
        let mut shell = Shell::start();
        let root = shell.child.id();
        let mut meter = TreeMeter::open(root).unwrap();
        let before = meter.read().unwrap().cpu_us;
        shell.run(WORK);
        let ended = meter.read().unwrap().cpu_us;
        assert!(ended > before, "{ended} against {before}");
        assert_eq!(meter.members(), [root]);

        shell.run("sleep 30 & pid=$!");
        assert!(meter.read().unwrap().rss_bytes > 0);
        assert_eq!(meter.members().len(), 2);
        shell.run("kill $pid; wait $pid 2>/dev/null");
        assert!(meter.read().unwrap().cpu_us >= ended);
        assert_eq!(meter.members(), [root]);
        shell.end();
        assert_eq!(meter.read(), None);
        assert!(meter.last().cpu_us >= ended);
    }

    #[test]
    fn grandchildren_count_and_a_root_may_be_left_out() {
        let mut shell = Shell::start();
        let mut below = TreeMeter::open_below(shell.child.id()).unwrap();
        let before = below.read().unwrap();
        assert_eq!((before.cpu_us, before.rss_bytes, below.members().len()), (0, 0, 0));
        // What the root does itself is not counted.
        shell.run("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
        assert_eq!(below.read().unwrap().cpu_us, 0);
        // A shell that has a child that works, and then waits for another one.
        shell.run(&format!("sh -c '{WORK}; sleep 30 & wait' & pid=$!"));
        let start = std::time::Instant::now();
        while !below.members().iter().any(is_sleep) {
            assert!(start.elapsed().as_secs() < 30, "{:?}", below.members());
            std::thread::sleep(std::time::Duration::from_millis(10));
            below.read().unwrap();
        }
        let used = below.read().unwrap();
        assert!(used.cpu_us > 10_000 && used.rss_bytes > 0, "{used:?}");
        assert_eq!(descendants(shell.child.id()), below.members());
        shell.run("kill $(cat /proc/$pid/task/$pid/children) 2>/dev/null; wait $pid");
        assert!(below.read().unwrap().cpu_us >= used.cpu_us);
        assert!(below.members().is_empty());
        shell.end();
        assert_eq!(below.read(), None);
    }

    #[test]
    fn shared_memory_counts_once() {
        let mut shell = Shell::start();
        let root = shell.child.id();
        let mut meter = TreeMeter::open(root).unwrap();
        shell.run("sleep 30 & a=$!; sleep 30 & b=$!; sleep 30 & c=$!");
        while descendants(root).iter().filter(|pid| is_sleep(pid)).count() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        let together = meter.read().unwrap().rss_bytes;
        let added_up: u64 = meter
            .members()
            .into_iter()
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
        assert!(descendants(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
