//! A replication slot and the walsender that streams it: decodes the WAL record by record as
//! PostgreSQL's reorder buffer and pgoutput do, so that what is sent, and sent again, is what
//! PostgreSQL would send.

use std::collections::VecDeque;

use super::database::{Change, Database, Op, Record, Span, TABLES, Txn};
use super::draw::Draw;
use super::message::{self, Gid};

/// How a stream is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Transactions are sent before they are committed: once in so many records. 0: never.
    pub streams_one_in: u64,
    /// An abort tells where it is, as under `streaming 'parallel'`.
    pub parallel: bool,
    /// Transactions are sent when they are prepared.
    pub two_phase: bool,
    /// Empty transactions are sent too, as before PostgreSQL 15.
    pub sends_empty: bool,
}

/// A slot: what of it outlives the walsender.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// `confirmed_flush_lsn`.
    pub confirmed_lsn: u64,
    /// The same as it was last written to disk: what is left of it after a crash.
    pub persisted_lsn: u64,
    /// From where on transactions are sent when they are prepared.
    pub two_phase_at: Option<u64>,
}

impl Slot {
    /// Whether a session that starts at `start_lsn` will get the rows of a transaction, if it is
    /// committed one day.
    pub(super) fn sends_rows(&self, txn: &Txn, start_lsn: u64) -> bool {
        if txn.ended.is_some_and(|ended| ended.lsn < start_lsn) {
            return false;
        }
        match (txn.prepared, self.two_phase_at) {
            (Some(prepared), Some(two_phase_at)) => {
                prepared.lsn >= start_lsn || prepared.lsn < two_phase_at
            }
            _ => true,
        }
    }
}

/// One connection's walsender.
pub(super) struct Walsender {
    options: Options,
    start_lsn: u64,
    two_phase_at: Option<u64>,
    /// The record to be decoded next.
    next: usize,
    /// Position behind the last decoded one, as keepalives have it.
    sent_lsn: u64,
    /// By the transaction's index.
    decoding: Vec<Decoding>,
    /// Transactions of which changes were decoded and no end.
    open: Vec<usize>,
    relations: [RelationSent; TABLES],
    /// What was sent and has not been received.
    pub out: VecDeque<Vec<u8>>,
}

/// What is known of a transaction.
#[derive(Clone, Debug, Default)]
struct Decoding {
    /// Changes that were decoded.
    decoded: usize,
    /// Those of them that were streamed.
    streamed: usize,
    is_streamed: bool,
    streamed_subs: Vec<u32>,
    undone_subs: Vec<u32>,
}

/// To whom a relation was described.
#[derive(Clone, Debug, Default)]
struct RelationSent {
    /// To everybody.
    to_all: bool,
    /// Only in these streamed transactions.
    in_streamed: Vec<u32>,
}

/// The form in which changes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Streamed,
}

impl Walsender {
    /// Starts at `start_lsn`, or where the slot is confirmed if that is later.
    pub(super) fn start(
        slot: &mut Slot,
        database: &Database,
        options: Options,
        start_lsn: u64,
        draw: &mut Draw,
    ) -> Self {
        let start_lsn = start_lsn.max(slot.confirmed_lsn);
        if options.two_phase && slot.two_phase_at.is_none() {
            slot.two_phase_at = Some(start_lsn);
            slot.persisted_lsn = slot.confirmed_lsn;
        }
        let is_needed = |txn: &&Txn| txn.ended.is_none_or(|ended| ended.lsn >= start_lsn);
        let behind = database.wal.partition_point(|(span, _)| span.lsn < start_lsn);
        let first = database.txns.iter().filter(is_needed).map(|txn| txn.first_record);
        // WAL may be read from an earlier position than would be needed.
        let next = first.fold(behind, usize::min).saturating_sub(draw.index(10));
        Self {
            options,
            start_lsn,
            two_phase_at: slot.two_phase_at,
            next,
            sent_lsn: slot.confirmed_lsn,
            decoding: vec![Decoding::default(); database.txns.len()],
            open: Vec::new(),
            relations: Default::default(),
            out: VecDeque::new(),
        }
    }

