//! Who holds memory: what jemalloc's profiler dumps, and what of it grew.
//!
//! ```text
//! dump (text) ─► Dump ─► Heap (by symbols) ─► profile, figures
//! ```
//!
//! A dump is of a moment. What was allocated is sampled as a Poisson process over bytes: of an
//! allocation of `s` bytes, with `R` bytes between two samples on average, the chance is `1 - exp(-s/R)`.
//! So each stack's counts are multiplied by `1 / (1 - exp(-s/R))` with its mean size `s`, which is
//! what jeprof does, and what jemalloc prepares them for by `opt.prof_unbias`.
//!
//! Source: jemalloc(3), "HEAP PROFILE FORMAT"; jemalloc's `bin/jeprof`, `AdjustSamples`, and
//! `src/prof_data.c`, `prof_do_unbias`.

use std::collections::BTreeMap;
use std::sync::Arc;

use procfs::FromBufRead;
use procfs::process::MemoryMaps;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::formats::folded::is_ours;
use crate::modules::runnable;
use crate::profile::{Measure, Profile, Quality, Stack};
use crate::recording::{Mapping, Recording};
use crate::symbols::{Location, Symbols};

/// How many standard errors a function's memory must have grown by to be named: by chance one of 700
/// has.
const STANDARD_ERRORS: f64 = 3.0;

/// A growth that is smaller is of no interest, however sure it is, in bytes.
const SMALLEST_GROWTH_BYTES: f64 = 262_144.0;

/// Functions that are listed.
const MOST_LISTED: usize = 10;

/// What a profiler sampled of a heap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Allocated bytes between two samples, on average.
    pub interval_bytes: u64,
    /// By stack, as it was sampled.
    pub sampled: Vec<Sampled>,
    /// What the process had mapped to run it.
    pub mappings: Vec<Mapping>,
}

/// What was sampled of a stack's allocations and is held still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Where each call of the stack returns to, innermost first.
    pub returns: Vec<u64>,
    /// Pieces of memory.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Text that is no dump of a heap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of a heap's dump is not {wanted}")]
pub struct DumpError {
    /// The line's number, from 1.
    pub line: usize,
    /// What should stand there.
    pub wanted: &'static str,
}

/// What leads the mappings.
const MAPPED: &str = "\nMAPPED_LIBRARIES:\n";

impl Dump {
    /// Reads a dump: jemalloc's `heap_v2`.
    ///
    /// # Errors
    ///
    /// The text is something else.
    pub fn parse(text: &str) -> Result<Self, DumpError> {
        let (stacks, maps) = text.split_once(MAPPED).unwrap_or((text, ""));
        let mut lines = stacks.lines().enumerate();
        let head = lines.next().and_then(|(_, line)| line.strip_prefix("heap_v2/"));
        let interval_bytes = head.and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes > 0);
        let interval_bytes =
            interval_bytes.ok_or(DumpError { line: 1, wanted: "heap_v2/BYTES" })?;
        let mut sampled: Vec<Sampled> = Vec::new();
        for (n, line) in lines {
            let failed = |wanted| DumpError { line: n + 1, wanted };
            if let Some(returns) = line.strip_prefix('@') {
                let returns = addresses(returns).ok_or_else(|| failed("a stack"))?;
                sampled.push(Sampled { returns, ..Sampled::default() });
            } else if let Some(counts) = line.strip_prefix("  t*: ") {
                let (objects, bytes) = counted(counts).ok_or_else(|| failed("a stack's counts"))?;
                // Before the first stack it is the sum of all.
                if let Some(last) = sampled.last_mut() {
                    (last.objects, last.bytes) = (objects, bytes);
                }
            } else if !line.starts_with("  t") {
                return Err(failed("of one"));
            }
        }
        sampled.retain(|stack| stack.bytes > 0);
        let failed = || DumpError { line: stacks.lines().count() + 3, wanted: "a mapping" };
        let maps = MemoryMaps::from_buf_read(maps.as_bytes()).map_err(|_| failed())?;
        Ok(Self { interval_bytes, sampled, mappings: runnable(maps).collect() })
    }
}

/// ` 0x55d0 0x55e0 …`
fn addresses(text: &str) -> Option<Vec<u64>> {
    let address = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    text.split_ascii_whitespace().map(address).collect()
}

/// Objects and bytes that are held: `3: 786432 [0: 0]`. Within brackets stands what was allocated in all,
/// which is not counted unless it is asked for.
fn counted(text: &str) -> Option<(u64, u64)> {
    let (held, _) = text.split_once(" [")?;
    let (objects, bytes) = held.split_once(": ")?;
    Some((objects.parse().ok()?, bytes.parse().ok()?))
}

