//! Cases that are too large, or too rare, for what a seed decides.

use std::time::{Duration, Instant};

use super::database::{Row, Span};
use super::message;
use super::plan::{Unknown, writing};
use crate::stream::machine::ADVANCE_BYTES;
use crate::stream::{Bounds, Machine, Settings};

/// Batches are cut when asked for.
fn settings() -> Settings {
    Settings {
        confirmed_lsn: 0,
        silence_limit: None,
        bounds: Bounds { rows: u64::MAX, bytes: u64::MAX, age: Duration::MAX / 4 },
        max_in_flight_bytes: 20_000,
        flush_concurrency: usize::MAX / 2,
        max_attempts: 3,
        spool_memory_bytes: 1 << 20,
        spool_dir: None,
        writing: writing(),
    }
}

fn machine(settings: Settings) -> Machine {
    Machine::new(settings, Box::new(Unknown), Instant::now())
}

fn row(key: u64) -> Row {
    Row { table: 0, key, value: key, columns: 2 }
}

#[test]
fn what_was_rolled_back_is_skipped_in_steps() {
    let mut machine = machine(settings());
    let (xid, subxid, rows) = (7, 8, 1_000);
    let mut bytes = 0;
    let mut take = |body: Vec<u8>| {
        bytes += body.len() as u64;
        machine.copy_data(&body).unwrap();
    };
    take(message::stream_start(10, xid, true));
    take(message::relation(0, 2, Some(xid)));
    (0..rows).for_each(|key| take(message::insert(20 + key, &row(key), Some(subxid))));
    take(message::insert(5_000, &row(rows), Some(xid)));
    take(message::stream_stop(5_000));
    take(message::stream_abort(xid, subxid, 0, false));
    take(message::stream_commit(xid, Span { lsn: 6_000, end_lsn: 6_010 }));

    let mut steps = 0;
    while machine.wants_to_advance() {
        machine.advance().unwrap();
        steps += 1;
    }
    // One message may be in each beyond the bound.
    assert!(steps >= bytes / (2 * ADVANCE_BYTES), "{steps} steps for {bytes} bytes");
    assert_eq!((machine.open_rows(), machine.received_lsn()), (1, 6_010));
}
