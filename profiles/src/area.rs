//! What kind of work a function does, by its name: the areas of code that CPU time is told by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::formats::folded::is_ours;
use crate::profile::{Profile, Stack};
use crate::symbols::{KERNEL, Location};

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Taking bytes from PostgreSQL; in a walsender, WAL from its files.
    Read,
    /// Understanding them: pgoutput and transactions; in a walsender, logical decoding.
    Decode,
    /// Making ClickHouse's rows of them; in a walsender, the output plugin.
    Encode,
    /// Compressing them.
    Compress,
    /// Sending them.
    Send,
    /// Measuring.
    Metrics,
    /// Waiting, waking and scheduling.
    Runtime,
    /// Getting and returning memory.
    Allocator,
    /// The kernel, where nothing says for whom.
    Kernel,
    /// Whatever has another name.
    Other,
}

impl Area {
    /// All of them, in the order of a row's way.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::Decode,
        Self::Encode,
        Self::Compress,
        Self::Send,
        Self::Metrics,
        Self::Runtime,
        Self::Allocator,
        Self::Kernel,
        Self::Other,
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Compress => "compress",
            Self::Send => "send",
            Self::Metrics => "metrics",
            Self::Runtime => "runtime",
            Self::Allocator => "allocator",
            Self::Kernel => "kernel",
            Self::Other => "other",
        }
    }

    /// What a function does, if its name says it; else it works for whoever calls it.
    #[must_use]
    pub fn of(function: &str) -> Option<Self> {
        let path = function.trim_start_matches(['<', '&', '_']);
        let known = AREAS.iter().find(|(prefix, _)| path.starts_with(prefix));
        known.map(|(_, area)| *area)
    }

    /// What a stack does: what its innermost place does that says so.
    #[must_use]
    pub fn of_stack(stack: &Stack) -> Self {
        let mut in_the_process =
            stack.locations.iter().filter(|place| place.module != KERNEL).peekable();
        if in_the_process.peek().is_none() {
            return Self::Kernel;
        }
        in_the_process.find_map(|place| Self::of_place(place)).unwrap_or(Self::Other)
    }

    fn of_place(place: &Location) -> Option<Self> {
        let by_name = place.functions.iter().find_map(|function| {
            // What stands around our functions begins their threads and polls their tasks.
            Self::of(&function.name).or_else(|| is_ours(&function.name).then_some(Self::Other))
        });
        let is_all_of_one = |(module, _): &&(&str, Self)| *module == place.module;
        by_name.or_else(|| MODULES.iter().find(is_all_of_one).map(|(_, area)| *area))
    }
}

/// Files of which all is of one area, as their functions have no names in servers as they are packed.
const MODULES: &[(&str, Area)] = &[("pgoutput.so", Area::Encode)];

