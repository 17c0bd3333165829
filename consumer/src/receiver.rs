//! The receiving thread: reads the replication stream, turns rows into batches, confirms what is
//! durable. The only thread that touches the connection.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use walbench_metrics::stamp::{self, Stamp};
use walbench_metrics::{Failure, Window};

use crate::batch::{Batch, Bounds, Due, Segment};
use crate::catalogue::Catalogue;
use crate::confirmations::Ended;
use crate::flusher::Flusher;
use crate::pace::Pace;
use crate::pgoutput::{Begin, Commit, LogicalMessage, Message, OldTuple, Relation, Tuple};
use crate::replication::{
    Connection, Frame, ReplicationError, ServerError, StatusUpdate, frame, lsn_text,
};
use crate::rowbinary::{EncodeError, RowKind, Table};

/// A status update is sent at least this often: PostgreSQL gives up on a client that is silent for
/// wal_sender_timeout, and its lag views are as old as the last update.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// And at most this often when more became durable: each costs the walsender a wake-up.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(20);

/// At the end the sink has this long for what it was given.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The receiving thread's state.
pub(crate) struct Receiver {
    connection: Connection,
    stream: Stream,
    bounds: Bounds,
    max_in_flight_bytes: u64,
    pace: Pace,
    status_sent: Instant,
    confirmed_sent: u64,
    reply_wanted: bool,
}

/// What the messages change; apart from the connection, whose buffer they are read in.
struct Stream {
    flusher: Arc<Flusher>,
    catalogue: Catalogue,
    run: u64,
    /// Subtracted from the server's clock to have the orchestrator's, in µs.
    server_correction_us: i64,
    tables: HashMap<u32, Arc<Table>>,
    /// The table that rows are of; the next row's most often is the last one's.
    table: Option<(u32, Arc<Table>)>,
    open: Batch,
    encode: bool,
    received_us: i64,
    transaction: Option<Transaction>,
    last_commit_lsn: u64,
    /// Rows read since the last time the recorder was told.
    received: Vec<Segment>,
    /// Transactions that ended since then.
    ended: Vec<Option<Due>>,
}

/// The transaction that is being received.
#[derive(Clone, Copy)]
struct Transaction {
    commit_lsn: u64,
    commit_us: i64,
    due: Option<Due>,
    stamp: Option<(u32, u32, u64)>,
    rows: u64,
}

/// How a receiver is set up.
pub(crate) struct Settings {
    pub(crate) bounds: Bounds,
    pub(crate) max_in_flight_bytes: u64,
    pub(crate) run: u64,
    pub(crate) server_correction_us: i64,
}

impl Receiver {
    /// Takes over a connection whose stream was started.
    pub(crate) fn new(
        connection: Connection,
        catalogue: Catalogue,
        flusher: Arc<Flusher>,
        settings: &Settings,
    ) -> Self {
        let stream = Stream {
            encode: flusher.wants_rows(),
            flusher,
            catalogue,
            run: settings.run,
            server_correction_us: settings.server_correction_us,
            tables: HashMap::new(),
            table: None,
            open: Batch::default(),
            received_us: 0,
            transaction: None,
            last_commit_lsn: 0,
            received: Vec::new(),
            ended: Vec::new(),
        };
        Self {
            connection,
            stream,
            bounds: settings.bounds,
            max_in_flight_bytes: settings.max_in_flight_bytes,
            pace: Pace::default(),
            status_sent: Instant::now(),
            confirmed_sent: 0,
            reply_wanted: false,
        }
    }

