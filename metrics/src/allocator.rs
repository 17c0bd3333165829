//! What this process's allocator holds, and for whom: jemalloc's own account, for executables whose
//! allocator it is.
//!
//! Source: jemalloc(3), `stats.*`, `prof.dump`.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tikv_jemalloc_ctl::{Access, AsName, epoch, profiling, stats, thread};

use crate::link::MAX_LINE_BYTES;
use crate::{Cuts, Failure, Window};

/// What an allocator holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllocatorUse {
    /// Bytes that the program has and did not give back.
    pub allocated_bytes: u64,
    /// Bytes of the pages that these are on.
    pub active_bytes: u64,
    /// Bytes of the pages that have memory: active ones, those that wait to be used again or returned,
    /// and the allocator's own.
    pub resident_bytes: u64,
    /// Bytes of addresses that are kept without memory.
    pub retained_bytes: u64,
    /// Bytes of the allocator's own books, its profiler's among them.
    pub metadata_bytes: u64,
}

impl AllocatorUse {
    /// What this process's allocator holds now; `None` where that is another one.
    #[must_use]
    pub fn now() -> Option<Self> {
        if !is_at_work() {
            return None;
        }
        // All figures are of the moment in which this was last said.
        epoch::advance().ok()?;
        Some(Self {
            allocated_bytes: stats::allocated::read().ok()? as u64,
            active_bytes: stats::active::read().ok()? as u64,
            resident_bytes: stats::resident::read().ok()? as u64,
            retained_bytes: stats::retained::read().ok()? as u64,
            metadata_bytes: stats::metadata::read().ok()? as u64,
        })
    }

    /// Raises each figure to another's.
    pub fn raise(&mut self, other: &Self) {
        let Self { allocated_bytes, active_bytes, resident_bytes, retained_bytes, metadata_bytes } =
            *other;
        self.allocated_bytes = self.allocated_bytes.max(allocated_bytes);
        self.active_bytes = self.active_bytes.max(active_bytes);
        self.resident_bytes = self.resident_bytes.max(resident_bytes);
        self.retained_bytes = self.retained_bytes.max(retained_bytes);
        self.metadata_bytes = self.metadata_bytes.max(metadata_bytes);
    }
}

/// Whether this process allocates by jemalloc: something that it allocates is counted there.
fn is_at_work() -> bool {
    static IS_AT_WORK: OnceLock<bool> = OnceLock::new();
    *IS_AT_WORK.get_or_init(|| {
        let Ok(allocated) = thread::allocatedp::read() else { return false };
        let before = allocated.get();
        drop(black_box(vec![1_u8; 64]));
        allocated.get() > before
    })
}

/// Whether this process's heap is profiled. That is decided before its `main`.
#[must_use]
pub fn is_profiled() -> bool {
    profiling::prof::read().unwrap_or_default()
}

/// Who holds a worker's memory, as its allocator has sampled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapDump {
    /// Index of the phase in the plan.
    pub phase: u32,
    /// The window that had just ended.
    pub after: Window,
    /// When, in µs of the orchestrator's clock.
    pub at_us: i64,
    /// Bytes allocated then, by the allocator's own count.
    pub allocated_bytes: u64,
    /// Whose functions it names by their addresses.
    pub executable: Executable,
    /// What was sampled, in jemalloc's format `heap_v2`; or why it is not there.
    pub text: Result<String, Failure>,
}

/// A program's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    /// Its path, on its machine.
    pub path: PathBuf,
    /// A hash of all its bytes: addresses mean the same in files that have the same.
    pub fingerprint: u64,
}

impl Executable {
    /// This process's, read once.
    #[must_use]
    pub fn own() -> &'static Self {
        static OWN: OnceLock<Executable> = OnceLock::new();
        OWN.get_or_init(|| {
            let path = std::env::current_exe().unwrap_or_default();
            Self { path, fingerprint: fingerprint().unwrap_or_default() }
        })
    }
}

fn fingerprint() -> io::Result<u64> {
    // Whatever has become of its path.
    let mut file = BufReader::with_capacity(1 << 20, File::open("/proc/self/exe")?);
    let mut hasher = DefaultHasher::new();
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.write(bytes);
        let length = bytes.len();
        file.consume(length);
    }
}

impl HeapDump {
    /// Longest text, in bytes: with its line ends written as two, it still fits into a message.
    const MOST_BYTES: usize = MAX_LINE_BYTES / 2;