    /// Whether everything was sent.
    pub(super) fn is_at_end(&self, database: &Database) -> bool {
        self.next == database.wal.len()
    }

    /// Decodes one record, and sends what there is to send then.
    pub(super) fn decode_next(&mut self, database: &Database, draw: &mut Draw) {
        let Some((span, record)) = database.wal.get(self.next) else {
            return self.keepalive(draw.chance(50));
        };
        self.next += 1;
        self.decode(database, *span, record, draw);
        self.sent_lsn = span.end_lsn;
        if draw.one_in(12) {
            self.keepalive(draw.chance(30));
        }
    }

    /// Sends a sign of life.
    pub(super) fn keepalive(&mut self, reply: bool) {
        self.out.push_back(message::keepalive(self.sent_lsn, reply));
    }

    fn send(&mut self, body: Vec<u8>, draw: &mut Draw) {
        self.out.push_back(body);
        // A large transaction takes long to send: keepalives come in the middle of it.
        if draw.one_in(40) {
            self.keepalive(draw.chance(30));
        }
    }

    fn decode(&mut self, database: &Database, span: Span, record: &Record, draw: &mut Draw) {
        let txns = &database.txns;
        self.decoding.resize(txns.len(), Decoding::default());
        match record {
            Record::Changes { of, behind } => {
                self.decoding[*of].decoded = *behind;
                if !self.open.contains(of) {
                    self.open.push(*of);
                }
                self.stream_if_large(txns, span, draw);
            }
            Record::UndoneSubs { of, subxids } => self.undone(&txns[*of], *of, subxids, span, draw),
            Record::Abort(of) => self.abort(&txns[*of], *of, span, draw),
            Record::Crash(lost) => lost.iter().for_each(|of| self.abort_old(&txns[*of], *of, draw)),
            Record::Commit(of) => self.commit(&txns[*of], *of, span, draw),
            Record::Prepare(of) => self.prepare(&txns[*of], *of, span, draw),
            Record::CommitPrepared(of) => self.commit_prepared(&txns[*of], *of, span, draw),
            Record::RollbackPrepared(of) => self.rollback_prepared(&txns[*of], *of, span, draw),
            Record::LoneMessage if span.lsn >= self.start_lsn => {
                self.send(message::lone_message(span.end_lsn), draw);
            }
            Record::LoneMessage | Record::Other => {}
        }
    }

    /// Memory is full: some transaction is sent though it is not committed. Not before the start,
    /// where it is not known whether it is wanted.
    fn stream_if_large(&mut self, txns: &[Txn], span: Span, draw: &mut Draw) {
        let Options { streams_one_in, .. } = self.options;
        if span.lsn >= self.start_lsn && streams_one_in > 0 && draw.one_in(streams_one_in) {
            let of = self.open[draw.index(self.open.len())];
            self.stream(&txns[of], of, draw);
        }
    }

    /// The end of a transaction was decoded, or its PREPARE where that counts.
    fn close(&mut self, of: usize) {
        self.open.retain(|other| *other != of);
    }

    /// Sends what of a transaction was decoded and not sent, as a stream block.
    fn stream(&mut self, txn: &Txn, of: usize, draw: &mut Draw) {
        let Decoding { streamed, decoded, is_streamed, undone_subs, .. } =
            self.decoding[of].clone();
        let is_left = |change: &&Change| !undone_subs.contains(&change.subxid);
        let changes: Vec<_> = txn.changes[streamed..decoded].iter().filter(is_left).collect();
        self.decoding[of].streamed = decoded;
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        self.send(message::stream_start(first.lsn, txn.xid, !is_streamed), draw);
        let decoding = &mut self.decoding[of];
        decoding.is_streamed = true;
        decoding.streamed_subs.extend(changes.iter().map(|c| c.subxid).filter(|x| *x != txn.xid));
        self.send_changes(txn, of, &changes, Form::Streamed, draw);
        self.send(message::stream_stop(last.lsn), draw);
    }

