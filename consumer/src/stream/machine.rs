//! The state machine: what comes in, what is to be done, what may be confirmed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use walbench_metrics::Failure;

use super::batch::{Batch, Bounds};
use super::confirmations::Ended;
use super::fault::{Fault, is_planted};
use super::flushes::{Flushes, Job, Outcome, Work};
use super::rows::{Account, Rows, Tables, Writing};
use super::spool::{Next, Spool, Spooling};
use crate::backoff::Backoff;
use crate::delivery::Delivered;
use crate::pgoutput::{
    Commit, CommitPrepared, Malformed, Message, Prepared, Relation, RelationIds, streamed_xid,
};
use crate::replication::{Frame, ReplicationError, frame, lsn_text};
use crate::rowbinary::TableFacts;
use crate::sink::SinkError;

/// A status update is sent at least this often: PostgreSQL's lag views are as old as the last one.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// And so many times in wal_sender_timeout, after which PostgreSQL gives up on a silent client. Its
/// question for a sign of life can't be waited for: at the bound of bytes in flight it is not read.
const STATUSES_IN_SILENCE: u32 = 4;

/// And at most this often when more became durable: each costs the walsender a wake-up.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of spooled messages that are read in one go, whether or not they were rolled back: more
/// would hold up status updates.
pub(super) const ADVANCE_BYTES: u64 = if cfg!(test) { 150 } else { 256 * 1024 };

/// An empty batch may keep as much memory as so many full ones have bytes: buffers that grow are
/// twice as large as what they hold, and one is of a table.
const SPARE_IN_BATCHES: u64 = 4;

/// How a machine is set up.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the slot is confirmed: everything before it is durable.
    pub confirmed_lsn: u64,
    /// The server gives up on a client that is silent for longer.
    pub silence_limit: Option<Duration>,
    /// When a batch is cut.
    pub bounds: Bounds,
    /// Bytes of rows received and not acknowledged, with what is kept beside them, at which it
    /// wants no more.
    pub max_in_flight_bytes: u64,
    /// Flushes under way at once.
    pub flush_concurrency: usize,
    /// How long a flush that fails may be tried again.
    pub flush_patience: Duration,
    /// Decides how long is waited before each try.
    pub seed: u64,
    /// Memory for transactions that are not committed yet.
    pub spool_memory_bytes: u64,
    /// Where they go beyond that.
    pub spool_dir: Option<PathBuf>,
    /// How rows are written.
    pub writing: Writing,
}

/// What PostgreSQL's catalogue knows of published tables and the stream does not say.
pub(crate) trait Describe: Send {
    /// A relation is described; what is not known of it yet may be looked up.
    ///
    /// # Errors
    /// It can't be looked up.
    fn learn(&mut self, relation: &Relation<'_>) -> Result<(), Failure>;

    /// What is known of a table.
    fn facts(&self, relation: u32) -> Option<&TableFacts>;
}

/// What PostgreSQL is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Received up to here.
    pub written_lsn: u64,
    /// Durable up to here.
    pub flushed_lsn: u64,
}

impl Status {
    /// The same, or nothing of what is durable: a position of 0 moves no slot.
    pub(crate) fn that_confirms(self, confirms: bool) -> Self {
        Self { flushed_lsn: if confirms { self.flushed_lsn } else { 0 }, ..self }
    }
}

/// See the module.
pub(crate) struct Machine {
    bounds: Bounds,
    max_in_flight_bytes: u64,
    rows: Rows,
    flushes: Flushes,
    spool: Spool,
    /// What is received now is not committed yet.
    inside: Option<Inside>,
    /// A transaction whose commit came and whose rows come out of the spool.
    replay: Option<Replay>,
    held: Vec<Held>,
    spare: Vec<Batch>,
    spare_limit: usize,
    /// Position of the last message.
    message_lsn: u64,
    received_lsn: u64,
    /// The same, and does not fall.
    seen_lsn: u64,
    confirmed_lsn: u64,
    status_interval: Duration,
    status_sent: Instant,
    confirmed_sent: u64,
    reply_wanted: bool,
    delivered: Delivered,
}