/// How much memory samples stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Pieces of memory.
    pub objects: f64,
    /// Their bytes.
    pub bytes: f64,
    /// Variance of `bytes`, by the chance of sampling alone.
    variance: f64,
    /// Samples.
    samples: u64,
}

impl Estimate {
    fn of(sampled: &Sampled, interval_bytes: u64) -> Self {
        let (objects, bytes) = (sampled.objects.max(1) as f64, sampled.bytes as f64);
        let size = bytes / objects;
        let chance = -(-size / interval_bytes as f64).exp_m1();
        if chance <= 0.0 {
            return Self::default();
        }
        Self {
            objects: objects / chance,
            bytes: bytes / chance,
            // Each sample stands for size / chance bytes (Horvitz and Thompson).
            variance: objects * size * size * (1.0 - chance) / (chance * chance),
            samples: sampled.objects.max(1),
        }
    }

    fn add(&mut self, other: &Self) {
        let Self { objects, bytes, variance, samples } = other;
        self.objects += objects;
        self.bytes += bytes;
        self.variance += variance;
        self.samples += samples;
    }

    /// How far `bytes` may be off, up or down, by chance and with 95 % certainty.
    fn margin_bytes(&self) -> f64 {
        1.96 * self.variance.sqrt()
    }
}

/// A heap at a moment, with its functions' names.
#[derive(Clone, Debug, Default)]
pub struct Heap {
    interval_bytes: u64,
    stacks: BTreeMap<Vec<Arc<Location>>, Estimate>,
}

impl Heap {
    /// A dumped heap. What the allocator itself does is left out of the stacks.
    #[must_use]
    pub fn of(dump: &Dump, symbols: &mut Symbols) -> Self {
        let recording = Recording { mappings: dump.mappings.clone(), ..Recording::default() };
        let mut stacks: BTreeMap<_, Estimate> = BTreeMap::new();
        for sampled in &dump.sampled {
            // Within the call, not where it returns to.
            let calls: Vec<u64> = sampled.returns.iter().map(|at| at.saturating_sub(1)).collect();
            let stack = without_allocator(symbols.stack(&recording, &calls));
            let estimate = Estimate::of(sampled, dump.interval_bytes);
            stacks.entry(stack).or_default().add(&estimate);
        }
        Self { interval_bytes: dump.interval_bytes, stacks }
    }

    /// By the function that holds it ([`holder`]).
    fn holders(&self) -> BTreeMap<&str, Estimate> {
        let mut holders: BTreeMap<&str, Estimate> = BTreeMap::new();
        for (stack, estimate) in &self.stacks {
            holders.entry(holder(stack)).or_default().add(estimate);
        }
        holders
    }

    /// The functions that hold most, the largest first.
    #[must_use]
    pub fn largest(&self) -> Vec<Holder> {
        let mut holders: Vec<_> = self.holders().into_iter().collect();
        holders.sort_by(|(_, a), (_, b)| b.bytes.total_cmp(&a.bytes));
        let holder = |(function, held): &(&str, Estimate)| Holder {
            function: (*function).into(),
            bytes: whole(held.bytes),
            margin_bytes: whole(held.margin_bytes()),
            objects: whole(held.objects),
        };
        holders.iter().take(MOST_LISTED).map(holder).collect()
    }

    /// What is held, as formats write it.
    #[must_use]
    pub fn profile(&self, process: &str) -> Profile {
        let stacks = self.stacks.iter().map(|(stack, held)| (stack, *held));
        self.as_profile(process, Measure::Heap, stacks)
    }

    fn as_profile<'a>(
        &self,
        process: &str,
        measure: Measure,
        stacks: impl Iterator<Item = (&'a Vec<Arc<Location>>, Estimate)>,
    ) -> Profile {
        let mut profile = Profile {
            process: process.into(),
            measure,
            period: self.interval_bytes,
            ..Profile::default()
        };
        for (stack, held) in stacks {
            let value = whole(held.bytes);
            profile.total += value;
            profile.quality =
                profile.quality.and(Quality { samples: held.samples, ..Quality::default() });
            profile.stacks.push(Stack {
                thread: String::new(),
                locations: stack.clone(),
                samples: whole(held.objects),
                value,
            });
        }
        profile
    }

