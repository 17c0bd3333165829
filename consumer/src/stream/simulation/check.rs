//! What has to hold.

use std::fmt;

use super::database::{Change, Database, KEYED, KEYS, LOG, Op, State};
use super::server::Slot;
use super::sink::Sink;
use crate::delivery::Delivered;

/// What a machine promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// What the slot is confirmed behind is durable at the sink: PostgreSQL does not send it again.
    ConfirmedIsDurable,
    /// The confirmed position does not fall, nor lie beyond what there is.
    ConfirmedRises,
    /// Bytes in flight are bounded.
    MemoryIsBounded,
    /// A job is tried as often as it may be and no oftener; no other runs at the same time than may.
    RetriesEnd,
    /// What PostgreSQL sends is understood, and a connection that is lost can be replaced.
    StreamIsUnderstood,
    /// In the end the sink holds what the database does.
    StatesAreEqual,
    /// It comes to an end.
    EverythingEnds,
    /// The ledger names the durable transactions, each with its rows.
    LedgerIsTrue,
}

/// A promise that was not kept.
#[derive(Debug)]
pub(super) struct Broken {
    pub promise: Promise,
    pub how: String,
}

impl Broken {
    pub(super) fn new(promise: Promise, how: impl Into<String>) -> Self {
        Self { promise, how: how.into() }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.how)
    }
}

/// What of a change the sink does not hold.
fn missing(change: &Change, database: &Database, sink: &Sink) -> Option<String> {
    let lsn = change.lsn;
    let is_emptied = |table: usize| database.model.truncated_lsn[table] > lsn;
    let keyed = |table: usize, key: u64| {
        let there = sink.keyed[table][key as usize].is_some_and(|stored| stored.version >= lsn);
        (!there && !is_emptied(table)).then(|| format!("key {key} of table {table} at {lsn}"))
    };
    match &change.op {
        Op::Insert(row) if row.table == LOG => {
            let there = sink.log.get(row.value as usize).is_some_and(|count| *count > 0);
            (!there && !is_emptied(LOG)).then(|| format!("row {} of the log at {lsn}", row.value))
        }
        Op::Insert(row) | Op::Delete(row) => keyed(row.table, row.key),
        Op::Update { old_key, new } => {
            keyed(new.table, new.key).or_else(|| old_key.and_then(|key| keyed(new.table, key)))
        }
        Op::Truncate(_) | Op::AddColumn(_) | Op::Stamp | Op::Unpublished => None,
    }
}

fn missing_of(of: usize, database: &Database, sink: &Sink) -> Option<String> {
    let txn = &database.txns[of];
    let what = txn.lasting().find_map(|change| missing(change, database, sink))?;
    Some(format!("{what}, of transaction {} which ended at {:?}", txn.xid, txn.ended))
}

/// Checks what a slot's position promises, and remembers what needs no second look.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// How many transactions, in the order of their commits, were seen.
    seen: usize,
    /// Those of them that may still be sent.
    unsettled: Vec<usize>,
    truncations: u64,
}

impl Durable {
    /// Everything that is not sent again is at the sink.
    pub(super) fn check(
        &mut self,
        slot: &Slot,
        database: &Database,
        sink: &Sink,
    ) -> Result<(), Broken> {
        if self.truncations != sink.truncations {
            *self = Self { truncations: sink.truncations, ..Self::default() };
        }
        self.unsettled.extend(&database.model.order[self.seen..]);
        self.seen = database.model.order.len();
        let broken = |how| Err(Broken::new(Promise::ConfirmedIsDurable, how));
        let confirmed_lsn = slot.confirmed_lsn;
        for of in std::mem::take(&mut self.unsettled) {
            if slot.sends_rows(&database.txns[of], confirmed_lsn) {
                self.unsettled.push(of);
            } else if let Some(what) = missing_of(of, database, sink) {
                return broken(format!("confirmed {confirmed_lsn}, and the sink lacks {what}"));
            }
        }
        let is_cut_off = |of: &&usize| !slot.sends_rows(&database.txns[**of], confirmed_lsn);
        match database.prepared.iter().find(is_cut_off) {
            None => Ok(()),
            Some(of) => {
                let txn = &database.txns[*of];
                let (xid, at) = (txn.xid, txn.prepared);
                broken(format!("confirmed {confirmed_lsn}, beyond {xid}'s PREPARE at {at:?}"))
            }
        }
    }

