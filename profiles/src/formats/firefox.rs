//! The Firefox Profiler's format: all processes on one line of time, with the phases as markers
//! (profiler.firefox.com, which reads the file in the browser and sends it nowhere).

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use fxprof_processed_profile::{
    CategoryColor, CategoryHandle, CpuDelta, Frame, FrameFlags, FrameInfo, MarkerFieldFlags,
    MarkerFieldFormat, MarkerLocations, MarkerTiming, ProcessHandle, Profile, ReferenceTimestamp,
    SamplingInterval, StackHandle, StaticSchemaMarker, StaticSchemaMarkerField, StringHandle,
    ThreadHandle, Timestamp,
};

use super::Title;
use crate::area::Area;
use crate::recording::Recording;
use crate::symbols::{KERNEL, Location, Symbols};

/// Most samples that are kept: what a browser still shows.
const MOST_SAMPLES: u64 = 2_000_000;

/// A run's timeline, which grows with each phase.
#[derive(Debug)]
pub struct Timeline {
    profile: Profile,
    start_us: i64,
    rate_hz: u32,
    areas: BTreeMap<Area, CategoryHandle>,
    processes: HashMap<u32, ProcessHandle>,
    threads: HashMap<(u32, u32), ThreadHandle>,
    /// Where markers are: the first thread.
    marked: Option<ThreadHandle>,
    samples: u64,
    left_out: u64,
}

impl Timeline {
    /// An empty one that begins at `start_us`, in µs since the Unix epoch.
    #[must_use]
    pub fn new(name: &str, start_us: i64, rate_hz: u32) -> Self {
        let since_epoch = Duration::from_micros(start_us.unsigned_abs());
        let reference = ReferenceTimestamp::from_duration_since_unix_epoch(since_epoch);
        let interval = SamplingInterval::from_hz(rate_hz.max(1) as f32);
        let mut profile = Profile::new(name, reference, interval);
        let areas = Area::ALL.map(|area| (area, profile.add_category(area.name(), color(area))));
        Self {
            profile,
            start_us,
            rate_hz,
            areas: areas.into(),
            processes: HashMap::new(),
            threads: HashMap::new(),
            marked: None,
            samples: 0,
            left_out: 0,
        }
    }

    /// Adds a process's samples.
    pub fn add(&mut self, recording: &Recording, symbols: &mut Symbols) {
        let mut stacks: HashMap<(u32, u32), Option<StackHandle>> = HashMap::new();
        let cpu = CpuDelta::from_nanos(1_000_000_000 / u64::from(self.rate_hz.max(1)));
        let room = usize::try_from(MOST_SAMPLES - self.samples).unwrap_or(usize::MAX);
        let kept = &recording.samples[..recording.samples.len().min(room)];
        self.left_out += (recording.samples.len() - kept.len()) as u64;
        let mut samples = kept.to_vec();
        samples.sort_by_key(|sample| sample.time_us);
        for sample in &samples {
            let thread = self.thread(recording, sample.thread);
            let stack = *stacks.entry((sample.thread, sample.stack)).or_insert_with(|| {
                let stack = recording.stacks.get(sample.stack);
                let addresses = stack.map_or(&[][..], |stack| &stack.addresses);
                self.stack(thread, &symbols.stack(recording, addresses))
            });
            let time = self.time(sample.time_us);
            self.profile.add_sample(thread, time, stack, cpu, 1);
            self.samples += 1;
        }
    }

    /// Marks a window of a phase.
    pub fn mark(&mut self, title: &Title) {
        let Some(thread) = self.marked else { return };
        let from = self.time(title.start_us);
        let to = self.time(title.start_us.saturating_add(title.length_us));
        let name = self.profile.intern_string(&title.phase);
        let window = self.profile.intern_string(&title.window);
        self.profile.add_marker(thread, MarkerTiming::Interval(from, to), Window { name, window });
    }

