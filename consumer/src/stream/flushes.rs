//! Cut batches on their way to the sink: how many at once, in which order, how often again; and
//! how far that lets the slot be confirmed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::confirmations::{Confirmations, Ended, Mark};
use super::fault::{Fault, is_planted};
use crate::backoff::Backoff;
use crate::rowbinary::Table;

/// Longest wait before the second try of a flush; it doubles with each further one.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Something for the sink to do.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its place in the order of what was received.
    pub number: u64,
    /// Tries before this one.
    pub failures: u32,
    /// When the first of them had failed.
    pub failed_at: Option<Instant>,
    /// What.
    pub work: Work,
}

/// What a sink can be asked for.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write rows. Their versions say which of two for the same key is newer, so that writes may
    /// overtake each other.
    Write(Batch),
    /// Empty tables. What was received before must be there before it, and what came after must
    /// not be there yet.
    Truncate(Vec<Arc<Table>>),
}

impl Work {
    fn bytes(&self) -> u64 {
        match self {
            Self::Write(batch) => batch.bytes,
            Self::Truncate(_) => 0,
        }
    }

    /// Bytes that are kept beside its rows.
    fn overhead_bytes(&self) -> u64 {
        match self {
            Self::Write(batch) => batch.overhead_bytes(),
            Self::Truncate(tables) => (tables.len() * size_of::<Arc<Table>>()) as u64,
        }
    }

    fn stands_alone(&self) -> bool {
        matches!(self, Self::Truncate(_))
    }
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is durable.
    Acknowledged,
    /// It is not, and may be if tried again.
    Failed,
}

/// A job was tried for as long as it may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// Tries.
    pub attempts: u32,
    /// From the first failure to the last.
    pub after: Duration,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, after } = self;
        let plural = if *attempts == 1 { "try" } else { "tries" };
        let seconds = after.as_secs_f64();
        write!(f, "a batch could not be flushed in {seconds:.1} s ({attempts} {plural})")
    }
}

/// Jobs in the order they were cut.
#[derive(Debug)]
pub(crate) struct Flushes {
    concurrency: usize,
    /// How long a job may be tried again.
    patience: Duration,
    backoff: Backoff,
    waiting: VecDeque<Job>,
    /// Failed ones, by when they are tried again.
    again: Vec<(Instant, Job)>,
    under_way: usize,
    /// What is under way stands alone.
    alone: bool,
    in_flight_bytes: u64,
    /// Bytes that jobs take beside their rows.
    overhead_bytes: u64,
    confirmations: Confirmations,
}

impl Flushes {
    /// At most `concurrency` jobs at once, each tried again for as long as `patience`; everything
    /// before `confirmed_lsn` is durable.
    pub(crate) fn new(
        concurrency: usize,
        patience: Duration,
        backoff: Backoff,
        confirmed_lsn: u64,
    ) -> Self {
        Self {
            concurrency,
            patience,
            backoff,
            waiting: VecDeque::new(),
            again: Vec::new(),
            under_way: 0,
            alone: false,
            in_flight_bytes: 0,
            overhead_bytes: 0,
            confirmations: Confirmations::new(confirmed_lsn),
        }
    }

    /// Adds a job behind all others. `mark` is what is safe once it and all before it are done; it
    /// is left empty.
    pub(crate) fn push(&mut self, work: Work, mark: &mut Mark) {
        let number = self.confirmations.cut(mark);
        self.in_flight_bytes += work.bytes();
        self.overhead_bytes += work.overhead_bytes();
        self.waiting.push_back(Job { number, failures: 0, failed_at: None, work });
    }

