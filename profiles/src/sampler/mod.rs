//! Samples running processes: any that we may look into, each attached to from outside, so that
//! sampling costs them nothing but the interrupts; and where that is not permitted, what processes of
//! ours sample of themselves.

pub mod own;
mod perf_event;
mod unwind;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use perf_event::{Events, Terms, Written, record};
use unwind::Unwinding;
use walbench_metrics::stacks::SampledStacks;

use crate::modules;
use crate::recording::Recording;

/// How often what was sampled is fetched.
const FETCH_INTERVAL: Duration = Duration::from_millis(10);

/// Where samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// perf_event_open(2), on all CPUs: the lightest, and the only one that sees what switching between
    /// threads costs. What is sampled of others is dropped at once.
    PerfEventCpus,
    /// perf_event_open(2), for each thread.
    PerfEventThreads {
        /// Whether it sees into the kernel. Without that nothing is sampled while the kernel works for
        /// a process, and those samples are missing.
        kernel: bool,
    },
    /// pprof: processes sample themselves, and hand over what they have.
    Pprof,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PerfEventCpus => "perf-event on all CPUs",
            Self::PerfEventThreads { kernel: true } => "perf-event by thread",
            Self::PerfEventThreads { kernel: false } => {
                "perf-event by thread, without the kernel's part"
            }
            Self::Pprof => "pprof",
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
        let own = std::process::id();
        let terms = |kernel| Terms { rate_hz: 1, kernel };
        if Events::of_the_machine(terms(true)).is_ok() {
            return Ok(Self::PerfEventCpus);
        }
        let kernel = Events::of_a_process(own, terms(true)).is_ok();
        if !kernel {
            Events::of_a_process(own, terms(false))?;
        }
        Ok(Self::PerfEventThreads { kernel })
    }

    fn terms(self, rate_hz: u32) -> Terms {
        let kernel = !matches!(self, Self::PerfEventThreads { kernel: false });
        Terms { rate_hz, kernel }
    }
}

/// Samples processes until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    backend: Backend,
    rate_hz: u32,
    sampling: Arc<Mutex<Sampling>>,
    /// Closed, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is shared with the thread that fetches samples.
#[derive(Default)]
struct Sampling {
    /// Those of all CPUs, or of each process.
    events: Vec<(Option<u32>, Events)>,
    targets: BTreeMap<u32, Target>,
}

/// A process that is sampled.
struct Target {
    unwinding: Unwinding,
    recording: Recording,
}

impl std::fmt::Debug for Sampling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.targets.keys()).finish()
    }
}

impl Sampler {
    /// Takes samples by `backend`, `rate_hz` for each second that a thread runs; by pprof no more than
    /// [`own::MOST_HZ`].
    ///
    /// # Errors
    ///
    /// The kernel does not permit it any more, or there is no thread for it.
    pub fn start(backend: Backend, rate_hz: u32) -> io::Result<Self> {
        let rate_hz = match backend {
            Backend::Pprof => rate_hz.min(own::MOST_HZ),
            _ => rate_hz,
        };
        let mut sampling = Sampling::default();
        if backend == Backend::PerfEventCpus {
            sampling.events.push((None, Events::of_the_machine(backend.terms(rate_hz))?));
        }
        let sampling = Arc::new(Mutex::new(sampling));
        let mut sampler = Self { backend, rate_hz, sampling, stop: None, thread: None };
        if backend != Backend::Pprof {
            sampler.fetch_on()?;
        }
        Ok(sampler)
    }

    /// Fetches what the kernel writes, from now on.
    fn fetch_on(&mut self) -> io::Result<()> {
        let (stop, stopped) = channel();
        let fetched = Arc::clone(&self.sampling);
        let thread = std::thread::Builder::new().name("sampler".into()).spawn(move || {
            while stopped.recv_timeout(FETCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                lock(&fetched).fetch();
            }
        })?;
        (self.stop, self.thread) = (Some(stop), Some(thread));
        Ok(())
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

    /// Begins to sample a process: all its threads, and those that they start. One that samples itself
    /// is to [`Self::add`] what it has.
    ///
    /// # Errors
    ///
    /// It has ended, or we may not look into it.
    pub fn attach(&self, process: &str, pid: u32) -> io::Result<()> {
        let events = match self.backend {
            Backend::PerfEventCpus | Backend::Pprof => None,
            Backend::PerfEventThreads { .. } => {
                Some(Events::of_a_process(pid, self.backend.terms(self.rate_hz))?)
            }
        };
        self.keep(process, pid, events)
    }

    /// Keeps the samples of a process too that one that is sampled has started since: it is sampled
    /// already, for it has inherited that.
    ///
    /// # Errors
    ///
    /// Those of [`Self::attach`].
    pub fn adopt(&self, process: &str, pid: u32) -> io::Result<()> {
        self.keep(process, pid, None)
    }

    fn keep(&self, process: &str, pid: u32, events: Option<Events>) -> io::Result<()> {
        let mut recording = Recording { process: process.into(), pid, ..Recording::default() };
        modules::describe(&mut recording)?;
        let mut unwinding = Unwinding::new();
        if self.backend != Backend::Pprof {
            unwinding.learn(&recording.mappings);
        }
        let mut sampling = lock(&self.sampling);
        sampling.events.extend(events.map(|events| (Some(pid), events)));
        sampling.targets.insert(pid, Target { unwinding, recording });
        Ok(())
    }

    /// Adds what a process sampled of itself.
    pub fn add(&self, pid: u32, own: SampledStacks) {
        if let Some(target) = lock(&self.sampling).targets.get_mut(&pid) {
            target.recording.add(own);
        }
    }

    /// What was sampled since the last time, of every process that has been attached to. Those that
    /// have ended are let go.
    #[must_use]
    pub fn take(&self) -> Vec<Recording> {
        let mut taken: Vec<Recording> = {
            let mut sampling = lock(&self.sampling);
            sampling.fetch();
            sampling.targets.values_mut().map(Target::take).collect()
        };
        // Of one that has ended what was read before stays.
        taken.iter_mut().for_each(|recording| drop(modules::describe(recording)));
        let mut sampling = lock(&self.sampling);
        let lives = |pid: u32| std::fs::exists(format!("/proc/{pid}")).unwrap_or(false);
        sampling.targets.retain(|pid, _| lives(*pid));
        sampling.events.retain(|(pid, _)| pid.is_none_or(lives));
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

impl Sampling {
    fn fetch(&mut self) {
        let Self { events, targets } = self;
        for (_, events) in events {
            events.read(|written| match written {
                Written::Sample(sample) => {
                    if let Some(target) = sample.pid().and_then(|pid| targets.get_mut(&pid)) {
                        record(sample, &mut target.unwinding, &mut target.recording);
                    }
                }
                Written::Name { process, thread, name } => {
                    if let Some(target) = targets.get_mut(&process) {
                        let name = String::from_utf8_lossy(name).into_owned();
                        target.recording.threads.insert(thread, name);
                    }
                }
                Written::Mapped { process, mapping } => {
                    if let Some(target) = targets.get_mut(&process) {
                        target.unwinding.learn(std::slice::from_ref(&mapping));
                        target.recording.mappings.push(mapping);
                    }
                }
                // Nobody knows whose they were.
                Written::Lost(samples) => {
                    targets.values_mut().for_each(|target| target.recording.lost += samples);
                }
            });
        }
    }
}

impl Target {
    fn take(&mut self) -> Recording {
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

fn lock(sampling: &Mutex<Sampling>) -> MutexGuard<'_, Sampling> {
    sampling.lock().unwrap_or_else(PoisonError::into_inner)
}