    /// Receives until asked to stop.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        while !self.stream.flusher.is_stopping() {
            if let Some(failure) = self.stream.flusher.take_failure() {
                return Err(failure);
            }
            self.cut_if_due();
            self.send_status_if_due().map_err(|e| ReplicationError::Io(e).into_failure())?;
            // At the bound nothing more is read: PostgreSQL waits, and so bytes in flight stay
            // bounded whatever comes.
            let reading = self.in_flight_bytes() < self.max_in_flight_bytes;
            if self.wait(reading).map_err(|e| ReplicationError::Io(e).into_failure())? {
                self.read()?;
            }
        }
        self.finish()
    }

    /// Ends with what was received durable, if the sink is not too slow for that: what is not comes
    /// again after a restart, but would be missing from this run's account.
    fn finish(mut self) -> Result<(), Failure> {
        if self.stream.open.rows > 0 {
            self.stream.cut();
        }
        let deadline = Instant::now() + FINISH_TIMEOUT;
        while self.stream.flusher.in_flight_bytes() > 0 && Instant::now() < deadline {
            self.wait(false).map_err(|e| ReplicationError::Io(e).into_failure())?;
        }
        self.send_status().map_err(|e| ReplicationError::Io(e).into_failure())?;
        self.connection.terminate();
        Ok(())
    }

    fn in_flight_bytes(&self) -> u64 {
        self.stream.flusher.in_flight_bytes() + self.stream.open.bytes
    }

    /// Flushes the open batch if it is old enough, was asked for, or is what fills the bound.
    fn cut_if_due(&mut self) {
        let Some(deadline) = self.stream.open.deadline(&self.bounds) else {
            self.stream.flusher.take_cut();
            return;
        };
        let nothing_else_in_flight = self.stream.flusher.in_flight_bytes() == 0;
        let stuck = self.stream.open.bytes >= self.max_in_flight_bytes && nothing_else_in_flight;
        if self.stream.flusher.take_cut() || stuck || Instant::now() >= deadline {
            self.stream.cut();
        }
    }

    /// Waits until there is something to read (if `reading`) or to do; says whether to read.
    fn wait(&mut self, reading: bool) -> io::Result<bool> {
        if reading && self.connection.transport.has_buffered() {
            return Ok(true);
        }
        let timeout = self.next_deadline().saturating_duration_since(Instant::now());
        // Rounded up: a poll that ends before the deadline would be for nothing.
        let timeout_ms = timeout.as_micros().div_ceil(1_000).min(1_000) as u16;
        let mut fds = [
            PollFd::new(std::os::fd::AsFd::as_fd(&self.stream.flusher.waker), PollFlags::POLLIN),
            PollFd::new(std::os::fd::AsFd::as_fd(&self.connection.transport), PollFlags::POLLIN),
        ];
        let polled = if reading { &mut fds[..] } else { &mut fds[..1] };
        match poll(polled, PollTimeout::from(timeout_ms)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Anything but silence is read: an error shows when reading.
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (woken, readable) = (ready(&fds[0]), ready(&fds[1]));
        if woken {
            self.stream.flusher.waker.clear();
        }
        Ok(reading && readable)
    }

    fn next_deadline(&self) -> Instant {
        let confirm_due = self.stream.flusher.confirmed_lsn() > self.confirmed_sent;
        let interval = if confirm_due { CONFIRM_INTERVAL } else { STATUS_INTERVAL };
        let status = self.status_sent + interval;
        self.stream.open.deadline(&self.bounds).map_or(status, |batch| batch.min(status))
    }

    fn send_status_if_due(&mut self) -> io::Result<()> {
        let since = self.status_sent.elapsed();
        let more = self.stream.flusher.confirmed_lsn() > self.confirmed_sent;
        if self.reply_wanted || since >= STATUS_INTERVAL || (more && since >= CONFIRM_INTERVAL) {
            self.send_status()?;
        }
        Ok(())
    }

    fn send_status(&mut self) -> io::Result<()> {
        let flusher = &self.stream.flusher;
        let flushed_lsn = flusher.confirmed_lsn();
        let written_lsn = flusher.received_lsn().max(flushed_lsn);
        let status = StatusUpdate { written_lsn, flushed_lsn, now_us: flusher.now_us() };
        self.connection.transport.write_all(&status.encode())?;
        self.connection.transport.flush()?;
        self.status_sent = Instant::now();
        self.confirmed_sent = flushed_lsn;
        self.reply_wanted = false;
        Ok(())
    }

    /// Reads once and handles every whole message.
    fn read(&mut self) -> Result<(), Failure> {
        let Self { connection, stream, bounds, .. } = self;
        let read = match connection.input.fill(&mut connection.transport) {
            Ok(0) => return Err(ReplicationError::Closed.into_failure()),
            Ok(read) => read,
            // Half a TLS record has arrived, or a signal.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(ReplicationError::Io(e).into_failure()),
        };
        stream.received_us = stream.flusher.now_us();
        let broken = |e: io::Error| ReplicationError::Protocol(e.to_string()).into_failure();
        while let Some((tag, body)) = connection.input.next_message().map_err(broken)? {
            match tag {
                b'd' => self.reply_wanted |= stream.copy_data(body, bounds)?,
                b'E' => {
                    return Err(
                        ReplicationError::Ended(ServerError::from_body(body)).into_failure()
                    );
                }
                b'N' | b'S' => {}
                // The server stops: CopyDone or CommandComplete.
                b'c' | b'C' => return Err(ReplicationError::Closed.into_failure()),
                other => {
                    let text = format!("unexpected message {:?}", char::from(other));
                    return Err(ReplicationError::Protocol(text).into_failure());
                }
            }
        }
        stream.tell_recorder(read as u64);
        self.pace.after_read(read);
        Ok(())
    }
}

