//! What a seed decides before anything happens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use walbench_metrics::Failure;
use walbench_phases::plan::{Arrays, OutOfRange};

use super::database::Habits;
use super::draw::Draw;
use super::message::RUN;
use super::server::Options;
use crate::pgoutput::Relation;
use crate::rowbinary::{Policy, TableFacts};
use crate::stream::{Bounds, Describe, Settings, Writing};

/// How a simulation is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub bounds: Bounds,
    pub max_in_flight_bytes: u64,
    pub flush_concurrency: usize,
    pub flush_patience: Duration,
    /// Of the machine's waits.
    pub seed: u64,
    pub spool_memory_bytes: u64,
    pub habits: Habits,
    pub options: Options,
    /// So many consumers do not ask for two-phase commit, those after them do.
    pub two_phase_from: u32,
    /// Of jobs that end, so many fail; percent.
    pub failures: u64,
    /// A cycle ends at the n-th time that its boundary is reached, n up to this.
    pub patience: u64,
    /// Once in so many cycles the sink fails for good; 0: never.
    pub sink_dies_one_in: u64,
    /// Once in so many cycles the catalogue can't be asked; 0: never.
    pub outage_one_in: u64,
}

impl Plan {
    pub(super) fn new(draw: &mut Draw) -> Self {
        Self {
            bounds: Bounds {
                rows: draw.pick(&[1, 2, 3, 5, 8, 1_000]),
                bytes: draw.pick(&[1, 60, 200, 1_000, 100_000]),
                age: Duration::from_millis(draw.between(1, 500)),
            },
            max_in_flight_bytes: draw.pick(&[1, 60, 150, 400, 2_000, 1_000_000]),
            flush_concurrency: draw.between(1, 4) as usize,
            flush_patience: Duration::from_millis(draw.pick(&[0, 60, 200, 500])),
            seed: draw.below(u64::MAX),
            // Files are slow: few have any.
            spool_memory_bytes: if draw.one_in(60) { 100 } else { 1 << 20 },
            habits: Self::habits(draw),
            options: Options {
                streams_one_in: draw.pick(&[0, 0, 2, 5, 15]),
                parallel: draw.chance(50),
                two_phase: false,
                sends_empty: draw.chance(30),
            },
            two_phase_from: draw.pick(&[0, 0, 3, 20, u32::MAX]),
            failures: draw.pick(&[0, 5, 20, 50]),
            patience: draw.pick(&[1, 3, 10, 30]),
            sink_dies_one_in: draw.pick(&[0, 0, 0, 15]),
            outage_one_in: draw.pick(&[0, 3, 10]),
        }
    }

    fn habits(draw: &mut Draw) -> Habits {
        Habits {
            truncate: draw.pick(&[0, 1, 5, 20]),
            add_column: draw.pick(&[0, 1, 4]),
            subtransaction: draw.pick(&[0, 5, 20]),
            prepare: draw.pick(&[0, 20, 60]),
            abort: draw.pick(&[5, 30]),
            changes: draw.pick(&[1, 3, 6, 12]),
        }
    }

    /// A machine's settings; everything before `confirmed_lsn` is durable.
    pub(super) fn settings(&self, confirmed_lsn: u64) -> Settings {
        Settings {
            confirmed_lsn,
            silence_limit: None,
            bounds: self.bounds,
            max_in_flight_bytes: self.max_in_flight_bytes,
            flush_concurrency: self.flush_concurrency,
            flush_patience: self.flush_patience,
            seed: self.seed,
            spool_memory_bytes: self.spool_memory_bytes,
            spool_dir: None,
            writing: writing(),
        }
    }
}

/// How rows are written.
pub(in crate::stream) fn writing() -> Writing {
    let policy = Policy { out_of_range: OutOfRange::Refuse, arrays: Arrays::Array };
    Writing { run: RUN, server_correction_us: 0, encode: true, policy }
}

/// A catalogue that knows nothing beyond what the stream says.
pub(super) struct Unknown;

impl Describe for Unknown {
    fn learn(&mut self, _relation: &Relation<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn facts(&self, _relation: u32) -> Option<&TableFacts> {
        None
    }
}

/// The same, which can't be asked at times; shared by whoever decides when.
#[derive(Clone, Debug, Default)]
pub(super) struct Failing(Arc<Mutex<Outage>>);

#[derive(Debug, Default)]
struct Outage {
    /// So many descriptions are looked up before one is not.
    left: Option<u64>,
    /// One was not.
    was_asked: bool,
}

impl Failing {
    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Can't be asked once, after so many descriptions; `None`: can be asked always.
    pub(super) fn fail_after(&self, left: Option<u64>) {
        self.outage().left = left;
    }

    /// Whether it was asked in vain since the last time.
    pub(super) fn take_unanswered(&self) -> bool {
        std::mem::take(&mut self.outage().was_asked)
    }
}

impl Describe for Failing {
    fn learn(&mut self, _relation: &Relation<'_>) -> Result<(), Failure> {
        let mut outage = self.outage();
        match outage.left {
            Some(0) => {
                *outage = Outage { left: None, was_asked: true };
                return Err(Failure::new("simulated"));
            }
            Some(left) => outage.left = Some(left - 1),
            None => {}
        }
        Ok(())
    }

    fn facts(&self, _relation: u32) -> Option<&TableFacts> {
        None
    }
}
