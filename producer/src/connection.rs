//! One connection: an OS thread that takes what is due next, waits for its moment, sends it and
//! records what came of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedSender;
use walbench_metrics::stamp::Stamp;
use walbench_metrics::{Failure, Window};
use walbench_phases::schedule::Due;

use crate::backoff::Backoff;
use crate::connect::connection_failure;
use crate::crew::{Crew, Run, micros};
use crate::recorder::Tally;
use crate::write::attempt::{Attempt, Refusal};
use crate::write::batch::Batch;
use crate::write::session::{Backend, Session};

/// Longest sleep, so that an early end of the phase is noticed.
const SLICE: Duration = Duration::from_millis(50);

/// How long an answer may take after the last moment to send.
const GRACE: Duration = Duration::from_secs(5);

/// How a lost connection is counted among the SQLSTATEs.
const LOST: &str = "connection";

/// What a connection tells the process.
#[derive(Debug)]
pub(crate) enum Event {
    /// Connected, all statements prepared.
    Ready,
    /// Nothing more to send in the phase.
    PhaseDone,
    /// The run can't go on.
    Failed(Failure),
}

/// A connection's life: connect, then one phase after the other until no more come.
pub(crate) fn live(
    crew: &Arc<Crew>,
    number: usize,
    runs: &Receiver<Arc<Run>>,
    events: &UnboundedSender<Event>,
) {
    let result = Connection::open(crew, number).and_then(|mut connection| {
        _ = events.send(Event::Ready);
        while let Ok(run) = runs.recv() {
            connection.phase(&run)?;
            _ = events.send(Event::PhaseDone);
        }
        Ok(())
    });
    if let Err(failure) = result {
        _ = events.send(Event::Failed(failure));
    }
}

struct Connection<'a> {
    crew: &'a Crew,
    number: usize,
    runtime: Runtime,
    session: Option<Session>,
    batch: Batch,
}

/// What became of a transaction after all its attempts.
enum Outcome {
    Committed { inserted: u64, updated: u64 },
    Failed(Refusal),
    Unsent,
    Unknown,
}

