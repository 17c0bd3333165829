//! Cases that are too large, or too rare, for what a seed decides.

use std::time::{Duration, Instant};

use super::database::{Row, Span};
use super::message;
use super::plan::{Unknown, writing};
use crate::stream::batch::Part;
use crate::stream::machine::ADVANCE_BYTES;
use crate::stream::{Bounds, Ended, Job, Machine, Segment, Settings, Work};

/// Batches are cut when asked for.
pub(in crate::stream) fn settings() -> Settings {
    Settings {
        confirmed_lsn: 0,
        silence_limit: None,
        bounds: Bounds { rows: u64::MAX, bytes: u64::MAX, age: Duration::from_secs(3_600) },
        max_in_flight_bytes: 20_000,
        flush_concurrency: usize::MAX / 2,
        flush_patience: Duration::from_secs(1),
        seed: 1,
        spool_memory_bytes: 1 << 20,
        spool_dir: None,
        writing: writing(),
    }
}

pub(in crate::stream) fn machine(settings: Settings) -> Machine {
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

/// Sends transactions of one row each, with stamps of their own, until no more are wanted; returns
/// how many they were.
fn fill(machine: &mut Machine) -> u64 {
    machine.copy_data(&message::relation(0, 2, None)).unwrap();
    let mut sequence = 0;
    while machine.wants_data() {
        let lsn = 100 * (sequence + 1);
        for body in [
            message::begin(lsn, lsn + 90, 7),
            message::insert(lsn, &row(sequence % 10), None),
            message::stamp(lsn, sequence, None),
            message::commit(Span { lsn: lsn + 90, end_lsn: lsn + 95 }),
        ] {
            machine.copy_data(&body).unwrap();
        }
        sequence += 1;
    }
    sequence
}

/// What a batch at the sink takes, without what its buffers have to spare.
fn bytes(job: &Job) -> usize {
    let Work::Write(batch) = &job.work else { panic!("{job:?}") };
    let parts = batch.parts.iter().map(|part| part.encoded.len() + size_of::<Part>());
    let segments = batch.segments.len() * size_of::<Segment>();
    size_of::<Job>() + parts.sum::<usize>() + segments
}

#[test]
fn small_transactions_behind_a_stuck_sink_are_bounded() {
    let limit_bytes = settings().max_in_flight_bytes;
    for rows in [u64::MAX, 10, 1] {
        let bounds = Bounds { rows, ..settings().bounds };
        let mut machine = machine(Settings { bounds, ..settings() });
        let transactions = fill(&mut machine);
        let room = limit_bytes - limit_bytes.min(machine.memory_bytes());
        assert_eq!(room, 0, "{rows} rows");
        machine.cut();
        let now = Instant::now();
        let jobs: Vec<_> = std::iter::from_fn(|| machine.start_flush(now)).collect();
        let held =
            jobs.iter().map(bytes).sum::<usize>() + transactions as usize * size_of::<Ended>();
        let accounted = machine.memory_bytes() as usize;
        // Beside each job is a note of whether it has ended, of a few words.
        assert!((held..held + 48 * jobs.len()).contains(&accounted), "{accounted} for {held}");
        assert!(
            accounted as u64 <= limit_bytes + 1_000,
            "{accounted} bytes in {} jobs",
            jobs.len()
        );
        for job in jobs {
            machine.flush_ended(job, Ok(()), now).unwrap();
        }
        assert_eq!((machine.memory_bytes(), machine.confirmed_lsn()), (0, 100 * transactions + 95));
    }
}
