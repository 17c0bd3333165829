//! The heaps of a run's workers: what they dumped, and the files that come of it.

use std::collections::BTreeMap;

use walbench_metrics::allocator::{Executable, HeapDump};
use walbench_metrics::{Failure, Window};
use walbench_profiles::formats::Title;
use walbench_profiles::heap::{Dump, DumpError, Heap, HeapFigures};
use walbench_profiles::profile::Profile;
use walbench_profiles::symbols::Symbols;
use walbench_results::RunFolder;

use crate::profiling::{Phase, name, stem, write_files};

/// What the workers have dumped in the phase that runs, by process and window.
#[derive(Debug, Default)]
pub(crate) struct Heaps {
    dumps: BTreeMap<String, BTreeMap<Window, HeapDump>>,
    /// What a reader must know of what is not there.
    pub(crate) allowances: Vec<String>,
}

/// A dump that was read.
struct Read {
    after: Window,
    at_us: i64,
    allocated_bytes: u64,
    heap: Heap,
}

impl Heaps {
    /// Keeps a worker's dump.
    pub(crate) fn keep(&mut self, process: &str, dump: HeapDump) {
        self.dumps.entry(process.into()).or_default().insert(dump.after, dump);
    }

    /// Writes a phase's heaps, and forgets them. What can't be written costs the run nothing else.
    pub(crate) fn write(&mut self, folder: &RunFolder, phase: Phase<'_>) -> Vec<HeapFigures> {
        let dumps = std::mem::take(&mut self.dumps);
        if dumps.is_empty() {
            return Vec::new();
        }
        // They take much memory: not for longer than they are needed.
        let mut symbols = Symbols::default();
        let mut written = Vec::new();
        for (process, dumps) in dumps {
            let read =
                dumps.into_values().filter_map(|dump| self.read(&process, dump, &mut symbols));
            let read: Vec<Read> = read.collect();
            written.extend(self.write_process(folder, phase, &process, &read));
        }
        written
    }

    fn read(&mut self, process: &str, dump: HeapDump, symbols: &mut Symbols) -> Option<Read> {
        let HeapDump { after, at_us, allocated_bytes, executable, text, .. } = dump;
        let unreadable = |e: DumpError| Failure::new("it can't be read").caused_by(&e);
        match text.and_then(|text| Dump::parse(&text).map_err(unreadable)) {
            Ok(mut dump) => {
                if executable != *Executable::own() {
                    self.translate(process, &mut dump, &executable);
                }
                let heap = Heap::of(&dump, symbols);
                Some(Read { after, at_us, allocated_bytes, heap })
            }
            Err(failure) => {
                let what = format!("the heap of {process} after the {}", name(after));
                self.note(Failure::new(what).because(failure).line());
                None
            }
        }
    }

    /// The worker is elsewhere: what it has mapped there is here another file, or none.
    fn translate(&mut self, process: &str, dump: &mut Dump, theirs: &Executable) {
        let ours = Executable::own();
        let is_same = theirs.fingerprint == ours.fingerprint;
        if !is_same {
            self.note(format!(
                "{process} is another build of walbench: its functions have no names"
            ));
        }
        dump.mappings.retain_mut(|map| {
            let is_executable = is_same && map.path == theirs.path;
            map.path.clone_from(&ours.path);
            is_executable
        });
    }

    fn note(&mut self, text: String) {
        if !self.allowances.contains(&text) {
            self.allowances.push(text);
        }
    }

    /// What is held after the last window that there is a dump of, and what grew in the measured one.
    fn write_process(
        &mut self,
        folder: &RunFolder,
        phase: Phase<'_>,
        process: &str,
        read: &[Read],
    ) -> Option<HeapFigures> {
        let last = read.last()?;
        let (first, later) = (&read[0], read.iter().find(|it| it.after >= Window::Measured));
        let title = |window: String, from: &Read, to: &Read| Title {
            phase: phase.name.into(),
            window,
            start_us: from.at_us,
            length_us: to.at_us - from.at_us,
        };
        let held = last.heap.profile(process);
        let after = name(last.after);
        let mut files = self.write_profile(
            folder,
            "heap",
            &held,
            &title(format!("heap after the {after}"), last, last),
        );
        let is_whole = first.after == Window::Warmup;
        let growth = later.filter(|_| is_whole).map(|later| {
            let (grown, profile) = later.heap.growth(&first.heap, process);
            let title = title("what grew in the heap".into(), first, later);
            files.extend(self.write_profile(folder, "heap-growth", &profile, &title));
            grown
        });
        let total = held.quality.samples;
        Some(HeapFigures {
            process: process.into(),
            after: after.into(),
            bytes: held.total,
            allocated_bytes: last.allocated_bytes,
            samples: total,
            interval_bytes: held.period,
            largest: last.heap.largest(),
            grown: growth,
            files,
        })
    }

    fn write_profile(
        &mut self,
        folder: &RunFolder,
        kind: &str,
        profile: &Profile,
        title: &Title,
    ) -> Vec<String> {
        if profile.stacks.is_empty() {
            return Vec::new();
        }
        let stem = format!("{}-{kind}", stem(title, profile));
        write_files(folder, &stem, profile, title).unwrap_or_else(|failure| {
            self.note(failure.line());
            Vec::new()
        })
    }
}