    /// What grew from `before` until now: by function, and as formats write it. Functions whose growth is
    /// small, or may be chance, are in neither.
    #[must_use]
    pub fn growth(&self, before: &Self, process: &str) -> (Vec<Grown>, Profile) {
        let (were, are) = (before.holders(), self.holders());
        let grown = are.iter().filter_map(|(function, is)| {
            let was = were.get(function).copied().unwrap_or_default();
            let (by, error) = (is.bytes - was.bytes, (is.variance + was.variance).sqrt());
            let is_significant = by >= SMALLEST_GROWTH_BYTES && by > STANDARD_ERRORS * error;
            is_significant.then(|| Grown {
                function: (*function).into(),
                before_bytes: whole(was.bytes),
                after_bytes: whole(is.bytes),
                margin_bytes: whole(1.96 * error),
            })
        });
        let mut grown: Vec<Grown> = grown.collect();
        grown.sort_by_key(|it| std::cmp::Reverse(it.bytes()));
        let is_named =
            |stack: &[Arc<Location>]| grown.iter().any(|it| it.function == holder(stack));
        let more =
            self.stacks.iter().filter(|(stack, _)| is_named(stack)).filter_map(|(stack, is)| {
                let was = before.stacks.get(stack).copied().unwrap_or_default();
                let more = Estimate {
                    objects: (is.objects - was.objects).max(0.0),
                    bytes: is.bytes - was.bytes,
                    variance: is.variance + was.variance,
                    samples: is.samples.saturating_sub(was.samples),
                };
                (more.bytes > 0.0).then_some((stack, more))
            });
        let profile = self.as_profile(process, Measure::HeapGrowth, more);
        grown.truncate(MOST_LISTED);
        (grown, profile)
    }
}

fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// Memory that a function holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// The function of ours that asked for it, by whatever library; where there is none, who called the
    /// standard library.
    pub function: String,
    /// Bytes held.
    pub bytes: u64,
    /// How far they may be off, up or down, by the chance of sampling and with 95 % certainty.
    pub margin_bytes: u64,
    /// Pieces of memory.
    pub objects: u64,
}

/// A function's memory that grew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grown {
    /// As of [`Holder`].
    pub function: String,
    /// Bytes held before.
    pub before_bytes: u64,
    /// Bytes held after.
    pub after_bytes: u64,
    /// How far the growth may be off, up or down, by the chance of sampling and with 95 % certainty.
    pub margin_bytes: u64,
}

impl Grown {
    /// How much it grew, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.after_bytes.saturating_sub(self.before_bytes)
    }
}

/// What a process's heap held in a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeapFigures {
    /// The process.
    pub process: String,
    /// When that was: after the `drain`, or the last of the phase's windows that the process saw the end
    /// of: `measured`, `warmup`.
    pub after: String,
    /// Bytes held, by the samples.
    pub bytes: u64,
    /// The same by the allocator's own count, which is exact.
    pub allocated_bytes: u64,
    /// Samples of it.
    pub samples: u64,
    /// Allocated bytes between two samples, on average.
    pub interval_bytes: u64,
    /// The functions that hold most, the largest first.
    pub largest: Vec<Holder>,
    /// What grew in the measured window, for sure and by 256 KiB or more, the largest first; `null` where
    /// the window was not seen from its beginning.
    pub grown: Option<Vec<Grown>>,
    /// Its flamegraphs and profiles, by their places in the run's folder.
    pub files: Vec<String>,
}

/// Beginnings of names of what passes memory on from the allocator, without what leads and says nothing:
/// of jemalloc, its binding, and Rust's standard library.
const ALLOCATOR: &[&str] = &[
    "rjem_",
    "prof_",
    "je_",
    "imalloc",
    "irallocx",
    "do_rallocx",
    "rustc::",
    "rust_alloc",
    "rust_realloc",
    "rust_alloc_zeroed",
    "tikv_jemallocator",
];

/// Beginnings of names of what allocates for whoever calls it.
const STANDARD: &[&str] =
    &["alloc::", "core::", "std::", "hashbrown::", "bytes::", "smallvec::", "indexmap::"];

fn begins_with(function: &str, known: &[&str]) -> bool {
    let path = function.trim_start_matches(['<', '&', '_']);
    known.iter().any(|prefix| path.starts_with(prefix))
}

/// A stack from who called the allocator on.
fn without_allocator(stack: Vec<Arc<Location>>) -> Vec<Arc<Location>> {
    let is_allocator = |name: &str| begins_with(name, ALLOCATOR);
    let has_allocator =
        |place: &Arc<Location>| place.functions.iter().any(|it| is_allocator(&it.name));
    let Some(last) = stack.iter().rposition(has_allocator) else { return stack };
    let place = &stack[last];
    let inner =
        place.functions.iter().rposition(|it| is_allocator(&it.name)).map_or(0, |at| at + 1);
    let functions = place.functions[inner..].to_vec();
    let outer =
        (!functions.is_empty()).then(|| Arc::new(Location { functions, ..Location::clone(place) }));
    outer.into_iter().chain(stack[last + 1..].iter().cloned()).collect()
}