/// Messages that go to the spool.
enum Inside {
    /// A piece of a streamed transaction.
    Block { xid: u32 },
    /// A transaction that will be prepared, and the tables as they were before it.
    Preparing { xid: u32, tables: Tables },
}

struct Replay {
    from: Spooling,
    commit: Commit,
    /// The tables as they are when it is over, if its own descriptions are not to stay.
    tables_after: Option<Tables>,
}

/// A prepared transaction. PostgreSQL sends its rows again only if the slot is not confirmed beyond
/// its PREPARE, so it is not until the rows are durable. Where transactions are prepared at the
/// same time the slot may then be confirmed between one's PREPARE and its COMMIT PREPARED, and a
/// new connection brings the latter alone.
struct Held {
    xid: u32,
    prepare_lsn: u64,
    /// End of what decided it; while it is undecided, the end of all.
    until_lsn: u64,
    /// The tables that its rows are of, as far as it does not describe them itself.
    tables: Tables,
}

impl Machine {
    pub(crate) fn new(settings: Settings, catalogue: Box<dyn Describe>, now: Instant) -> Self {
        let Settings { bounds, max_in_flight_bytes, flush_concurrency, silence_limit, .. } =
            settings;
        let Settings { confirmed_lsn, flush_patience, spool_memory_bytes, spool_dir, .. } =
            settings;
        let backoff = Backoff::new(settings.seed);
        Self {
            bounds,
            max_in_flight_bytes,
            rows: Rows::new(settings.writing, catalogue),
            flushes: Flushes::new(flush_concurrency, flush_patience, backoff, confirmed_lsn),
            spool: Spool::new(spool_dir.as_deref(), spool_memory_bytes),
            inside: None,
            replay: None,
            held: Vec::new(),
            spare: Vec::new(),
            spare_limit: flush_concurrency + 2,
            message_lsn: 0,
            received_lsn: confirmed_lsn,
            seen_lsn: confirmed_lsn,
            confirmed_lsn,
            status_interval: silence_limit
                .map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / STATUSES_IN_SILENCE)),
            status_sent: now,
            confirmed_sent: confirmed_lsn,
            reply_wanted: false,
            delivered: Delivered::default(),
        }
    }

    /// The connection was lost. What is not whole is forgotten; PostgreSQL sends everything behind
    /// [`Self::resume_lsn`] again, prepared transactions as well, and so they are held on. What was
    /// cut goes on to the sink.
    pub(crate) fn disconnected(&mut self) {
        self.rows.restart();
        if !is_planted(Fault::KeepSpool) {
            self.spool.clear();
        }
        self.inside = None;
        self.end_replay();
        self.reply_wanted = false;
        if is_planted(Fault::ForgetHoldWhenCut) {
            self.held.clear();
        }
        if !is_planted(Fault::KeepReceived) {
            self.received_lsn = self.resume_lsn();
        }
    }

    /// Whether it wants more of the stream now: there is room, and no committed transaction waits
    /// in the spool. At the bound nothing more is read: PostgreSQL waits, and so bytes in flight
    /// stay bounded whatever comes.
    #[inline]
    pub(crate) fn wants_data(&self) -> bool {
        self.replay.is_none() && self.has_room()
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.memory_bytes() < self.max_in_flight_bytes || is_planted(Fault::IgnoreRoom)
    }

    /// Bytes in flight and what is kept beside them. Truncations, and transactions without rows,
    /// have nothing but the latter.
    #[inline]
    pub(super) fn memory_bytes(&self) -> u64 {
        let open = &self.rows.open;
        let ended = open.mark.ended.len() * size_of::<Ended>();
        let overhead_bytes = self.flushes.overhead_bytes() + open.overhead_bytes();
        self.in_flight_bytes() + overhead_bytes + ended as u64
    }

    /// Whether [`Self::advance`] has something to do.
    pub(crate) fn wants_to_advance(&self) -> bool {
        self.replay.is_some() && self.has_room()
    }

    /// What is handed in from here on arrived now, in µs of the orchestrator's clock.
    pub(crate) fn arrived(&mut self, received_us: i64) {
        self.rows.received_us = received_us;
    }

    /// Handles one CopyData message.
    ///
    /// # Errors
    /// It makes no sense, or a row can't be written. Neither goes away by trying again.
    #[inline]
    pub(crate) fn copy_data(&mut self, body: &[u8]) -> Result<(), Failure> {
        match frame(body) {
            Some(Frame::Data { lsn, body }) => {
                self.message_lsn = lsn;
                match self.inside {
                    None => self.message(lsn, body),
                    Some(_) => self.uncommitted(lsn, body),
                }
            }
            Some(Frame::Keepalive { end_lsn, reply }) => {
                self.reply_wanted |= reply;
                // In mid-transaction the position may lie behind rows that are still to come.
                if self.inside.is_none() && !self.rows.in_transaction() {
                    self.end_at(end_lsn);
                }
                Ok(())
            }
            None => Err(protocol("a CopyData message that is neither data nor keepalive".into())),
        }
    }

    #[inline]
    fn message(&mut self, lsn: u64, body: &[u8]) -> Result<(), Failure> {
        match Message::decode(body).map_err(|e| malformed(lsn, e))? {
            Message::Insert { relation, new } => self.rows.insert(relation, new, lsn)?,
            Message::Update { relation, old, new } => self.rows.update(relation, old, new, lsn)?,
            Message::Delete { relation, old } => self.rows.delete(relation, old, lsn)?,
            other => return self.rare(lsn, other),
        }
        if self.rows.open.is_full(&self.bounds) {
            self.cut();
        }
        Ok(())
    }

    /// What comes once a transaction or less often.
    fn rare(&mut self, lsn: u64, message: Message<'_>) -> Result<(), Failure> {
        match message {
            Message::Begin(begin) => self.rows.begin(begin.commit_lsn, begin.commit_us),
            Message::Commit(commit) => {
                self.rows.commit(commit.commit_lsn)?;
                self.end_at(commit.end_lsn);
                Ok(())
            }
            Message::Logical(message) => {
                self.rows.stamp(&message);
                Ok(())
            }
            Message::Relation(relation) => self.rows.describe(&relation),
            Message::Truncate { relations, .. } => self.truncate(relations),
            Message::StreamStart { xid, first_segment } => {
                self.enter(xid, Inside::Block { xid }, first_segment, lsn)
            }
            Message::BeginPrepare(begin) => {
                let inside = Inside::Preparing { xid: begin.xid, tables: self.rows.tables() };
                self.enter(begin.xid, inside, true, lsn)
            }
            Message::StreamAbort(abort) => {
                self.spool.abort(abort.xid, abort.subxid);
                Ok(())
            }
            Message::StreamPrepare(prepare) => {
                self.prepared(&prepare, self.rows.tables());
                Ok(())
            }
            Message::StreamCommit { xid, commit } => self.start_replay(xid, commit),
            Message::CommitPrepared(CommitPrepared {
                xid, commit_lsn, end_lsn, commit_us, ..
            }) => {
                // One whose PREPARE the stream does not have was durable before the slot was
                // confirmed behind that: see Held.
                let Some(tables) = self.decided(xid, end_lsn) else {
                    self.end_at(end_lsn);
                    return Ok(());
                };
                self.start_replay(xid, Commit { commit_lsn, end_lsn, commit_us })?;
                let tables = if is_planted(Fault::ReadAnew) { self.rows.tables() } else { tables };
                let after = self.rows.replace_tables(tables);
                self.replay = self.replay.take().map(|r| Replay { tables_after: Some(after), ..r });
                Ok(())
            }
            Message::RollbackPrepared(rollback) => {
                self.decided(rollback.xid, rollback.rollback_end_lsn);
                self.spool.forget(rollback.xid);
                self.end_at(rollback.rollback_end_lsn);
                Ok(())
            }
            Message::Origin { .. } => {
                self.rows.comes_from_elsewhere();
                Ok(())
            }
            Message::StreamStop | Message::Prepare(_) => Err(protocol(format!(
                "the end of something that did not begin, at {}",
                lsn_text(lsn)
            ))),
            // Types are known from the catalogue; rows are handled before this.
            Message::Type(_)
            | Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. } => Ok(()),
        }
    }

    /// A part of a transaction comes that is not committed. Its first part may come twice: where a
    /// slot came to know of two-phase commit behind a PREPARE that it sends, it sends that again.
    fn enter(&mut self, xid: u32, inside: Inside, is_first: bool, lsn: u64) -> Result<(), Failure> {
        if self.rows.in_transaction() {
            let text = format!("a transaction begins inside another at {}", lsn_text(lsn));
            return Err(protocol(text));
        }
        if is_first {
            self.spool.forget(xid);
        }
        self.spool.open(xid);
        self.inside = Some(inside);
        Ok(())
    }

    /// A message inside a transaction that is not committed.
    fn uncommitted(&mut self, lsn: u64, body: &[u8]) -> Result<(), Failure> {
        let Some(inside) = &self.inside else { return Ok(()) };
        let nothing = || protocol(format!("an empty message at {}", lsn_text(lsn)));
        let (tag, rest) = body.split_first().ok_or_else(nothing)?;
        let spooled = match (inside, tag) {
            (Inside::Block { .. }, b'E') => {
                self.inside = None;
                return Ok(());
            }
            (Inside::Preparing { .. }, b'P') => return self.end_of_prepare(lsn, body),
            (&Inside::Block { xid }, _) => {
                match streamed_xid(body).map_err(|e| malformed(lsn, e))? {
                    Some(subxid) => self.spool.add((xid, subxid), lsn, *tag, &rest[4..]),
                    // An origin, which is all of the transaction's.
                    None => self.spool.add((xid, xid), lsn, *tag, rest),
                }
            }
            (&Inside::Preparing { xid, .. }, _) => {
                if *tag == b'R' && !is_planted(Fault::DescribeLate) {
                    self.describe_for_all(lsn, body)?;
                }
                self.spool.add((xid, xid), lsn, *tag, rest)
            }
        };
        spooled.map_err(|e| spool_failed(&e))
    }

    fn end_of_prepare(&mut self, lsn: u64, body: &[u8]) -> Result<(), Failure> {
        let message = Message::decode(body).map_err(|e| malformed(lsn, e))?;
        if let (Message::Prepare(prepare), Some(Inside::Preparing { tables, .. })) =
            (message, self.inside.take())
        {
            self.prepared(&prepare, tables);
        }
        Ok(())
    }

    /// PostgreSQL describes a table once, be it in a transaction that is only prepared: rows of
    /// others that come before its commit rely on that.
    fn describe_for_all(&mut self, lsn: u64, body: &[u8]) -> Result<(), Failure> {
        match Message::decode(body).map_err(|e| malformed(lsn, e))? {
            Message::Relation(relation) => self.rows.describe(&relation),
            _ => Ok(()),
        }
    }

    fn prepared(&mut self, prepare: &Prepared<'_>, tables: Tables) {
        let Prepared { xid, prepare_lsn, end_lsn, .. } = *prepare;
        self.spool.open(xid);
        self.held.retain(|held| held.xid != xid || held.until_lsn != u64::MAX);
        self.held.push(Held { xid, prepare_lsn, until_lsn: u64::MAX, tables });
        self.end_at(end_lsn);
    }

    /// A prepared transaction was committed or rolled back; returns the tables that its rows are
    /// of, if it is known.
    fn decided(&mut self, xid: u32, end_lsn: u64) -> Option<Tables> {
        if !self.spool.holds(xid) {
            return None;
        }
        let held =
            self.held.iter_mut().find(|held| held.xid == xid && held.until_lsn == u64::MAX)?;
        held.until_lsn = end_lsn;
        Some(held.tables.clone())
    }

    fn start_replay(&mut self, xid: u32, commit: Commit) -> Result<(), Failure> {
        self.rows.begin(commit.commit_lsn, commit.commit_us)?;
        let from = self.spool.take(xid).map_err(|e| spool_failed(&e))?;
        self.replay = Some(Replay { from, commit, tables_after: None });
        Ok(())
    }

    fn end_replay(&mut self) {
        if let Some(tables) = self.replay.take().and_then(|replay| replay.tables_after) {
            self.rows.replace_tables(tables);
        }
    }

    /// Takes rows of a committed transaction out of the spool, while there is room for them.
    ///
    /// # Errors
    /// As [`Self::copy_data`]; or the spool's file can't be read.
    pub(crate) fn advance(&mut self) -> Result<(), Failure> {
        let Some(mut replay) = self.replay.take() else { return Ok(()) };
        let read = self.read_on(&mut replay.from);
        let Commit { commit_lsn, end_lsn, .. } = replay.commit;
        // Also after an error: it knows the tables as they are to be when it is over.
        self.replay = Some(replay);
        if read? {
            self.end_replay();
            self.rows.commit(commit_lsn)?;
            self.end_at(end_lsn);
        }
        Ok(())
    }

    /// Reads a spooled transaction on; says whether that was its end.
    fn read_on(&mut self, from: &mut Spooling) -> Result<bool, Failure> {
        let until_bytes = from.read_bytes() + ADVANCE_BYTES;
        while self.has_room() && from.read_bytes() < until_bytes {
            match from.next().map_err(|e| spool_failed(&e))? {
                Next::Message(lsn, body) => self.message(lsn, body)?,
                Next::RolledBack => {}
                Next::End => return Ok(true),
            }
        }
        Ok(false)
    }

    fn truncate(&mut self, relations: RelationIds<'_>) -> Result<(), Failure> {
        let tables = relations.iter().map(|relation| self.rows.table_of(relation));
        let tables = tables.collect::<Result<_, _>>()?;
        if self.rows.open.rows > 0 {
            self.cut();
        }
        self.flushes.push(Work::Truncate(tables), &mut self.rows.open.mark);
        Ok(())
    }

    /// Everything before this position was received: safe once the rows before it are.
    fn end_at(&mut self, end_lsn: u64) {
        self.received_lsn = self.received_lsn.max(end_lsn);
        self.seen_lsn = self.seen_lsn.max(end_lsn);
        let Self { rows, flushes, delivered, .. } = self;
        rows.open.mark.end_lsn = rows.open.mark.end_lsn.max(end_lsn);
        if rows.open.rows == 0 || is_planted(Fault::MarkEarly) {
            flushes.mark(&mut rows.open.mark, |ended| delivered.add(ended));
        }
    }

    /// Cuts the open batch, if anything is in it.
    pub(crate) fn cut(&mut self) {
        if self.rows.open.rows == 0 {
            return;
        }
        let empty = self.spare.pop().unwrap_or_default();
        let mut batch = std::mem::replace(&mut self.rows.open, empty);
        let mut mark = std::mem::take(&mut batch.mark);
        self.flushes.push(Work::Write(batch), &mut mark);
    }

    /// Cuts the open batch if it is old enough, or is what fills the bound.
    pub(crate) fn cut_if_due(&mut self, now: Instant) {
        self.rows.open.seen(now);
        let is_stuck = !self.has_room() && self.flushes.is_idle();
        let open = &self.rows.open;
        if is_stuck || open.deadline(&self.bounds).is_some_and(|deadline| now >= deadline) {
            self.cut();
        }
    }

    /// The next job for the sink that may start now.
    pub(crate) fn start_flush(&mut self, now: Instant) -> Option<Job> {
        self.flushes.start(now)
    }

    /// A job has ended.
    ///
    /// # Errors
    /// It failed and is not to be tried again.
    pub(crate) fn flush_ended(
        &mut self,
        job: Job,
        result: Result<(), SinkError>,
        now: Instant,
    ) -> Result<(), Failure> {
        let Self { flushes, delivered, rows, .. } = self;
        let (outcome, error) = match result {
            Ok(()) => (Outcome::Acknowledged, None),
            Err(error) => {
                rows.account.errors += 1;
                (Outcome::Failed, Some(error))
            }
        };
        if let Some(SinkError { failure, transient: false }) = error {
            return Err(Failure::new("a batch could not be flushed").because(failure));
        }
        match (flushes.finish(job, outcome, now, |ended| delivered.add(ended)), error) {
            (Ok(None), Some(_)) => rows.account.retries += 1,
            (Ok(None), None) => {}
            (Ok(Some(batch)), _) => self.recycle(batch),
            (Err(given_up), error) => {
                let failure = Failure::new(given_up.to_string());
                return Err(error.map_or(failure.clone(), |e| failure.because(e.failure)));
            }
        }
        Ok(())
    }

    /// Keeps a batch's memory for the next, unless a large row made it large, or many tables did
    /// that filled it in turn.
    fn recycle(&mut self, mut batch: Batch) {
        let limit_bytes = self.bounds.bytes.saturating_mul(SPARE_IN_BATCHES);
        if self.spare.len() < self.spare_limit && batch.capacity_bytes() <= limit_bytes {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// What PostgreSQL is to be told, if it is time to tell it anything; it counts as told.
    pub(crate) fn status(&mut self, now: Instant) -> Option<Status> {
        let due = self.reply_wanted || now >= self.status_deadline();
        due.then(|| self.status_now(now))
    }

    /// What PostgreSQL is to be told now; it counts as told.
    pub(crate) fn status_now(&mut self, now: Instant) -> Status {
        let flushed_lsn = self.confirmed_lsn();
        self.status_sent = now;
        self.confirmed_sent = flushed_lsn;
        self.reply_wanted = false;
        Status { written_lsn: self.received_lsn.max(flushed_lsn), flushed_lsn }
    }

    fn status_deadline(&mut self) -> Instant {
        let more = self.confirmed_lsn() > self.confirmed_sent;
        let interval = self.status_interval;
        self.status_sent + if more { interval.min(CONFIRM_INTERVAL) } else { interval }
    }

    /// When there is something to do though nothing arrives and no job ends.
    pub(crate) fn deadline(&mut self) -> Instant {
        let times = [self.rows.open.deadline(&self.bounds), self.flushes.deadline()];
        times.into_iter().flatten().fold(self.status_deadline(), Instant::min)
    }

    /// Everything before this position is durable, and none of it is needed again.
    pub(crate) fn confirmed_lsn(&mut self) -> u64 {
        let durable_lsn = self.flushes.confirmed_lsn();
        self.held.retain(|held| durable_lsn < held.until_lsn);
        // What was prepared before the slot knew of two-phase commit comes with its PREPARE when it
        // is committed, and would again: it holds nothing back.
        self.confirmed_lsn = self.confirmed_lsn.max(self.held_back(durable_lsn));
        self.confirmed_lsn
    }

    /// Where the stream goes on when the connection was lost: behind everything that is on its way
    /// to the sink. Would that come again from the confirmed position on, a truncation would come
    /// after rows behind it that are durable and may be confirmed by then.
    pub(crate) fn resume_lsn(&mut self) -> u64 {
        if is_planted(Fault::ResumeAtConfirmed) {
            return self.confirmed_lsn();
        }
        let confirmed_lsn = self.confirmed_lsn();
        self.held_back(self.flushes.cut_lsn()).max(confirmed_lsn)
    }

    /// A server that has sent what was received has WAL up to here, whatever of it comes again: a
    /// PREPARE that it lost would be waited for for ever, and rows of a transaction that was received
    /// in part may be at the sink.
    pub(crate) fn seen_lsn(&self) -> u64 {
        let begun_lsn = if is_planted(Fault::ForgetBegun) { 0 } else { self.rows.begun_lsn };
        self.seen_lsn.max(begun_lsn)
    }

    /// This position, or the oldest PREPARE that is needed if everything before it was seen.
    fn held_back(&self, lsn: u64) -> u64 {
        if is_planted(Fault::ForgetHold) {
            return lsn;
        }
        let is_needed = |held: &&Held| lsn < held.until_lsn;
        self.held.iter().filter(is_needed).map(|held| held.prepare_lsn).fold(lsn, u64::min)
    }

    /// Position of the last message; 0 before the first.
    pub(crate) fn message_lsn(&self) -> u64 {
        self.message_lsn
    }

    /// Batches that wait for a place among the flushes.
    pub(crate) fn queue(&self) -> usize {
        self.flushes.queue()
    }

    /// Everything before this position was received; falls when a lost connection takes some of it
    /// along.
    pub(crate) fn received_lsn(&self) -> u64 {
        self.received_lsn
    }

    /// Bytes of rows received and not acknowledged.
    #[inline]
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.flushes.in_flight_bytes() + self.rows.open.bytes
    }

    /// Jobs that were cut and are not durable, and transactions that wait for that.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (u64, u64) {
        let (jobs, transactions) = self.flushes.remembered();
        (jobs, transactions + self.rows.open.mark.ended.len() as u64)
    }

    /// Transactions that are kept because they are not committed.
    #[cfg(test)]
    pub(super) fn spooled(&self) -> usize {
        self.spool.len()
    }

    /// Rows of the open batch.
    #[cfg(test)]
    pub(super) fn open_rows(&self) -> u64 {
        self.rows.open.rows
    }

    /// Everything received was acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.flushes.is_idle() && self.rows.open.rows == 0 && self.replay.is_none()
    }

    /// What was received since the last time; whoever has taken note of it empties it.
    pub(crate) fn account(&mut self) -> &mut Account {
        &mut self.rows.account
    }

    /// Which transactions are durable.
    pub(crate) fn into_delivered(self) -> Delivered {
        Delivered { out_of_order: self.rows.out_of_order, ..self.delivered }
    }
}