    /// Dumps this process's heap; whoever allocates meanwhile may have to wait.
    #[must_use]
    pub fn take(phase: u32, after: Window, at_us: i64) -> Self {
        let failed = |e: io::Error| Failure::new("the heap can't be dumped").caused_by(&e);
        let text = match dump() {
            Ok(text) if text.len() > Self::MOST_BYTES => {
                Err(Failure::new(format!("the heap's dump has {} bytes: too many", text.len())))
            }
            other => other.map_err(failed),
        };
        let allocated_bytes = AllocatorUse::now().unwrap_or_default().allocated_bytes;
        let executable = Executable::own().clone();
        Self { phase, after, at_us, allocated_bytes, executable, text }
    }
}

/// What the profiler has sampled. It goes through a file that has no name and no disk.
fn dump() -> io::Result<String> {
    static PLACE: Mutex<Option<(File, &str)>> = Mutex::new(None);
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if place.is_none() {
        let file = File::from(memfd_create(c"heap", MFdFlags::MFD_CLOEXEC)?);
        // jemalloc keeps it, by its signature.
        let path = format!("/proc/self/fd/{}\0", file.as_raw_fd()).leak();
        *place = Some((file, path));
    }
    let Some((file, path)) = &mut *place else { return Ok(String::new()) };
    let path: &'static str = path;
    b"prof.dump\0".name().write(path).map_err(io::Error::other)?;
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    file.set_len(0)?;
    Ok(text)
}

/// The dumps of a worker's heap: one after each window of a phase, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub struct HeapDumps {
    is_wanted: bool,
    phase: u32,
    cuts: Option<Cuts>,
    dumped: Option<Window>,
}

impl HeapDumps {
    /// Of a worker whose heap is to be dumped, or not.
    #[must_use]
    pub fn new(is_wanted: bool) -> Self {
        if is_wanted {
            // Not in the middle of a phase.
            let _ = Executable::own();
        }
        Self { is_wanted, phase: 0, cuts: None, dumped: None }
    }

    /// A phase begins.
    pub fn start(&mut self, phase: u32, cuts: Cuts) {
        *self = Self { phase, cuts: Some(cuts), dumped: None, ..*self };
    }

    /// Samples are cut: a dump, if a window has ended.
    pub fn cut(&mut self, now_us: i64) -> Option<HeapDump> {
        let after = match self.cuts?.window_at(now_us) {
            Window::Warmup => return None,
            Window::Measured => Window::Warmup,
            Window::Drain => Window::Measured,
        };
        self.end(after, now_us)
    }

    /// This window has ended: a dump, if it is the first one after it.
    pub fn end(&mut self, after: Window, now_us: i64) -> Option<HeapDump> {
        let is_due = self.is_wanted && self.dumped < Some(after);
        is_due.then(|| HeapDump::take(self.phase, *self.dumped.insert(after), now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each window's end is met once, however the clock is read.
    #[test]
    fn the_heap_is_dumped_after_each_window_once() {
        let cuts = Cuts { start_us: 0, measured_us: 2_000_000, end_us: 5_000_000 };
        let mut dumps = HeapDumps::new(true);
        dumps.start(1, cuts);
        let seen = (0..8).filter_map(|s| dumps.cut(s * 1_000_000));
        let seen: Vec<_> = seen.map(|dump| (dump.phase, dump.after, dump.at_us)).collect();
        assert_eq!(seen, [(1, Window::Warmup, 2_000_000), (1, Window::Measured, 5_000_000)]);
        assert!(dumps.end(Window::Drain, 8).is_some() && dumps.end(Window::Measured, 9).is_none());
        dumps.start(2, cuts);
        assert_eq!(dumps.cut(9_000_000).unwrap().after, Window::Measured, "a cut was missed");
        let mut unwanted = HeapDumps::new(false);
        unwanted.start(1, cuts);
        assert_eq!(unwanted.cut(9_000_000), None);
    }

    /// This executable has the system's allocator: jemalloc is in it, and at work for nobody.
    #[test]
    fn without_the_profiler_there_is_no_dump() {
        assert!(!is_profiled());
        let dump = HeapDump::take(3, Window::Measured, 7);
        assert_eq!(dump.text.unwrap_err().error, "the heap can't be dumped");
        assert_eq!(AllocatorUse::now(), None);
    }
}