/// The function that a stack's memory is told by.
fn holder(stack: &[Arc<Location>]) -> &str {
    let names = || stack.iter().flat_map(|place| &place.functions).map(|it| &*it.name);
    let ours = names().find(|name| is_ours(name));
    let other = || names().find(|name| !begins_with(name, STANDARD));
    ours.or_else(other).or_else(|| names().next()).unwrap_or("[unknown]")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::symbols::Function;

    const DUMP: &str = "heap_v2/65536
  t*: 12: 1048800 [0: 0]
  t0: 4: 1048576 [0: 0]
  t1: 8: 224 [0: 0] receiver
@ 0x55d000001010 0x55d000001020
  t*: 4: 1048576 [0: 0]
  t0: 4: 1048576 [0: 0]
@ 0x55d000001030
  t*: 8: 224 [0: 0]
  t1: 8: 224 [0: 0]
@ 0x55d000001040
  t*: 0: 0 [0: 0]

MAPPED_LIBRARIES:
55d000000000-55d000001000 r--p 00000000 00:20 7 /bin/walbench
55d000001000-55d000002000 r-xp 00001000 00:20 7 /bin/walbench (deleted)
7ffd5d9e1000-7ffd5d9e3000 r-xp 00000000 00:00 0                          [vdso]
7ffd5d9e5000-7ffd5d9e7000 rw-p 00000000 00:00 0\x20
";

    #[test]
    fn a_dump_is_read() {
        let dump = Dump::parse(DUMP).unwrap();
        assert_eq!(dump.interval_bytes, 65_536);
        let sampled =
            |returns: &[u64], objects, bytes| Sampled { returns: returns.to_vec(), objects, bytes };
        let wanted = [
            sampled(&[0x55d0_0000_1010, 0x55d0_0000_1020], 4, 1_048_576),
            sampled(&[0x55d0_0000_1030], 8, 224),
        ];
        assert_eq!(dump.sampled, wanted);
        let [executable, vdso] = &dump.mappings[..] else { panic!("{:?}", dump.mappings) };
        assert_eq!((executable.start, executable.offset), (0x55d0_0000_1000, 0x1000));
        assert_eq!(executable.path.to_str(), Some("/bin/walbench (deleted)"));
        assert_eq!(vdso.path.to_str(), Some("[vdso]"));
    }

    #[test]
    fn what_is_no_dump_is_refused_by_its_line() {
        let line = |text: &str| Dump::parse(text).unwrap_err().line;
        assert_eq!(line(""), 1);
        assert_eq!(line("heap profile: 1: 2 [1: 2] @ heapprofile"), 1);
        assert_eq!(line("heap_v2/0\n"), 1, "nothing is sampled so");
        assert_eq!(line("heap_v2/1\n  t*: 1: 1 [0: 0]\n@ 0x1 2\n"), 3);
        assert_eq!(line("heap_v2/1\n@ 0x1\n  t*: 1: -1 [0: 0]\n"), 3);
        assert_eq!(line("heap_v2/1\n@ 0x1\nand so on\n"), 3);
        assert_eq!(line(&DUMP.replace("55d000000000-", "")), 15);
    }

    fn estimate(objects: u64, bytes: u64) -> Estimate {
        Estimate::of(&Sampled { returns: Vec::new(), objects, bytes }, 524_288)
    }

    /// As jeprof scales them.
    #[test]
    fn samples_stand_for_what_was_not_sampled() {
        let small = estimate(2, 2_048);
        let factor = 1.0 / (1.0 - (-1_024.0_f64 / 524_288.0).exp());
        assert!((small.bytes / (2_048.0 * factor) - 1.0).abs() < 1e-9, "{small:?}");
        assert!((small.objects / (2.0 * factor) - 1.0).abs() < 1e-9, "{small:?}");
        // One sample says little of how much there is.
        assert!(small.margin_bytes() > small.bytes);
        // What is large is sampled for sure.
        let large = estimate(1, 64 << 20);
        assert!((large.bytes - f64::from(64 << 20)).abs() < 1.0 && large.margin_bytes() < 1.0);
        assert_eq!(estimate(3, 0).bytes, 0.0);
    }

    fn place(address: u64, names: &[&str]) -> Arc<Location> {
        let function = |name: &&str| Function { name: (*name).into(), source: None };
        let functions = names.iter().map(function).collect();
        Arc::new(Location { functions, module: "walbench".into(), address, is_known: true })
    }

    #[test]
    fn what_the_allocator_does_itself_is_left_out() {
        let stack = vec![
            place(1, &["prof_backtrace_impl"]),
            place(2, &["_rjem_je_prof_tctx_create"]),
            place(3, &["alloc::alloc::alloc", "__rustc::__rust_alloc"]),
            place(4, &["_rjem_malloc", "__rust_alloc", "alloc::raw_vec::grow", "walbench_a::b"]),
            place(5, &["walbench_a::main"]),
        ];
        let rest = without_allocator(stack.clone());
        let names: Vec<_> = rest.iter().map(|it| it.functions.len()).collect();
        assert_eq!((names, rest[0].address), (vec![2, 1], 4));
        assert_eq!(holder(&rest), "walbench_a::b");
        // Nothing but the allocator.
        assert_eq!(without_allocator(stack[..3].to_vec()), []);
        assert_eq!(holder(&[]), "[unknown]");
        let foreign = [
            place(6, &["<alloc::vec::Vec<T> as core::clone::Clone>::clone"]),
            place(7, &["hyper::x"]),
        ];
        assert_eq!(holder(&foreign), "hyper::x");
    }

    fn heap(held: &[(&str, u64, u64)]) -> Heap {
        let stack = |(at, (name, objects, bytes)): (u64, &(&str, u64, u64))| {
            (vec![place(at, &[*name]), place(99, &["main"])], estimate(*objects, *bytes))
        };
        Heap { interval_bytes: 524_288, stacks: (0..).zip(held).map(stack).collect() }
    }

    #[test]
    fn what_grew_for_sure_is_named() {
        let before = heap(&[("walbench_a::stays", 1, 8 << 20), ("walbench_a::leaks", 1, 1 << 20)]);
        let after = heap(&[
            ("walbench_a::stays", 1, 8 << 20),
            ("walbench_a::leaks", 5, 5 << 20),
            // One sample, which stands for 512 KiB, or for nothing.
            ("walbench_a::chance", 1, 64),
            ("walbench_a::little", 1, 100_000),
        ]);
        let (grown, profile) = after.growth(&before, "consumer-0");
        let [leak] = &grown[..] else { panic!("{grown:?}") };
        assert_eq!(leak.function, "walbench_a::leaks");
        assert!((4 << 20..5 << 20).contains(&leak.bytes()), "{leak:?}");
        assert!(profile.stacks.len() == 1 && profile.total.abs_diff(leak.bytes()) <= 1);
        assert_eq!(after.growth(&after, "consumer-0").0, []);
        let (none, empty) = before.growth(&after, "consumer-0");
        assert!(none.is_empty() && empty.stacks.is_empty());
        assert_eq!(after.largest()[0].function, "walbench_a::stays");
        let held = after.profile("consumer-0");
        assert_eq!(held.total, held.stacks.iter().map(|stack| stack.value).sum::<u64>());
        assert_eq!(held.quality.samples, 8);
    }

    fn dump() -> impl Strategy<Value = Dump> {
        let stack = (prop::collection::vec(any::<u64>(), 0..6), 0..1_000_u64, 1..u64::MAX);
        let stack = stack.prop_map(|(returns, objects, bytes)| Sampled { returns, objects, bytes });
        (1..u64::MAX, prop::collection::vec(stack, 0..6)).prop_map(|(interval_bytes, sampled)| {
            Dump { interval_bytes, sampled, mappings: Vec::new() }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(dump in dump()) {
            let mut text = format!("heap_v2/{}\n  t*: 0: 0 [0: 0]\n", dump.interval_bytes);
            for Sampled { returns, objects, bytes } in &dump.sampled {
                let returns: String = returns.iter().map(|at| format!(" {at:#x}")).collect();
                text += &format!("@{returns}\n  t*: {objects}: {bytes} [0: 0]\n");
            }
            prop_assert_eq!(Dump::parse(&(text + MAPPED)), Ok(dump));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", lines in "[@ tx*:0-9a-f\\[\\]/\n-]*") {
            let _ = Dump::parse(&text);
            let _ = Dump::parse(&format!("heap_v2/1\n{lines}"));
            let _ = Dump::parse(&format!("heap_v2/1\n{MAPPED}{lines}"));
        }

        #[test]
        fn more_is_held_than_was_sampled(objects in 1..1_000_u64, size in 1..1_u64 << 30) {
            let held = estimate(objects, objects * size);
            prop_assert!(held.bytes >= (objects * size) as f64 && held.objects >= objects as f64);
            prop_assert!(held.variance >= 0.0 && held.bytes.is_finite());
        }
    }
}