    fn undone(&mut self, txn: &Txn, of: usize, subxids: &[u32], span: Span, draw: &mut Draw) {
        for subxid in subxids {
            self.decoding[of].undone_subs.push(*subxid);
            self.stream_abort(txn, of, *subxid, span, draw);
        }
    }

    fn stream_abort(&mut self, txn: &Txn, of: usize, subxid: u32, span: Span, draw: &mut Draw) {
        let decoding = &self.decoding[of];
        let was_streamed = match subxid == txn.xid {
            true => decoding.is_streamed,
            false => decoding.streamed_subs.contains(&subxid),
        };
        if was_streamed {
            let parallel = self.options.parallel;
            self.send(message::stream_abort(txn.xid, subxid, span.lsn, parallel), draw);
            self.forget_streamed(txn.xid, false);
        }
    }

    /// A streamed transaction has ended, or a part of it: what was described in it counts for all
    /// if it was committed, and has to be described again if not.
    fn forget_streamed(&mut self, xid: u32, committed: bool) {
        for relation in &mut self.relations {
            if relation.in_streamed.contains(&xid) {
                relation.to_all |= committed;
                relation.in_streamed.retain(|other| *other != xid);
            }
        }
    }

    fn abort(&mut self, txn: &Txn, of: usize, span: Span, draw: &mut Draw) {
        self.close(of);
        for subxid in txn.subxids.iter().chain([&txn.xid]) {
            self.stream_abort(txn, of, *subxid, span, draw);
        }
    }

    /// A crash has ended it, which older versions do not tell.
    fn abort_old(&mut self, txn: &Txn, of: usize, draw: &mut Draw) {
        self.close(of);
        if draw.chance(50) {
            self.stream_abort(txn, of, txn.xid, Span { lsn: 0, end_lsn: 0 }, draw);
        }
    }

    fn commit(&mut self, txn: &Txn, of: usize, span: Span, draw: &mut Draw) {
        self.close(of);
        if span.lsn < self.start_lsn {
            return;
        }
        if self.decoding[of].is_streamed {
            self.stream(txn, of, draw);
            self.send(message::stream_commit(txn.xid, span), draw);
            return self.forget_streamed(txn.xid, true);
        }
        let changes = self.left(txn, of);
        let is_empty = changes.iter().all(|change| !is_sent(&change.op));
        if is_empty && !self.options.sends_empty {
            if draw.chance(50) {
                self.out.push_back(message::keepalive(span.end_lsn, false));
            }
            return self.redescribe(txn, of);
        }
        let first_lsn = changes.first().map_or(span.lsn, |change| change.lsn);
        self.send(message::begin(first_lsn, span.lsn, txn.xid), draw);
        self.send_changes(txn, of, &changes, Form::Whole, draw);
        self.send(message::commit(span), draw);
    }

