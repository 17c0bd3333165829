//! What the connections of a producer share.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use walbench_metrics::message::PhaseStart;
use walbench_metrics::{Cuts, Failure, clock};
use walbench_phases::plan::Producer;
use walbench_phases::schedule::{Due, Schedule, Shape};

use crate::prepare::{Done, Prepare};
use crate::recorder::{Recorder, lock};
use crate::workload::Table;
use crate::workload::draw::{Draw, mix};
use crate::workload::share;
use crate::workload::written::Written;
use crate::write::attempt::Refusal;
use crate::write::batch::{Batch, Part};
use crate::write::session::Settings;

/// A run in which the first so many transactions all fail the same way can't work.
const HOPELESS_AFTER: u64 = 20;

/// What the connections of a producer share for the whole run.
pub(crate) struct Crew {
    /// What the orchestrator said.
    pub(crate) prepare: Prepare,
    /// How sessions are set up.
    pub(crate) settings: Settings,
    /// What is written to, in the plan's order.
    pub(crate) tables: Vec<Table>,
    rows: Vec<Mutex<TableRows>>,
    /// What happened since the last sample.
    pub(crate) recorder: Recorder,
    done: Mutex<Done>,
    streak: Mutex<Streak>,
    /// Nothing is worth waiting for any more.
    pub(crate) abandoned: AtomicBool,
}

/// Which rows of a table were handed out and which are there.
#[derive(Debug, Default)]
struct TableRows {
    next: u64,
    written: Written,
}

/// Whether anything ever worked, or how often the same error came instead.
#[derive(Debug)]
enum Streak {
    Failing { refusal: Option<Refusal>, count: u64 },
    Worked,
}

/// One phase as it runs.
pub(crate) struct Run {
    /// Which phase, and when it starts on the orchestrator's clock.
    pub(crate) at: PhaseStart,
    /// When it starts on ours.
    pub(crate) start: Instant,
    /// Length of the warm-up.
    warmup: Duration,
    /// How long late transactions are still sent after the end, in ns.
    catch_up_ns: AtomicU64,
    /// After how much lateness rows count as late.
    pub(crate) late_after: Duration,
    schedule: Mutex<Schedule>,
    /// Nothing that is due later is sent; ns since the start.
    end_ns: AtomicU64,
}

impl Crew {
    /// Nothing handed out and nothing written yet.
    #[must_use]
    pub(crate) fn new(prepare: Prepare, settings: Settings, tables: Vec<Table>) -> Self {
        let connections = prepare.plan.producer.connections as usize;
        Self {
            prepare,
            settings,
            rows: tables.iter().map(|_| Mutex::default()).collect(),
            tables,
            recorder: Recorder::new(connections),
            done: Mutex::default(),
            streak: Mutex::new(Streak::Failing { refusal: None, count: 0 }),
            abandoned: AtomicBool::new(false),
        }
    }

    /// The plan's section about producers.
    #[must_use]
    pub(crate) fn plan(&self) -> &Producer {
        &self.prepare.plan.producer
    }

    fn part(&self) -> Part {
        Part { index: self.prepare.index, processes: self.plan().processes.max(1) }
    }

    /// The number of a transaction within its phase and this producer, from 0 without gaps.
    #[must_use]
    pub(crate) fn own_sequence(&self, due: &Due) -> u64 {
        due.sequence / u64::from(self.part().processes)
    }

    /// Decides which rows the transaction writes and encodes them.
    pub(crate) fn fill(&self, phase: u32, due: &Due, batch: &mut Batch) {
        let plan = self.plan();
        let count = self.tables.len() as u64;
        batch.table = usize::try_from(due.sequence % count).unwrap_or_default();
        let table = &self.tables[batch.table];
        // How many transactions of ours this table had before: processes and tables take turns
        // independently, so the pattern repeats after the least common multiple of both.
        let number = due.sequence / least_common_multiple(self.part().processes.into(), count);
        let inserts = match table.can_update() {
            true => share::inserts(number, plan.batch_size, plan.insert_update_ratio),
            false => plan.batch_size,
        };
        let key = mix(mix(plan.seed, phase.into()), due.sequence);
        batch.rows.revision = (u64::from(phase) << 40) + due.sequence + 1;
        let updates = u64::from(plan.batch_size - inserts);
        let rows = &mut batch.rows;
        rows.inserts = self.choose(batch.table, inserts.into(), updates, key, &mut rows.updates);
        batch.encode(table, self.part(), plan.write_method);
    }

    /// Hands out rows to insert and chooses rows to update. While there are too few to update,
    /// inserts take their place.
    fn choose(
        &self,
        table: usize,
        inserts: u64,
        updates: u64,
        key: u64,
        chosen: &mut Vec<u64>,
    ) -> Range<u64> {
        let mut rows = lock(&self.rows[table]);
        rows.written.choose(updates, &mut Draw::new(key), chosen);
        let first = rows.next;
        rows.next += inserts + updates - chosen.len() as u64;
        first..rows.next
    }