/// The stream holds something that it can't.
#[cold]
pub(super) fn protocol(text: String) -> Failure {
    ReplicationError::Protocol(text).into_failure()
}

#[cold]
fn malformed(lsn: u64, error: Malformed) -> Failure {
    protocol(format!("at {}: {error}", lsn_text(lsn)))
}

#[cold]
fn spool_failed(error: &std::io::Error) -> Failure {
    Failure::new("a transaction that is not committed yet can't be kept on disk")
        .caused_by(error)
        .hint("consumer.spool_dir names the folder for such files; streaming = \"off\" needs none")
}

#[cfg(test)]
mod tests {
    use super::super::simulation::{machine, settings};
    use super::*;

    #[test]
    fn a_batch_that_grew_large_is_not_kept() {
        let bounds = Bounds { bytes: 1_000, ..settings().bounds };
        let mut machine = machine(Settings { bounds, ..settings() });
        let tables = [(); 5].map(|()| std::sync::Arc::default());
        for (in_use, kept) in [(4, 1), (5, 1)] {
            let mut batch = Batch::default();
            for table in &tables[..in_use] {
                batch.part(table).encoded.reserve_exact(1_000);
            }
            machine.recycle(batch);
            assert_eq!(machine.spare.len(), kept, "{in_use} tables");
        }
    }
}