    fn left<'a>(&mut self, txn: &'a Txn, of: usize) -> Vec<&'a Change> {
        let undone = &self.decoding[of].undone_subs;
        txn.changes.iter().filter(|change| !undone.contains(&change.subxid)).collect()
    }

    fn prepare(&mut self, txn: &Txn, of: usize, span: Span, draw: &mut Draw) {
        if self.two_phase_at.is_none() {
            return;
        }
        self.close(of);
        if span.lsn >= self.start_lsn {
            self.send_prepared(txn, of, span, draw);
        }
    }

    fn send_prepared(&mut self, txn: &Txn, of: usize, prepared: Span, draw: &mut Draw) {
        let gid = Gid { xid: txn.xid, prepared };
        if self.decoding[of].is_streamed {
            self.stream(txn, of, draw);
            return self.send(message::stream_prepare(gid), draw);
        }
        let changes = self.left(txn, of);
        let first_lsn = changes.first().map_or(prepared.lsn, |change| change.lsn);
        self.send(message::begin_prepare(first_lsn, gid), draw);
        self.send_changes(txn, of, &changes, Form::Whole, draw);
        self.send(message::prepare(gid), draw);
    }

    fn commit_prepared(&mut self, txn: &Txn, of: usize, span: Span, draw: &mut Draw) {
        let (Some(prepared), true) = (txn.prepared, span.lsn >= self.start_lsn) else { return };
        let Some(two_phase_at) = self.two_phase_at else {
            return self.commit(txn, of, span, draw);
        };
        if prepared.lsn < two_phase_at {
            self.send_prepared(txn, of, prepared, draw);
        }
        self.send(message::commit_prepared(txn.xid, span), draw);
        self.redescribe(txn, of);
    }

    fn rollback_prepared(&mut self, txn: &Txn, of: usize, span: Span, draw: &mut Draw) {
        let (Some(prepared), true) = (txn.prepared, span.lsn >= self.start_lsn) else { return };
        if self.two_phase_at.is_none() {
            return self.abort(txn, of, span, draw);
        }
        self.send(message::rollback_prepared(Gid { xid: txn.xid, prepared }, span), draw);
        self.redescribe(txn, of);
    }

    /// The catalogue's caches are as before the transaction: what it altered is described again.
    fn redescribe(&mut self, txn: &Txn, of: usize) {
        for change in &txn.changes[..self.decoding[of].decoded] {
            if let Op::AddColumn(table) = change.op {
                self.relations[table] = RelationSent::default();
            }
        }
    }

    fn send_changes(
        &mut self,
        txn: &Txn,
        of: usize,
        changes: &[&Change],
        form: Form,
        draw: &mut Draw,
    ) {
        for change in changes {
            self.send_change(txn, change, form, draw);
        }
        self.redescribe(txn, of);
    }

    fn send_change(&mut self, txn: &Txn, change: &Change, form: Form, draw: &mut Draw) {
        let Change { lsn, subxid, op, .. } = change;
        let streamed = (form == Form::Streamed).then_some(*subxid);
        let body = match op {
            Op::Insert(row) => {
                self.describe(txn, row.described(), streamed, draw);
                message::insert(*lsn, row, streamed)
            }
            Op::Update { old_key, new } => {
                self.describe(txn, new.described(), streamed, draw);
                message::update(*lsn, *old_key, new, streamed)
            }
            Op::Delete(row) => {
                self.describe(txn, row.described(), streamed, draw);
                message::delete(*lsn, row, streamed)
            }
            Op::Truncate(tables) => {
                for (table, columns) in tables {
                    self.describe(txn, (*table, *columns), streamed, draw);
                }
                message::truncate(*lsn, tables, streamed)
            }
            // A message is the transaction's own wherever it stands.
            Op::Stamp => message::stamp(*lsn, txn.sequence, streamed.map(|_| txn.xid)),
            Op::AddColumn(table) => {
                self.relations[*table] = RelationSent::default();
                return;
            }
            Op::Unpublished => return,
        };
        self.send(body, draw);
    }

    /// Describes a table with so many columns, where that is not known yet.
    fn describe(
        &mut self,
        txn: &Txn,
        (table, columns): (usize, usize),
        streamed: Option<u32>,
        draw: &mut Draw,
    ) {
        let sent = &mut self.relations[table];
        let known = match streamed {
            Some(_) => sent.in_streamed.contains(&txn.xid),
            None => sent.to_all,
        };
        if known {
            return;
        }
        match streamed {
            Some(_) => sent.in_streamed.push(txn.xid),
            None => sent.to_all = true,
        }
        self.send(message::relation(table, columns, streamed), draw);
    }
}

/// Whether a change is one that the stream has.
fn is_sent(op: &Op) -> bool {
    !matches!(op, Op::AddColumn(_) | Op::Unpublished)
}