/// When the attempts of a transaction went out.
#[derive(Clone, Copy, Default)]
struct Sent {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl<'a> Connection<'a> {
    fn open(crew: &'a Crew, number: usize) -> Result<Self, Failure> {
        // The kernel may otherwise be 50 µs late on purpose, to save power. Without it we are only
        // less punctual.
        _ = nix::sys::prctl::set_timerslack(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(
            |error| Failure::new("can't start a connection's runtime").caused_by(&error),
        )?;
        let session = runtime
            .block_on(Session::open(&crew.settings, &crew.tables))
            .map_err(|error| connection_failure(&crew.settings.address, &error))?;
        Ok(Self { crew, number, runtime, session: Some(session), batch: Batch::default() })
    }

    fn phase(&mut self, run: &Run) -> Result<(), Failure> {
        // Between phases nobody reads the socket: a server that went away is noticed here and not
        // by the first transaction.
        if let Some(session) = &self.session
            && !self.runtime.block_on(is_alive(session))
        {
            self.session = None;
        }
        while let Some(due) = run.next() {
            if Instant::now() >= run.deadline() {
                self.tally(due.window, |tally| {
                    tally.counts.unsent_rows += u64::from(self.crew.plan().batch_size);
                });
                continue;
            }
            self.crew.fill(run.at.phase, &due, &mut self.batch);
            let moment = run.start + due.due;
            if !self.sleep_until(moment, run) {
                break;
            }
            let mut sent = Sent::default();
            let outcome = self.carry_out(run, &due, &mut sent);
            self.record(run, &due, sent, outcome)?;
            if self.crew.abandoned.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// Waits for a transaction's moment; `false` when the load ends before it.
    fn sleep_until(&self, moment: Instant, run: &Run) -> bool {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if moment > run.start + run.end() || self.crew.abandoned.load(Ordering::Relaxed) {
                return false;
            }
            thread::sleep(left.min(SLICE));
        }
    }

    /// Tries until the transaction is in the database, or can't be.
    fn carry_out(&mut self, run: &Run, due: &Due, sent: &mut Sent) -> Outcome {
        let stamp = Stamp {
            run: self.crew.prepare.run,
            phase: run.at.phase,
            measured: due.window == Window::Measured,
            producer: self.crew.prepare.index,
            sequence: self.crew.own_sequence(due),
            due_us: run.due_us(due),
        };
        let mut backoff = Backoff::new(stamp.sequence);
        let mut attempts = 0;
        loop {
            let Some(session) = self.session(run, due) else {
                return if attempts == 0 { Outcome::Unsent } else { Outcome::Failed(lost()) };
            };
            attempts += 1;
            #[cfg(feature = "planted")]
            crate::planted::before_sending();
            let now = Instant::now();
            sent.first.get_or_insert(now);
            sent.last = Some(now);
            let attempt = self.runtime.block_on(send(&session, &self.batch, &stamp, run));
            let refusal = match attempt {
                Attempt::Committed { inserted, updated } => {
                    self.session = Some(session);
                    return Outcome::Committed { inserted, updated };
                }
                Attempt::Refused(refusal) => {
                    self.tally(due.window, |tally| tally.error(&refusal.code));
                    self.keep(session, &refusal);
                    refusal
                }
                Attempt::Lost { xid } => {
                    self.tally(due.window, |tally| tally.error(LOST));
                    let backend = session.backend().clone();
                    drop(session);
                    match self.find_outcome(run, due, &backend, xid.as_deref()) {
                        Some(true) => {
                            let rows = &self.batch.rows;
                            let inserted = rows.inserts.end - rows.inserts.start;
                            let updated = rows.updates.len() as u64;
                            return Outcome::Committed { inserted, updated };
                        }
                        Some(false) => lost(),
                        None => return Outcome::Unknown,
                    }
                }
            };
            let last =
                attempts >= self.crew.plan().max_attempts || Instant::now() >= run.deadline();
            if last || !refusal.is_transient() {
                return Outcome::Failed(refusal);
            }
            self.tally(due.window, |tally| tally.counts.retries += 1);
            thread::sleep(backoff.next());
        }
    }

    /// Keeps a session that can be used again.
    fn keep(&mut self, session: Session, refusal: &Refusal) {
        if !refusal.fatal && !session.is_closed() {
            self.session = Some(session);
        }
    }

    /// The session, or a new one when it was lost; `None` when none can be had in time.
    fn session(&mut self, run: &Run, due: &Due) -> Option<Session> {
        if let Some(session) = self.session.take()
            && !session.is_closed()
        {
            return Some(session);
        }
        let mut backoff = Backoff::new(due.sequence);
        loop {
            let opening = Session::open(&self.crew.settings, &self.crew.tables);
            if let Some(Ok(session)) = self.runtime.block_on(before_the_end(run, opening)) {
                return Some(session);
            }
            self.tally(due.window, |tally| tally.error(LOST));
            let pause = backoff.next();
            let too_late = Instant::now() + pause >= run.deadline();
            if too_late || self.crew.abandoned.load(Ordering::Relaxed) {
                return None;
            }
            thread::sleep(pause);
        }
    }

    /// Looks over a new connection what became of a transaction that the old one lost sight of.
    fn find_outcome(
        &mut self,
        run: &Run,
        due: &Due,
        lost: &Backend,
        xid: Option<&str>,
    ) -> Option<bool> {
        loop {
            let session = self.session(run, due)?;
            let looking = session.find_outcome(lost, xid, &self.batch);
            match self.runtime.block_on(before_the_end(run, looking))? {
                Ok(outcome) => {
                    self.session = Some(session);
                    return outcome;
                }
                Err(_) => self.tally(due.window, |tally| tally.error(LOST)),
            }
        }
    }

    fn record(&self, run: &Run, due: &Due, sent: Sent, outcome: Outcome) -> Result<(), Failure> {
        let acknowledged = Instant::now();
        let planned = self.batch.rows.len();
        let moment = run.start + due.due;
        let lateness = sent.first.map(|first| first.saturating_duration_since(moment));
        let mut shard = self.crew.recorder.shard(self.number);
        let tally = shard.of(due.window);
        if lateness.is_some_and(|lateness| lateness > run.late_after) {
            tally.counts.late_rows += planned;
        }
        match outcome {
            Outcome::Committed { inserted, updated } => {
                let rows = inserted + updated;
                tally.counts.rows += rows;
                tally.counts.inserts += inserted;
                tally.counts.updates += updated;
                tally.counts.transactions += 1;
                tally.counts.missed_updates +=
                    (self.batch.rows.updates.len() as u64).saturating_sub(updated);
                tally.counts.bytes += self.batch.bytes();
                let service = sent.last.map(|last| acknowledged - last).unwrap_or_default();
                tally.lateness.record_n(micros(lateness.unwrap_or_default()), rows);
                tally.service.record_n(micros(service), rows);
                let response = acknowledged.saturating_duration_since(moment);
                tally.response.record_n(micros(response), rows);
                drop(shard);
                self.crew.committed(run.at.phase, due, &self.batch, rows);
            }
            Outcome::Failed(refusal) => {
                tally.counts.failed_rows += planned;
                drop(shard);
                return self.crew.failed(&self.batch, &refusal).map_or(Ok(()), Err);
            }
            Outcome::Unsent => tally.counts.unsent_rows += planned,
            Outcome::Unknown => {
                tally.counts.unknown_rows += planned;
                drop(shard);
                self.crew.unknown(run.at.phase, due, planned);
            }
        }
        Ok(())
    }

    fn tally(&self, window: Window, change: impl FnOnce(&mut Tally)) {
        change(self.crew.recorder.shard(self.number).of(window));
    }
}

/// Whether the server answers on a session that nobody used for a while.
async fn is_alive(session: &Session) -> bool {
    matches!(tokio::time::timeout(GRACE, session.check()).await, Ok(Ok(())))
}

/// What `future` gives; `None` when that takes beyond the last moment to send.
async fn before_the_end<T>(run: &Run, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at((run.deadline() + GRACE).into(), future).await.ok()
}

/// Sends a transaction and waits for its answer; one that hangs beyond the phase is cancelled.
async fn send(session: &Session, batch: &Batch, stamp: &Stamp, run: &Run) -> Attempt {
    let mut writing = std::pin::pin!(session.write(batch, stamp));
    loop {
        if let Ok(attempt) = tokio::time::timeout(Duration::from_secs(1), &mut writing).await {
            return attempt;
        }
        if Instant::now() > run.deadline() + GRACE {
            break;
        }
    }
    _ = tokio::time::timeout(GRACE, session.canceller().cancel()).await;
    let answer = tokio::time::timeout(GRACE, &mut writing).await;
    answer.unwrap_or(Attempt::Lost { xid: None })
}

/// A transaction that went down with its connection (SQLSTATE class 08).
fn lost() -> Refusal {
    Refusal { code: "08006".into(), message: "the connection was lost".into(), fatal: true }
}
