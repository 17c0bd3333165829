//! A cause for the doctor to find. Only what `cargo test` builds has it (feature `planted`), and
//! does nothing of it either unless the environment says so: `WALBENCH_PLANTED=busy_producer:5000`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

const VARIABLE: &str = "WALBENCH_PLANTED";

/// A transaction is to be sent: it costs so many µs of CPU before.
pub(crate) fn before_sending() {
    static BUSY: OnceLock<Option<Duration>> = OnceLock::new();
    let busy = BUSY.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let us = text.strip_prefix("busy_producer:")?;
        Some(Duration::from_micros(us.parse().expect("a number")))
    });
    if let Some(busy) = busy {
        let start = Instant::now();
        while start.elapsed() < *busy {
            std::hint::black_box(start);
        }
    }
}
