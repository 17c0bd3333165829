//! Causes for the doctor and the profiler to find. Only what `cargo test` builds has them (feature
//! `planted`), and does nothing of it either unless the environment says so:
//! `WALBENCH_PLANTED=hot_function:300`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

const VARIABLE: &str = "WALBENCH_PLANTED";

/// Time from one blocking poll to the next.
const BLOCKING_INTERVAL: Duration = Duration::from_millis(700);

/// Bytes of memory that are lost at once.
const LEAK_BYTES: usize = 256 * 1024;

/// What is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// Each message of the stream costs so many µs of CPU more.
    HotFunction(u64),
    /// A task of the runtime does not come back for so many ms.
    BlockingPoll(u64),
    /// So many KiB/s are taken and never given back.
    Leak(u64),
    /// What is durable is never confirmed.
    NoConfirmation,
}

fn planted() -> Option<Planted> {
    static PLANTED: OnceLock<Option<Planted>> = OnceLock::new();
    *PLANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (cause, amount) = text.split_once(':').unwrap_or((&text, "0"));
        let amount = amount.parse().expect("a number");
        match cause {
            "hot_function" => Some(Planted::HotFunction(amount)),
            "blocking_poll" => Some(Planted::BlockingPoll(amount)),
            "leak" => Some(Planted::Leak(amount)),
            "no_confirmation" => Some(Planted::NoConfirmation),
            _ => None,
        }
    })
}

/// CPU time that the hot function used, in µs.
static BURNT_US: AtomicU64 = AtomicU64::new(0);

/// Begins what goes on beside the stream. On the runtime that it is to hold up.
pub(crate) fn begin() {
    match planted() {
        Some(Planted::BlockingPoll(ms)) => {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(BLOCKING_INTERVAL).await;
                    std::thread::sleep(Duration::from_millis(ms));
                }
            });
        }
        Some(Planted::Leak(kib_per_sec)) => {
            let each = LEAK_BYTES as u64 / 1024;
            let pause = Duration::from_secs_f64(each as f64 / kib_per_sec as f64);
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(pause);
                    leak();
                }
            });
        }
        _ => {}
    }
}

/// Bytes that were lost.
static LEAKED_BYTES: AtomicU64 = AtomicU64::new(0);

#[inline(never)]
fn leak() {
    // Written to, so that it is resident.
    std::hint::black_box(vec![1u8; LEAK_BYTES].leak());
    LEAKED_BYTES.fetch_add(LEAK_BYTES as u64, Ordering::Relaxed);
}

/// A message of the stream is handled.
pub(crate) fn at_message() {
    if let Some(Planted::HotFunction(us)) = planted() {
        hot_function(us);
    }
}

#[inline(never)]
fn hot_function(us: u64) {
    let cpu_us = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has it");
        Duration::from(time).as_micros() as u64
    };
    let start_us = cpu_us();
    let mut used_us = 0;
    let mut x = start_us | 1;
    while used_us < us {
        for _ in 0..2_000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7));
        }
        used_us = cpu_us() - start_us;
    }
    BURNT_US.fetch_add(used_us, Ordering::Relaxed);
}

/// The position that PostgreSQL is told for this one.
pub(crate) fn confirmed(flushed_lsn: u64) -> u64 {
    static FIRST: OnceLock<u64> = OnceLock::new();
    match planted() {
        Some(Planted::NoConfirmation) => *FIRST.get_or_init(|| flushed_lsn),
        _ => flushed_lsn,
    }
}

/// The stream has ended: what was really used and lost stands in the worker's log.
pub(crate) fn end() {
    match planted() {
        Some(Planted::HotFunction(_)) => {
            eprintln!("planted: hot_function used {} us", BURNT_US.load(Ordering::Relaxed));
        }
        Some(Planted::Leak(_)) => {
            eprintln!("planted: leak lost {} bytes", LEAKED_BYTES.load(Ordering::Relaxed));
        }
        _ => {}
    }
}
