//! Samples running processes: any that we may look into, each attached to from outside, so that
//! sampling costs them nothing but the interrupts.

mod perf_event;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use perf_event::{Events, Terms};

use crate::modules;
use crate::recording::Recording;

/// How often what was sampled is fetched.
const FETCH_INTERVAL: Duration = Duration::from_millis(50);

/// Where samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// perf_event_open(2).
    PerfEvent {
        /// Whether it sees into the kernel. Without that, what the kernel does for a process counts
        /// where the process called it.
        kernel: bool,
    },
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PerfEvent { kernel: true } => "perf-event",
            Self::PerfEvent { kernel: false } => "perf-event (without the kernel's part)",
        })
    }
}

impl Backend {
    /// perf_event_open(2), with as much as the kernel permits.
    ///
    /// # Errors
    ///
    /// It permits nothing: see perf_event_open(2), `/proc/sys/kernel/perf_event_paranoid`.
    pub fn perf_event() -> io::Result<Self> {
        let probe = |kernel| Events::open(std::process::id(), Terms { rate_hz: 1, kernel });
        let kernel = probe(true).is_ok();
        if !kernel {
            probe(false)?;
        }
        Ok(Self::PerfEvent { kernel })
    }
}

/// Samples processes until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    backend: Backend,
    rate_hz: u32,
    targets: Arc<Mutex<BTreeMap<u32, Target>>>,
    /// Closed, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A process that is sampled.
struct Target {
    events: Events,
    recording: Recording,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("process", &self.recording.process).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Takes samples by `backend`, `rate_hz` for each second that a thread runs.
    ///
    /// # Errors
    ///
    /// There is no thread for it.
    pub fn start(backend: Backend, rate_hz: u32) -> io::Result<Self> {
        let targets = Arc::<Mutex<BTreeMap<u32, Target>>>::default();
        let (stop, stopped) = channel();
        let fetched = Arc::clone(&targets);
        let thread = std::thread::Builder::new().name("sampler".into()).spawn(move || {
            while stopped.recv_timeout(FETCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                lock(&fetched).values_mut().for_each(Target::fetch);
            }
        })?;
        Ok(Self { backend, rate_hz, targets, stop: Some(stop), thread: Some(thread) })
    }

    /// What takes the samples.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Samples of each second that a thread runs.
    #[must_use]
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Begins to sample a process: all its threads, and those that they start.
    ///
    /// # Errors
    ///
    /// It has ended, or we may not look into it.
    pub fn attach(&self, process: &str, pid: u32) -> io::Result<()> {
        let Backend::PerfEvent { kernel } = self.backend;
        let events = Events::open(pid, Terms { rate_hz: self.rate_hz, kernel })?;
        let mut recording = Recording { process: process.into(), pid, ..Recording::default() };
        modules::describe(&mut recording);
        lock(&self.targets).insert(pid, Target { events, recording });
        Ok(())
    }

    /// What was sampled since the last time, of every process that has been attached to. Those that
    /// have ended are let go.
    #[must_use]
    pub fn take(&self) -> Vec<Recording> {
        let mut targets = lock(&self.targets);
        let taken = targets.values_mut().map(Target::take).collect();
        targets.retain(|pid, _| std::fs::exists(format!("/proc/{pid}")).unwrap_or(false));
        taken
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Target {
    fn fetch(&mut self) {
        self.events.read(&mut self.recording);
    }

    fn take(&mut self) -> Recording {
        self.fetch();
        // Of one that has ended what was read before stays.
        modules::describe(&mut self.recording);
        let Recording { process, pid, threads, mappings, .. } = &self.recording;
        let next = Recording {
            process: process.clone(),
            pid: *pid,
            threads: threads.clone(),
            mappings: mappings.clone(),
            ..Recording::default()
        };
        std::mem::replace(&mut self.recording, next)
    }
}

fn lock(targets: &Mutex<BTreeMap<u32, Target>>) -> MutexGuard<'_, BTreeMap<u32, Target>> {
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}