/// Beginnings of names, without what leads and says nothing; the first one that fits counts.
///
/// Names of what only passes work on (`core`, `alloc`, `tokio::net`, libc's calls into the kernel) are
/// not among them.
const AREAS: &[(&str, Area)] = &[
    ("walbench_consumer::replication", Area::Read),
    ("walbench_consumer::source", Area::Read),
    ("walbench_consumer::receiver", Area::Read),
    ("walbench_consumer::reconnect", Area::Read),
    ("walbench_consumer::pgoutput", Area::Decode),
    ("walbench_consumer::stream", Area::Decode),
    ("walbench_consumer::catalogue", Area::Decode),
    ("walbench_consumer::copy", Area::Decode),
    ("walbench_consumer::rowbinary", Area::Encode),
    ("walbench_consumer::sink::compress", Area::Compress),
    ("walbench_consumer::sink", Area::Send),
    ("walbench_consumer::clickhouse::convert", Area::Encode),
    ("walbench_consumer::clickhouse", Area::Send),
    ("walbench_consumer::flusher", Area::Send),
    ("walbench_consumer::recorder", Area::Metrics),
    ("walbench_consumer::delivery", Area::Metrics),
    ("walbench_consumer::serve", Area::Metrics),
    ("walbench_consumer::waker", Area::Runtime),
    ("walbench_consumer::pace", Area::Runtime),
    ("walbench_consumer::news", Area::Metrics),
    ("walbench_consumer::thread", Area::Runtime),
    ("walbench_producer::workload", Area::Encode),
    ("walbench_producer::write", Area::Send),
    ("walbench_producer::connection", Area::Send),
    ("walbench_metrics", Area::Metrics),
    ("hdrhistogram", Area::Metrics),
    ("serde_json", Area::Metrics),
    ("lz4_flex", Area::Compress),
    ("cityhash_rs", Area::Compress),
    ("clickhouse::", Area::Send),
    ("hyper", Area::Send),
    ("http", Area::Send),
    ("rustls", Area::Send),
    ("ring::", Area::Send),
    ("tokio_postgres", Area::Send),
    ("postgres_protocol", Area::Send),
    ("tokio::runtime", Area::Runtime),
    ("tokio::task", Area::Runtime),
    ("tokio::sync", Area::Runtime),
    ("tokio::time", Area::Runtime),
    ("tokio::util", Area::Runtime),
    ("tokio::loom", Area::Runtime),
    ("mio::poll", Area::Runtime),
    ("mio::sys", Area::Runtime),
    ("parking_lot", Area::Runtime),
    ("std::sync", Area::Runtime),
    ("std::thread", Area::Runtime),
    ("std::sys::sync", Area::Runtime),
    ("std::sys::thread", Area::Runtime),
    ("futures_", Area::Runtime),
    // Of Rust, of jemalloc, and of the C library. What leads with underscores was cut.
    ("rustc::", Area::Allocator),
    ("rust_alloc", Area::Allocator),
    ("rust_dealloc", Area::Allocator),
    ("rust_realloc", Area::Allocator),
    ("rdl_", Area::Allocator),
    ("tikv_jemallocator", Area::Allocator),
    ("rjem_", Area::Allocator),
    ("libc_malloc", Area::Allocator),
    ("libc_free", Area::Allocator),
    ("libc_realloc", Area::Allocator),
    ("libc_calloc", Area::Allocator),
    ("int_malloc", Area::Allocator),
    ("int_free", Area::Allocator),
    ("int_realloc", Area::Allocator),
    ("malloc", Area::Allocator),
    ("calloc", Area::Allocator),
    ("realloc", Area::Allocator),
    ("cfree", Area::Allocator),
    ("free", Area::Allocator),
    ("sysmalloc", Area::Allocator),
    ("systrim", Area::Allocator),
    ("tcache_", Area::Allocator),
    ("unlink_chunk", Area::Allocator),
    // Of PostgreSQL's walsender.
    ("XLogRead", Area::Read),
    ("WALRead", Area::Read),
    ("WALOpen", Area::Read),
    ("logical_read_xlog_page", Area::Read),
    ("DecodeXLogRecord", Area::Read),
    ("ReorderBuffer", Area::Decode),
    ("LogicalDecoding", Area::Decode),
    ("SnapBuild", Area::Decode),
    ("heap_decode", Area::Decode),
    ("heap2_decode", Area::Decode),
    ("xact_decode", Area::Decode),
    ("logicalmsg_decode", Area::Decode),
    ("pgoutput_", Area::Encode),
    ("logicalrep_", Area::Encode),
    ("OutputPluginPrepareWrite", Area::Encode),
    ("OutputFunctionCall", Area::Encode),
    ("OutputPluginWrite", Area::Send),
    ("WalSndWriteData", Area::Send),
    ("WalSndUpdateProgress", Area::Send),
    ("internal_flush", Area::Send),
    ("socket_", Area::Send),
    // Looking for the consumer's replies.
    ("secure_read", Area::Runtime),
    ("secure_", Area::Send),
    ("pq_", Area::Send),
    ("WaitEventSetWait", Area::Runtime),
    ("WaitLatch", Area::Runtime),
    ("WalSnd", Area::Runtime),
    ("AllocSet", Area::Allocator),
    ("palloc", Area::Allocator),
    ("pfree", Area::Allocator),
    ("repalloc", Area::Allocator),
    ("MemoryContext", Area::Allocator),
];

/// What an area took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaSamples {
    /// The area.
    pub area: Area,
    /// Its samples.
    pub samples: u64,
    /// Those of them that were taken in the kernel.
    pub in_kernel: u64,
}

/// A share that was found by counting samples, with the bounds that the true one is in with 95 %
/// certainty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// As counted.
    pub value: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

impl Share {
    /// A count of all samples: E. B. Wilson's interval (Probable Inference, the Law of Succession,
    /// and Statistical Inference, 1927), which holds for few samples too.
    #[must_use]
    pub fn of(count: u64, all: u64) -> Self {
        if all == 0 {
            return Self { value: 0.0, low: 0.0, high: 1.0 };
        }
        let (n, z) = (all as f64, 1.96_f64);
        let p = count as f64 / n;
        let center = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let reach = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let low = if count == 0 { 0.0 } else { (center - reach).max(0.0) };
        let high = if count == all { 1.0 } else { (center + reach).min(1.0) };
        Self { value: p, low, high }
    }
}