    /// Notes a transaction that is in the database.
    pub(crate) fn committed(&self, phase: u32, due: &Due, batch: &Batch, row_versions: u64) {
        let inserts = &batch.rows.inserts;
        if self.tables[batch.table].can_update() {
            let mut rows = lock(&self.rows[batch.table]);
            rows.written.add(inserts.start, inserts.end - inserts.start);
        }
        let sequence = self.own_sequence(due);
        lock(&self.done).acknowledged.insert(phase, self.prepare.index, sequence, row_versions);
        let mut streak = lock(&self.streak);
        if !matches!(*streak, Streak::Worked) {
            *streak = Streak::Worked;
        }
    }

    /// Notes a transaction of which nobody can tell whether it is in the database.
    pub(crate) fn unknown(&self, phase: u32, due: &Due, row_versions: u64) {
        let sequence = self.own_sequence(due);
        lock(&self.done).unknown.insert(phase, self.prepare.index, sequence, row_versions);
    }

    /// Notes a transaction that was given up; a failure when it shows that the run can't work.
    pub(crate) fn failed(&self, batch: &Batch, refusal: &Refusal) -> Option<Failure> {
        let mut streak = lock(&self.streak);
        let Streak::Failing { refusal: last, count } = &mut *streak else { return None };
        if refusal.is_transient() || last.as_ref().is_some_and(|last| last.code != refusal.code) {
            *streak = Streak::Worked;
            return None;
        }
        *count += 1;
        *last = Some(refusal.clone());
        if *count != HOPELESS_AFTER {
            return None;
        }
        let table = self.tables[batch.table].shape.full_name();
        let Refusal { code, message, .. } = refusal;
        let failure = Failure::new(format!(
            "none of the first {HOPELESS_AFTER} transactions could be written, the last one to \
             table {table}"
        ))
        .because(Failure::new(format!("PostgreSQL says: {message} (SQLSTATE {code})")));
        Some(match refusal.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }

    /// What there is to say at the end.
    #[must_use]
    pub(crate) fn done(&self) -> Done {
        lock(&self.done).clone()
    }

    /// Begins a phase; `None` when the plan doesn't have it.
    #[must_use]
    pub(crate) fn run(&self, at: PhaseStart) -> Option<Arc<Run>> {
        let phase = self.prepare.plan.phases.get(at.phase as usize)?;
        let plan = self.plan();
        let shape = Shape::new(phase);
        let catch_up =
            Duration::from_secs_f64(self.prepare.plan.limits.catch_up_sec.clamp(0.0, 1e9));
        let Part { index, processes } = self.part();
        Some(Arc::new(Run {
            at,
            start: self.instant_of(at.start_us),
            warmup: shape.warmup(),
            catch_up_ns: AtomicU64::new(nanos(catch_up)),
            late_after: Duration::from_secs_f64(plan.late_after_ms.clamp(0.0, 1e9) / 1e3),
            end_ns: AtomicU64::new(nanos(shape.total())),
            schedule: Mutex::new(Schedule::new(
                shape,
                plan.arrivals,
                plan.batch_size,
                index,
                processes,
                plan.seed,
            )),
        }))
    }

    /// A moment of the orchestrator's clock on ours that never steps.
    fn instant_of(&self, orchestrator_us: i64) -> Instant {
        let (now, wall_us) = (Instant::now(), clock::wall_us());
        let ahead_us = orchestrator_us + self.prepare.clock_correction_us - wall_us;
        let distance = Duration::from_micros(ahead_us.unsigned_abs());
        let then =
            if ahead_us >= 0 { now.checked_add(distance) } else { now.checked_sub(distance) };
        then.unwrap_or(now)
    }
}

impl Run {
    /// Where samples are cut, in µs since the start.
    #[must_use]
    pub(crate) fn cuts(&self) -> Cuts {
        Cuts { start_us: 0, measured_us: micros(self.warmup), end_us: micros(self.end()) }
    }

    /// When the load ends, since the start.
    #[must_use]
    pub(crate) fn end(&self) -> Duration {
        Duration::from_nanos(self.end_ns.load(Ordering::Relaxed))
    }

    /// Ends the load now, if it hasn't ended yet.
    pub(crate) fn finish(&self) {
        self.end_ns.fetch_min(nanos(self.start.elapsed()), Ordering::Relaxed);
    }

    /// Ends the load now, and catches up with nothing.
    pub(crate) fn give_up(&self) {
        self.catch_up_ns.store(0, Ordering::Relaxed);
        self.finish();
    }

    /// After this, late transactions are not sent any more.
    #[must_use]
    pub(crate) fn deadline(&self) -> Instant {
        let catch_up = Duration::from_nanos(self.catch_up_ns.load(Ordering::Relaxed));
        let length = self.end().saturating_add(catch_up);
        self.start.checked_add(length).unwrap_or_else(|| self.start + Duration::from_secs(1 << 32))
    }

    /// The next transaction for whoever asks first; `None` when the load has ended.
    #[must_use]
    pub(crate) fn next(&self) -> Option<Due> {
        let due = lock(&self.schedule).next()?;
        (due.due <= self.end()).then_some(due)
    }

    /// When a transaction is due, in µs of the orchestrator's clock.
    #[must_use]
    pub(crate) fn due_us(&self, due: &Due) -> i64 {
        self.at.start_us.saturating_add(micros(due.due))
    }
}

/// Whole µs.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_repeat_after_the_least_common_multiple() {
        assert_eq!(least_common_multiple(4, 6), 12);
        assert_eq!(least_common_multiple(1, 3), 3);
        assert_eq!(least_common_multiple(2, 2), 2);
    }
}