    /// After the server has forgotten what was confirmed last.
    pub(super) fn forget(&mut self) {
        *self = Self { truncations: self.truncations, ..Self::default() };
    }
}

/// The sink holds what the database does, when everything was delivered.
pub(super) fn equal(database: &Database, sink: &Sink, exactly_once: bool) -> Result<(), Broken> {
    let broken = |how| Err(Broken::new(Promise::StatesAreEqual, how));
    for (table, key) in (0..KEYED).flat_map(|table| (0..KEYS).map(move |key| (table, key))) {
        let stored = sink.keyed[table][key].filter(|stored| !stored.is_deleted);
        let held = stored.map(|stored| (stored.version, stored.row));
        let wanted = database.model.keyed[table][key];
        let wanted = wanted.and_then(|version| version.row.map(|row| (version.lsn, row)));
        if held != wanted {
            return broken(format!("table {table}, key {key}: {held:?} for {wanted:?}"));
        }
    }
    let mut wanted = vec![false; sink.log.len()];
    for value in &database.model.log {
        match sink.log.get(*value as usize) {
            None | Some(0) => return broken(format!("row {value} of the log is missing")),
            Some(2..) if exactly_once => {
                return broken(format!("row {value} of the log is there twice"));
            }
            Some(_) => wanted[*value as usize] = true,
        }
    }
    match sink.log.iter().zip(wanted).position(|(count, wanted)| *count > 0 && !wanted) {
        Some(value) => broken(format!("row {value} of the log is not the database's")),
        None => Ok(()),
    }
}

/// What one machine says that it delivered, from where it started to where it has confirmed.
pub(super) fn ledger(
    delivered: &Delivered,
    (start_lsn, confirmed_lsn): (u64, u64),
    slot: &Slot,
    database: &Database,
    sink: &Sink,
) -> Result<(), Broken> {
    let broken = |how| Err(Broken::new(Promise::LedgerIsTrue, how));
    let comes_again = |txn| slot.sends_rows(txn, slot.confirmed_lsn);
    let (mut rows, mut sequences) = (0, 0);
    for of in &database.model.order {
        let txn = &database.txns[*of];
        let Some(ended) = txn.ended.filter(|_| txn.is_stamped()) else { continue };
        if delivered.ledger.contains(0, 0, txn.sequence) {
            rows += txn.rows();
            sequences += 1;
            if let Some(what) = missing_of(*of, database, sink).filter(|_| !comes_again(txn)) {
                return broken(format!("delivered, and the sink lacks {what}"));
            }
        } else if txn.prepared.is_none()
            && (start_lsn..confirmed_lsn).contains(&ended.lsn)
            && ended.end_lsn <= confirmed_lsn
        {
            return broken(format!("transaction {} is confirmed and not delivered", txn.xid));
        }
    }
    let account = delivered.ledger.account(0, 0);
    let counted = account.map_or((0, 0), |account| (account.sequences.len(), account.rows));
    if counted != (sequences, rows) {
        return broken(format!("{counted:?} transactions and rows for {:?}", (sequences, rows)));
    }
    if delivered.out_of_order > 0 || delivered.ledger.accounts().count() > 1 {
        return broken(format!("{delivered:?}"));
    }
    let is_gone = |sequence: u64| {
        let txn = database.txns.get(sequence as usize);
        txn.is_none_or(|txn| txn.state != State::Committed)
    };
    let ranges = account.into_iter().flat_map(|account| account.sequences.ranges());
    match ranges.flat_map(|(first, last)| first..=last).find(|sequence| is_gone(*sequence)) {
        Some(sequence) => broken(format!("transaction number {sequence} was not committed")),
        None => Ok(()),
    }
}