    /// The next job that may start, if any.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Job> {
        if self.under_way >= self.concurrency || self.alone {
            return None;
        }
        let job = match self.again.iter().position(|(due, _)| *due <= now) {
            Some(due) => self.again.swap_remove(due).1,
            None if self.next_may_start() => self.waiting.pop_front()?,
            None => return None,
        };
        self.under_way += 1;
        self.alone = job.work.stands_alone();
        Some(job)
    }

    /// Whether the first of those that wait may start beside what is under way.
    fn next_may_start(&self) -> bool {
        let idle = self.under_way == 0 && self.again.is_empty();
        let Some(next) = self.waiting.front() else { return false };
        if is_planted(Fault::ReorderFlushes) {
            return true;
        }
        // One that stands alone and has failed is the only one in `again`: nothing overtakes it.
        let behind_one_alone = self.again.iter().any(|(_, job)| job.work.stands_alone());
        idle || !(next.work.stands_alone() || behind_one_alone)
    }

    /// A job is done: calls `ended` for each transaction that is safe now. A failed one is tried
    /// again later.
    pub(crate) fn finish(
        &mut self,
        job: Job,
        outcome: Outcome,
        now: Instant,
        ended: impl FnMut(Ended),
    ) -> Result<Option<Batch>, GivenUp> {
        self.under_way -= 1;
        self.alone = false;
        if outcome == Outcome::Failed {
            return self.try_again(job, now).map(|()| None);
        }
        self.leave(&job.work);
        self.confirmations.acknowledge(job.number, ended);
        match job.work {
            Work::Write(batch) => Ok(Some(batch)),
            Work::Truncate(_) => Ok(None),
        }
    }

    fn leave(&mut self, work: &Work) {
        self.in_flight_bytes -= work.bytes();
        self.overhead_bytes -= work.overhead_bytes();
    }

    fn try_again(&mut self, mut job: Job, now: Instant) -> Result<(), GivenUp> {
        job.failures += 1;
        let failed_at = *job.failed_at.get_or_insert(now);
        let after = now - failed_at;
        if after >= self.patience && !is_planted(Fault::RetryForever) {
            return Err(GivenUp { attempts: job.failures, after });
        }
        if is_planted(Fault::DropRetry) {
            self.leave(&job.work);
            self.confirmations.acknowledge(job.number, |_| ());
            return Ok(());
        }
        let due = now + self.backoff.wait(FIRST_RETRY, job.failures);
        // The last try is at the end of the patience, and not before.
        self.again.push((due.min((failed_at + self.patience).max(now)), job));
        Ok(())
    }

    /// Something ended behind the last job without a row of its own.
    pub(crate) fn mark(&mut self, mark: &mut Mark, ended: impl FnMut(Ended)) {
        self.confirmations.mark(mark, ended);
    }

    /// Everything before this position is durable.
    pub(crate) fn confirmed_lsn(&self) -> u64 {
        if is_planted(Fault::ConfirmEarly) {
            return self.confirmations.cut_lsn();
        }
        self.confirmations.confirmed_lsn()
    }

    /// Everything before this position was pushed, and is durable or will be.
    pub(crate) fn cut_lsn(&self) -> u64 {
        self.confirmations.cut_lsn()
    }

    /// Jobs that have not been tried yet.
    pub(crate) fn queue(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of rows that wait or are under way.
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Bytes that are kept beside the rows: of jobs, and of transactions that wait for them.
    pub(crate) fn overhead_bytes(&self) -> u64 {
        let jobs = self.waiting.len() + self.again.len() + self.under_way;
        self.overhead_bytes + (jobs * size_of::<Job>()) as u64 + self.confirmations.bytes()
    }

    /// Jobs that are not durable, and transactions that wait for that.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (u64, u64) {
        self.confirmations.remembered()
    }

    /// Nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty() && self.again.is_empty()
    }

    /// When the next failed job is to be tried again; `None` while there is no place for it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.alone || self.under_way >= self.concurrency {
            return None;
        }
        self.again.iter().map(|(due, _)| *due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushes() -> Flushes {
        Flushes::new(2, Duration::from_secs(60), Backoff::new(1), 0)
    }

    fn mark(end_lsn: u64) -> Mark {
        Mark { end_lsn, ended: Vec::new() }
    }

    fn write(flushes: &mut Flushes, end_lsn: u64) {
        let mut batch = Batch::default();
        batch.bytes = 10;
        flushes.push(Work::Write(batch), &mut mark(end_lsn));
    }

    #[test]
    fn no_more_start_than_may_run_at_once() {
        let (mut flushes, now) = (flushes(), Instant::now());
        (1..=3).for_each(|n| write(&mut flushes, n));
        let first = flushes.start(now).unwrap();
        let second = flushes.start(now).unwrap();
        assert!(flushes.start(now).is_none());
        assert_eq!(flushes.in_flight_bytes(), 30);
        flushes.finish(second, Outcome::Acknowledged, now, |_| ()).unwrap();
        assert_eq!((flushes.confirmed_lsn(), flushes.in_flight_bytes()), (0, 20));
        flushes.finish(first, Outcome::Acknowledged, now, |_| ()).unwrap();
        assert_eq!(flushes.confirmed_lsn(), 2);
        assert_eq!(flushes.start(now).unwrap().number, 2);
    }

    #[test]
    fn a_truncation_stands_alone_also_when_it_fails() {
        let (mut flushes, now) = (flushes(), Instant::now());
        write(&mut flushes, 1);
        flushes.push(Work::Truncate(Vec::new()), &mut mark(2));
        write(&mut flushes, 3);
        let first = flushes.start(now).unwrap();
        assert!(flushes.start(now).is_none(), "the write before it is under way");
        flushes.finish(first, Outcome::Failed, now, |_| ()).unwrap();
        assert!(flushes.start(now).is_none(), "the write before it is to be tried again");
        let later = flushes.deadline().unwrap();
        let first = flushes.start(later).unwrap();
        flushes.finish(first, Outcome::Acknowledged, later, |_| ()).unwrap();
        let truncation = flushes.start(later).unwrap();
        assert!(flushes.start(later).is_none(), "it is under way");
        flushes.finish(truncation, Outcome::Failed, later, |_| ()).unwrap();
        assert!(flushes.start(later).is_none(), "it is to be tried again");
        let latest = flushes.deadline().unwrap();
        let truncation = flushes.start(latest).unwrap();
        flushes.finish(truncation, Outcome::Acknowledged, latest, |_| ()).unwrap();
        assert_eq!(flushes.start(latest).unwrap().number, 2);
    }

    #[test]
    fn tries_end_with_the_patience() {
        let (mut flushes, start) = (flushes(), Instant::now());
        write(&mut flushes, 1);
        let mut now = start;
        let given_up = loop {
            let job = flushes.start(now).unwrap();
            match flushes.finish(job, Outcome::Failed, now, |_| ()) {
                Ok(_) => {
                    assert!(flushes.start(now).is_none(), "not at once");
                    now = flushes.deadline().unwrap();
                }
                Err(given_up) => break given_up,
            }
        };
        // Six waits up to 1.6 s, and then some of at most 5 s.
        assert!((18..40).contains(&given_up.attempts), "{given_up:?}");
        assert_eq!((now - start, given_up.after), (Duration::from_secs(60), now - start));
    }

    #[test]
    fn without_patience_there_is_one_try() {
        let mut flushes = Flushes::new(2, Duration::ZERO, Backoff::new(1), 0);
        let now = Instant::now();
        write(&mut flushes, 1);
        let job = flushes.start(now).unwrap();
        let given_up = flushes.finish(job, Outcome::Failed, now, |_| ()).unwrap_err();
        assert_eq!(given_up, GivenUp { attempts: 1, after: Duration::ZERO });
    }
}