/// A profile's samples by area, in the order of a row's way: each sample in one of them.
#[must_use]
pub fn areas(profile: &Profile) -> Vec<AreaSamples> {
    let mut counts: BTreeMap<Area, AreaSamples> = BTreeMap::new();
    for stack in &profile.stacks {
        let area = Area::of_stack(stack);
        let none = AreaSamples { area, samples: 0, in_kernel: 0 };
        let counted = counts.entry(area).or_insert(none);
        let is_in_kernel = stack.locations.first().is_some_and(|place| place.module == KERNEL);
        counted.samples += stack.samples;
        counted.in_kernel += if is_in_kernel { stack.samples } else { 0 };
    }
    counts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::symbols::Function;

    fn stack(places: &[(&str, &str)]) -> Stack {
        let place = |(module, name): &(&str, &str)| {
            let functions = vec![Function { name: (*name).into(), source: None }];
            let module = (*module).to_owned();
            Arc::new(Location { functions, module, address: 1, is_known: true })
        };
        let locations = places.iter().map(place).collect();
        Stack { thread: "t".into(), locations, samples: 1, value: 1 }
    }

    #[test]
    fn the_innermost_function_that_says_so_decides() {
        let (own, libc) = ("walbench", "libc.so.6");
        for (places, area) in [
            (
                &[
                    (KERNEL, "tcp_recvmsg"),
                    (libc, "__libc_recv"),
                    (own, "<walbench_consumer::replication::Connection as core::ops::Drop>::drop"),
                    (own, "walbench_consumer::stream::machine::Machine::step"),
                ][..],
                Area::Read,
            ),
            (&[(libc, "__memmove_avx"), (own, "walbench_consumer::rowbinary::text")], Area::Encode),
            (
                &[(libc, "_int_malloc"), (libc, "malloc"), (own, "walbench_consumer::sink")],
                Area::Allocator,
            ),
            (&[(KERNEL, "asm_exc_page_fault"), (own, "lz4_flex::block::compress")], Area::Compress),
            (
                &[(own, "mio::net::tcp::write"), (own, "tokio::net::tcp"), (own, "hyper::h1")],
                Area::Send,
            ),
            (
                &[(own, "alloc::vec::Vec<walbench_consumer::rowbinary::X>::push"), (own, "a")],
                Area::Other,
            ),
            (
                &[(own, "walbench_consumer::verify::rows"), (own, "tokio::runtime::task")],
                Area::Other,
            ),
            (&[(libc, "epoll_wait"), (own, "tokio::runtime::task")], Area::Runtime),
            (&[(KERNEL, "schedule")], Area::Kernel),
            (&[("postgres", "ReorderBufferCommit"), ("postgres", "WalSndLoop")], Area::Decode),
            (
                &[
                    ("postgres", "OidSendFunctionCall"),
                    ("pgoutput.so", "pgoutput.so+0x5cb0"),
                    ("postgres", "xact_decode"),
                ],
                Area::Encode,
            ),
            (&[], Area::Kernel),
        ] {
            assert_eq!(Area::of_stack(&stack(places)), area, "{places:?}");
        }
    }

    #[test]
    fn areas_add_up_and_say_what_the_kernel_did() {
        let mut profile = crate::formats::testing::profile();
        let mut received =
            stack(&[(KERNEL, "tcp_recvmsg"), ("walbench", "walbench_consumer::receiver")]);
        received.samples = 10;
        profile.stacks.push(received);
        let areas = areas(&profile);
        let of = |area| areas.iter().find(|found| found.area == area).unwrap();
        assert_eq!((of(Area::Read).samples, of(Area::Read).in_kernel), (10, 10));
        assert_eq!((of(Area::Runtime).samples, of(Area::Runtime).in_kernel), (1, 0));
        assert_eq!(areas.iter().map(|found| found.samples).sum::<u64>(), 20);
        let share = Share::of(10, 20);
        assert!(share.low < 0.31 && share.value == 0.5 && share.high > 0.69, "{share:?}");
    }

    #[test]
    fn every_area_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Area::ALL.map(Area::name).into();
        assert_eq!(names.len(), Area::ALL.len());
        for (_, area) in AREAS {
            assert!(Area::ALL.contains(area));
        }
    }

    proptest! {
        #[test]
        fn bounds_are_around_the_share(all in 1_u64..100_000, part in 0.0..=1.0_f64) {
            let share = Share::of((all as f64 * part) as u64, all);
            prop_assert!(0.0 <= share.low && share.low <= share.value, "{share:?}");
            prop_assert!(share.value <= share.high && share.high <= 1.0, "{share:?}");
        }
    }
}