    /// Samples that were too many to be kept.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The file, compressed.
    ///
    /// # Errors
    ///
    /// None that memory would not have.
    pub fn write(&self) -> io::Result<Vec<u8>> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        serde_json::to_writer(&mut gzip, &self.profile)?;
        gzip.flush()?;
        gzip.finish()
    }

    fn time(&self, at_us: i64) -> Timestamp {
        let ns = at_us.saturating_sub(self.start_us).max(0).unsigned_abs().saturating_mul(1_000);
        Timestamp::from_nanos_since_reference(ns)
    }

    fn thread(&mut self, recording: &Recording, number: u32) -> ThreadHandle {
        let Recording { process, pid, threads, .. } = recording;
        if let Some(thread) = self.threads.get(&(*pid, number)) {
            return *thread;
        }
        let start = self.time(self.start_us);
        let profile = &mut self.profile;
        let owner = self.processes.entry(*pid);
        let owner = *owner.or_insert_with(|| profile.add_process(process, *pid, start));
        let thread = self.profile.add_thread(owner, number, start, number == *pid);
        if let Some(name) = threads.get(&number) {
            self.profile.set_thread_name(thread, name);
        }
        self.marked.get_or_insert(thread);
        self.threads.insert((*pid, number), thread);
        thread
    }

    fn stack(
        &mut self,
        thread: ThreadHandle,
        locations: &[std::sync::Arc<Location>],
    ) -> Option<StackHandle> {
        let mut frames = Vec::new();
        for place in locations.iter().rev() {
            for function in place.functions.iter().rev() {
                let area = match place.module == KERNEL {
                    true => Area::Kernel,
                    false => Area::of(&function.name).unwrap_or(Area::Other),
                };
                frames.push(FrameInfo {
                    frame: Frame::Label(self.profile.intern_string(&function.name)),
                    category_pair: self.areas[&area].into(),
                    flags: FrameFlags::empty(),
                });
            }
        }
        self.profile.intern_stack_frames(thread, frames.into_iter())
    }
}

fn color(area: Area) -> CategoryColor {
    match area {
        Area::Read => CategoryColor::Blue,
        Area::Decode => CategoryColor::Green,
        Area::Encode => CategoryColor::Yellow,
        Area::Compress => CategoryColor::Orange,
        Area::Send => CategoryColor::Purple,
        Area::Metrics => CategoryColor::LightBlue,
        Area::Runtime => CategoryColor::LightGreen,
        Area::Allocator => CategoryColor::Red,
        Area::Kernel => CategoryColor::DarkGray,
        Area::Other => CategoryColor::Gray,
    }
}

/// A phase's part.
struct Window {
    name: StringHandle,
    window: StringHandle,
}

impl StaticSchemaMarker for Window {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "phase";
    const LOCATIONS: MarkerLocations = MarkerLocations::MARKER_CHART
        .union(MarkerLocations::MARKER_TABLE)
        .union(MarkerLocations::TIMELINE_OVERVIEW);
    const CHART_LABEL: Option<&'static str> = Some("{marker.data.window}");
    const TABLE_LABEL: Option<&'static str> = Some("{marker.name}: {marker.data.window}");
    const FIELDS: &'static [StaticSchemaMarkerField] = &[StaticSchemaMarkerField {
        key: "window",
        label: "Window",
        format: MarkerFieldFormat::String,
        flags: MarkerFieldFlags::SEARCHABLE,
    }];

    fn name(&self, _: &mut Profile) -> StringHandle {
        self.name
    }

    fn category(&self, _: &mut Profile) -> CategoryHandle {
        CategoryHandle::OTHER
    }

    fn string_field_value(&self, _: u32) -> StringHandle {
        self.window
    }

    fn number_field_value(&self, _: u32) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::recording::{RawStack, Sample, Stacks};

    #[test]
    fn processes_threads_samples_and_phases_are_there() {
        let mut stacks = Stacks::default();
        let stack = stacks.number(RawStack { addresses: [0x10, 0x20].into(), is_truncated: false });
        let sample = |time_us| Sample { time_us, thread: 8, stack };
        let recording = Recording {
            process: "consumer-0".into(),
            pid: 7,
            samples: vec![sample(3_000_000), sample(2_000_000)],
            stacks,
            threads: [(8, "receiver".to_owned())].into(),
            ..Recording::default()
        };
        let mut timeline = Timeline::new("a run", 1_000_000, 100);
        timeline.add(&recording, &mut Symbols::default());
        timeline.mark(&Title {
            phase: "steady".into(),
            window: "drain".into(),
            start_us: 1_500_000,
            length_us: 500_000,
        });
        let mut text = String::new();
        let written = timeline.write().unwrap();
        flate2::read::GzDecoder::new(&written[..]).read_to_string(&mut text).unwrap();
        let file: serde_json::Value = serde_json::from_str(&text).unwrap();
        let thread = &file["threads"][0];
        assert_eq!(
            (&thread["name"], &thread["processName"]),
            (&"receiver".into(), &"consumer-0".into())
        );
        assert_eq!(thread["samples"]["length"], 2);
        let marker = &thread["markers"]["data"][0];
        assert_eq!(marker["type"], "phase");
        assert_eq!(thread["markers"]["startTime"][0], 500.0);
        assert_eq!(timeline.left_out(), 0);
    }
}
