//! pprof's format: `go tool pprof -http : FILE` and whatever else reads it.
//!
//! Source: github.com/google/pprof, `proto/profile.proto`.

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::Title;
use crate::profile::{Measure, Profile, Stack};
use crate::symbols::Location;

/// The profile, compressed, with labels for phase, window, process and thread. A sample's values are
/// its count and its CPU time in ns, or pieces of memory and their bytes, called as Go's heap profiles
/// call them.
///
/// # Errors
///
/// None that memory would not have.
pub fn pprof(profile: &Profile, title: &Title) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&Writer::default().write(profile, title).encode_to_vec())?;
    gzip.finish()
}

/// `perftools.profiles.Profile`.
#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Place>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// `perftools.profiles.ValueType`: both are numbers of strings.
#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

/// `perftools.profiles.Sample`.
#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

/// `perftools.profiles.Label`: both are numbers of strings.
#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

/// `perftools.profiles.Mapping`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

/// `perftools.profiles.Location`.
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

/// `perftools.profiles.Line`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

/// `perftools.profiles.Function`: numbers of strings.
#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Numbers everything that is referred to by number.
#[derive(Default)]
struct Writer {
    file: File,
    strings: HashMap<String, i64>,
    mappings: HashMap<String, u64>,
    places: HashMap<(String, u64), u64>,
    functions: HashMap<(String, String), u64>,
}

impl Writer {
    fn write(mut self, profile: &Profile, title: &Title) -> File {
        // The first string is the empty one.
        self.string("");
        let (count, value, period) = match profile.measure {
            Measure::Cpu => ("samples", ("cpu", "nanoseconds"), "cpu"),
            Measure::Heap | Measure::HeapGrowth => {
                ("inuse_objects", ("inuse_space", "bytes"), "space")
            }
        };
        let count = ValueType { kind: self.string(count), unit: self.string("count") };
        let value = ValueType { kind: self.string(value.0), unit: self.string(value.1) };
        self.file.sample_type = vec![count, value];
        self.file.default_sample_type = value.kind;
        self.file.period_type = Some(ValueType { kind: self.string(period), ..value });
        self.file.period = whole(profile.period);
        self.file.time_nanos = title.start_us.saturating_mul(1_000);
        self.file.duration_nanos = title.length_us.saturating_mul(1_000);
        for stack in &profile.stacks {
            self.sample(profile, title, stack);
        }
        self.file
    }

    fn sample(&mut self, profile: &Profile, title: &Title, stack: &Stack) {
        let labels = [
            ("phase", &*title.phase),
            ("window", &title.window),
            ("process", &profile.process),
            ("thread", &stack.thread),
        ];
        let labels = labels.into_iter().filter(|(_, text)| !text.is_empty());
        let label =
            labels.map(|(key, text)| Label { key: self.string(key), text: self.string(text) });
        let label = label.collect();
        let location_id = stack.locations.iter().map(|place| self.place(place)).collect();
        let value = vec![whole(stack.samples), whole(stack.value)];
        self.file.sample.push(Sample { location_id, value, label });
    }

    fn place(&mut self, location: &Location) -> u64 {
        let key = (location.module.clone(), location.address);
        if let Some(id) = self.places.get(&key) {
            return *id;
        }
        let line = location.functions.iter().map(|function| {
            let (file, line) = function.source.as_ref().map_or(("", 0), |(f, l)| (f, *l));
            Line { function_id: self.function(&function.name, file), line: line.into() }
        });
        let line = line.collect();
        let mapping_id = self.mapping(&location.module);
        let id = self.places.len() as u64 + 1;
        self.places.insert(key, id);
        self.file.location.push(Place { id, mapping_id, address: location.address, line });
        id
    }

    fn mapping(&mut self, module: &str) -> u64 {
        if let Some(id) = self.mappings.get(module) {
            return *id;
        }
        let filename = self.string(module);
        let id = self.mappings.len() as u64 + 1;
        self.mappings.insert(module.into(), id);
        self.file.mapping.push(Mapping {
            id,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        });
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let key = (name.to_owned(), file.to_owned());
        if let Some(id) = self.functions.get(&key) {
            return *id;
        }
        let (name, filename) = (self.string(name), self.string(file));
        let id = self.functions.len() as u64 + 1;
        self.functions.insert(key, id);
        self.file.function.push(Function { id, name, system_name: name, filename });
        id
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = whole(self.file.string_table.len() as u64);
        self.file.string_table.push(text.into());
        self.strings.insert(text.into(), number);
        number
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use ::pprof::protos::{self, Message as _};

    use super::*;
    use crate::formats::testing;

    /// By the format's own schema, as another crate has it.
    #[test]
    fn what_is_written_is_read_back() {
        let title = Title {
            phase: "steady".into(),
            window: "measured".into(),
            start_us: 1_000_000,
            length_us: 2_000_000,
        };
        let written = pprof(&testing::profile(), &title).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&written[..]).read_to_end(&mut plain).unwrap();
        let file = protos::Profile::decode(&plain[..]).unwrap();
        let text = |number: i64| &*file.string_table[usize::try_from(number).unwrap()];
        let find = |id: u64| file.location.iter().find(|place| place.id == id).unwrap();
        let name = |line: &protos::Line| {
            let function = file.function.iter().find(|f| f.id == line.function_id).unwrap();
            text(function.name)
        };
        let stack = |sample: &protos::Sample| -> Vec<&str> {
            let places = sample.location_id.iter().map(|id| find(*id));
            places.flat_map(|place| place.line.iter().map(name)).collect()
        };
        assert_eq!(text(0), "");
        assert_eq!(file.sample.len(), 4);
        let copied = &file.sample[1];
        let wanted = ["[T; 4]::copy", "decode", "walbench_consumer::run", "clone3"];
        assert_eq!(stack(copied), wanted);
        assert_eq!(copied.value, [3, 300]);
        // Two functions at one address: one was inlined.
        assert_eq!((copied.location_id.len(), find(copied.location_id[0]).address), (3, 4));
        let labels: Vec<_> = copied.label.iter().map(|l| (text(l.key), text(l.str))).collect();
        let wanted = [("phase", "steady"), ("window", "measured")];
        assert_eq!(labels[..2], wanted);
        assert_eq!(labels[2..], [("process", "consumer-0"), ("thread", "receiver")]);
        let cpu: i64 = file.sample.iter().map(|sample| sample.value[1]).sum();
        assert_eq!((cpu, file.period), (1_000, 100));
        assert_eq!((file.time_nanos, file.duration_nanos), (1_000_000_000, 2_000_000_000));
        assert_eq!(text(file.default_sample_type), "cpu");
    }

    #[test]
    fn memory_is_called_as_in_gos_profiles() {
        let mut heap = Profile { measure: Measure::Heap, period: 65_536, ..testing::profile() };
        heap.stacks.iter_mut().for_each(|stack| stack.thread.clear());
        let file = Writer::default().write(&heap, &Title::default());
        let text = |number: i64| &*file.string_table[usize::try_from(number).unwrap()];
        let types: Vec<_> =
            file.sample_type.iter().map(|it| (text(it.kind), text(it.unit))).collect();
        assert_eq!(types, [("inuse_objects", "count"), ("inuse_space", "bytes")]);
        assert_eq!(text(file.default_sample_type), "inuse_space");
        let period = file.period_type.unwrap();
        assert_eq!((text(period.kind), text(period.unit), file.period), ("space", "bytes", 65_536));
        let keys: Vec<_> = file.sample[0].label.iter().map(|label| text(label.key)).collect();
        assert_eq!(keys, ["process"], "it is of no thread");
    }
}