impl Stream {
    /// Handles one CopyData message; says whether the server wants a status update.
    #[inline]
    fn copy_data(&mut self, body: &[u8], bounds: &Bounds) -> Result<bool, Failure> {
        match frame(body) {
            Some(Frame::Data { lsn, body }) => {
                self.message(lsn, body, bounds)?;
                Ok(false)
            }
            Some(Frame::Keepalive { end_lsn, reply }) => {
                // In mid-transaction the position may lie behind rows that are still to come.
                if self.transaction.is_none() {
                    self.flusher.received_up_to(end_lsn);
                    self.end_at(end_lsn);
                }
                Ok(reply)
            }
            None => {
                let text = "a CopyData message that is neither data nor keepalive";
                Err(ReplicationError::Protocol(text.into()).into_failure())
            }
        }
    }

    #[inline]
    fn message(&mut self, lsn: u64, body: &[u8], bounds: &Bounds) -> Result<(), Failure> {
        let malformed = |e| {
            let text = format!("at {}: {e}", lsn_text(lsn));
            ReplicationError::Protocol(text).into_failure()
        };
        match Message::decode(body).map_err(malformed)? {
            Message::Insert { relation, new } => {
                self.select_table(relation)?;
                self.row(new, None, RowKind::Present, lsn, bounds)
            }
            Message::Update { relation, old, new } => self.update(relation, old, new, lsn, bounds),
            Message::Delete { relation, old: OldTuple::Key(old) | OldTuple::Full(old) } => {
                self.select_table(relation)?;
                self.row(old, None, RowKind::Deleted, lsn, bounds)
            }
            Message::Begin(begin) => self.begin(begin),
            Message::Commit(commit) => self.commit(commit),
            Message::Logical(message) => {
                self.stamp(&message);
                Ok(())
            }
            Message::Relation(relation) => {
                self.describe(&relation);
                Ok(())
            }
            Message::Truncate { .. } => Err(Failure::new("a replicated table was truncated")
                .hint("this version of walbench does not replicate TRUNCATE; delete rows instead")),
            Message::Type(_) | Message::Origin { .. } => Ok(()),
            _ => {
                let text = format!("at {}: part of a stream not asked for", lsn_text(lsn));
                Err(ReplicationError::Protocol(text).into_failure())
            }
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), Failure> {
        let Begin { commit_lsn, commit_us, .. } = begin;
        if self.transaction.is_some() {
            let text = format!("a transaction begins inside another at {}", lsn_text(commit_lsn));
            return Err(ReplicationError::Protocol(text).into_failure());
        }
        if commit_lsn <= self.last_commit_lsn {
            self.flusher.out_of_order();
        }
        self.last_commit_lsn = commit_lsn;
        let commit_us = commit_us - self.server_correction_us;
        self.transaction =
            Some(Transaction { commit_lsn, commit_us, due: None, stamp: None, rows: 0 });
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Result<(), Failure> {
        let Some(transaction) = self.transaction.take_if(|t| t.commit_lsn == commit.commit_lsn)
        else {
            let text = format!("a commit without its begin at {}", lsn_text(commit.commit_lsn));
            return Err(ReplicationError::Protocol(text).into_failure());
        };
        self.ended.push(transaction.due);
        self.flusher.received_up_to(commit.end_lsn);
        self.open.mark.ended.push(Ended { stamp: transaction.stamp, rows: transaction.rows });
        self.end_at(commit.end_lsn);
        Ok(())
    }

    /// Everything before this position was received: safe once the rows before it are.
    fn end_at(&mut self, end_lsn: u64) {
        self.open.mark.end_lsn = self.open.mark.end_lsn.max(end_lsn);
        if self.open.rows == 0 {
            self.flusher.mark(&mut self.open.mark);
        }
    }

    fn stamp(&mut self, message: &LogicalMessage<'_>) {
        if !message.transactional || message.prefix != stamp::PREFIX {
            return;
        }
        let stamp = Stamp::decode(message.content).filter(|stamp| stamp.run == self.run);
        if let (Some(stamp), Some(transaction)) = (stamp, &mut self.transaction) {
            let window = if stamp.measured { Window::Measured } else { Window::Warmup };
            transaction.due = Some(Due { phase: stamp.phase, window, due_us: stamp.due_us });
            transaction.stamp = Some((stamp.phase, stamp.producer, stamp.sequence));
        }
    }

    fn describe(&mut self, relation: &Relation<'_>) {
        let table = Table::new(relation, |column| self.catalogue.facts(relation.id, column));
        self.table = None;
        // The same description comes again after many kinds of catalogue change; the table that
        // batches know stays the same then.
        let known = self.tables.get(&relation.id);
        if known.is_none_or(|known| **known != table) {
            self.tables.insert(relation.id, Arc::new(table));
        }
    }

    /// Makes a relation's table the one that rows are of.
    #[inline]
    fn select_table(&mut self, relation: u32) -> Result<(), Failure> {
        if self.table.as_ref().is_some_and(|(id, _)| *id == relation) {
            return Ok(());
        }
        let table = self.tables.get(&relation).ok_or_else(|| not_described(relation))?;
        self.table = Some((relation, table.clone()));
        Ok(())
    }

    #[inline]
    fn update(
        &mut self,
        relation: u32,
        old: Option<OldTuple<'_>>,
        new: Tuple<'_>,
        lsn: u64,
        bounds: &Bounds,
    ) -> Result<(), Failure> {
        self.select_table(relation)?;
        let Some(OldTuple::Key(old_row) | OldTuple::Full(old_row)) = old else {
            return self.row(new, None, RowKind::Present, lsn, bounds);
        };
        // One change, two row versions at the destination, and still one at the source: only the
        // new one is counted.
        if self.table.as_ref().is_some_and(|(_, table)| table.key_differs(old_row, new)) {
            self.write(old_row, None, RowKind::Deleted, lsn)?;
        }
        let whole = matches!(old, Some(OldTuple::Full(_))).then_some(old_row);
        self.row(new, whole, RowKind::Present, lsn, bounds)
    }

    /// Adds one row version to the open batch, and flushes it when it is full.
    #[inline]
    fn row(
        &mut self,
        tuple: Tuple<'_>,
        old: Option<Tuple<'_>>,
        kind: RowKind,
        lsn: u64,
        bounds: &Bounds,
    ) -> Result<(), Failure> {
        let bytes = self.write(tuple, old, kind, lsn)?;
        let Some(transaction) = &mut self.transaction else {
            let text = format!("a row outside a transaction at {}", lsn_text(lsn));
            return Err(ReplicationError::Protocol(text).into_failure());
        };
        transaction.rows += 1;
        let segment = Segment {
            due: transaction.due,
            commit_us: transaction.commit_us,
            received_us: self.received_us,
            rows: 0,
        };
        self.open.count(1, bytes, segment);
        segment.add_rows(1, &mut self.received);
        if self.open.is_full(bounds) {
            self.cut();
        }
        Ok(())
    }

    /// Writes a row to its table's buffer, or checks it where nothing is written; returns the bytes
    /// it counts for.
    #[inline]
    fn write(
        &mut self,
        tuple: Tuple<'_>,
        old: Option<Tuple<'_>>,
        kind: RowKind,
        lsn: u64,
    ) -> Result<u64, Failure> {
        let Some((_, table)) = &self.table else { return Err(not_described(0)) };
        if !self.encode {
            table.check(tuple).map_err(|e| unencodable(&e))?;
            return Ok(tuple.encoded_bytes() as u64);
        }
        let part = self.open.part(table);
        let before = part.encoded.len();
        table.encode(tuple, old, kind, lsn, &mut part.encoded).map_err(|e| unencodable(&e))?;
        part.rows += 1;
        Ok((part.encoded.len() - before) as u64)
    }

    fn cut(&mut self) {
        let batch = std::mem::take(&mut self.open);
        self.flusher.add_in_flight(batch.bytes);
        self.open = self.flusher.flush(batch);
    }

    fn tell_recorder(&mut self, bytes: u64) {
        let (received, ended) = (&mut self.received, &mut self.ended);
        self.flusher.record(|recorder| {
            recorder.received_bytes(bytes);
            received.drain(..).for_each(|segment| recorder.received(&segment));
            ended.drain(..).for_each(|due| recorder.received_transaction(due));
        });
    }
}

#[cold]
fn not_described(relation: u32) -> Failure {
    let text = format!("a row of relation {relation}, which was not described");
    ReplicationError::Protocol(text).into_failure()
}

#[cold]
fn unencodable(error: &EncodeError) -> Failure {
    let failure = Failure::new("a row can't be replicated");
    match error {
        EncodeError::Unchanged { table, .. } => failure.caused_by(error).hint(format!(
            "set postgres.replica_identity = \"full\", or ALTER TABLE {table} REPLICA IDENTITY FULL"
        )),
        _ => failure.caused_by(error),
    }
}
