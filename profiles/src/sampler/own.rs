//! The sampler of last resort: pprof, a timer and a signal within the process itself. It needs nobody's
//! permission, and sees this process alone.
//!
//! What is to be known of pprof 0.15:
//!
//! - One timer (`setitimer`, SIGPROF) serves all threads, and the kernel looks at it once a tick: more
//!   than 250 signals a second come to no process where it ticks as often, however many threads run.
//! - It puts samples together by the functions that enclose their addresses, and keeps one of them: of
//!   two functions that were inlined into a third, one would get all of its samples. It asks for that
//!   by `_Unwind_FindEnclosingFunction`, of which there is one below.
//! - Its unwinder is built by the first signal, in whatever that interrupts, if need be within the
//!   allocator, where it hangs. So the first signals are sent while nothing else goes on.
//! - It keeps a file of its own in the temporary folder, by name, of which it never lets go.

use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use nix::sys::signal::{Signal, raise};
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use walbench_metrics::stacks::{self, RawStack, SampledStacks, StackSample};

/// More samples of each second that a thread runs are not taken: two threads that run all the time
/// would get fewer than they were promised.
pub const MOST_HZ: u32 = 99;

/// Calls of a stack that are kept, at most (pprof's `MAX_DEPTH`).
const MOST_CALLS: usize = 128;

/// Numbers of threads begin here: no thread of the kernel's has one that large (`PID_MAX_LIMIT` is
/// 2^22).
const FIRST_THREAD: u32 = 1 << 24;

/// Takes the place of libgcc's, for pprof, which calls it for each frame in its signal's handler: that
/// each address is its own function keeps samples apart that differ, and takes no lock of the loader's.
/// Others that call it (the standard library, for the addresses of a panic's frames) print names that
/// they find by other ways.
#[allow(unsafe_code, reason = "a symbol that is found by its name; nothing is called or read")]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void {
    address
}

/// Samples the process that it is in.
pub struct OwnSampler {
    rate_hz: i32,
    /// Where stacks begin.
    beginnings: BTreeSet<u64>,
    /// Numbers of threads, by what pprof calls them.
    threads: HashMap<u64, u32>,
    running: Option<ProfilerGuard<'static>>,
}

impl std::fmt::Debug for OwnSampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnSampler").field("rate_hz", &self.rate_hz).finish_non_exhaustive()
    }
}

impl OwnSampler {
    /// Gets ready to take `rate_hz` samples of each second that a thread runs, and no more than
    /// [`MOST_HZ`]. To be called while the process has one thread and nothing to do. `folder` is for
    /// the file that pprof keeps, and for whatever else is put into temporary files from here on: to
    /// be removed when the process has ended.
    ///
    /// # Errors
    ///
    /// The process can't be sampled, or the folder is none.
    pub fn prepare(rate_hz: u32, folder: &Path) -> io::Result<Self> {
        let _ = tempfile::env::override_temp_dir(folder);
        let mut sampler = Self {
            rate_hz: i32::try_from(rate_hz.clamp(1, MOST_HZ)).unwrap_or(1),
            beginnings: BTreeSet::new(),
            threads: HashMap::new(),
            running: None,
        };
        let first = start(1)?;
        raise(Signal::SIGPROF)?;
        // Threads begin elsewhere than the first one.
        std::thread::spawn(|| raise(Signal::SIGPROF)).join().map_err(|_| failed())??;
        sampler.beginnings = beginnings(&first)?;
        match sampler.beginnings.len() {
            0 => Err(io::Error::other("no stack came of its first signals")),
            _ => Ok(sampler),
        }
    }

    fn taken(&mut self) -> io::Result<SampledStacks> {
        let Some(running) = self.running.take() else {
            self.running = Some(start(self.rate_hz)?);
            return Ok(SampledStacks::default());
        };
        let report = running.report().build_unresolved().map_err(io::Error::other)?;
        // One that is started anew has forgotten everything.
        drop(running);
        self.running = Some(start(self.rate_hz)?);
        let mut taken = SampledStacks::default();
        for (frames, count) in report.data {
            let time_us = frames.sample_timestamp.duration_since(UNIX_EPOCH).unwrap_or_default();
            let time_us = i64::try_from(time_us.as_micros()).unwrap_or_default();
            let next = FIRST_THREAD + u32::try_from(self.threads.len()).unwrap_or_default();
            let thread = *self.threads.entry(frames.thread_id).or_insert(next);
            let name = &frames.thread_name[..frames.thread_name_length];
            taken.threads.insert(thread, String::from_utf8_lossy(name).into_owned());
            let stack = u32::try_from(taken.stacks.len()).unwrap_or(u32::MAX);
            taken.stacks.push(self.stack(frames.frames.iter().map(|frame| frame.ip as u64)));
            let sample = StackSample { time_us, thread, stack };
            let count = usize::try_from(count).unwrap_or_default();
            taken.samples.extend(std::iter::repeat_n(sample, count));
        }
        Ok(taken)
    }

    /// Of addresses, innermost first: all but the first are where calls return to.
    fn stack(&self, addresses: impl Iterator<Item = u64>) -> RawStack {
        let addresses: Vec<u64> = addresses.collect();
        let is_whole = addresses.len() < MOST_CALLS
            && addresses.last().is_some_and(|last| self.beginnings.contains(last));
        let within_call = |(n, address): (usize, &u64)| address - u64::from(n > 0);
        let addresses = addresses.iter().enumerate().map(within_call).collect();
        RawStack { addresses, is_truncated: !is_whole }
    }
}

impl stacks::OwnSampler for OwnSampler {
    fn take(&mut self) -> Result<SampledStacks, String> {
        self.taken().map_err(|error| format!("nothing more is sampled: {error}"))
    }
}

fn failed() -> io::Error {
    io::Error::other("the thread for its first signal failed")
}

fn start(rate_hz: i32) -> io::Result<ProfilerGuard<'static>> {
    ProfilerGuardBuilder::default().frequency(rate_hz).build().map_err(io::Error::other)
}

/// The outermost addresses of what has been sampled.
fn beginnings(running: &ProfilerGuard<'_>) -> io::Result<BTreeSet<u64>> {
    let report = running.report().build_unresolved().map_err(io::Error::other)?;
    Ok(report.data.keys().filter_map(|it| it.frames.last()).map(|it| it.ip as u64).collect())
}
