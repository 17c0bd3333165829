//! Changes become rows of the open batch: the only pass over what was received.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use walbench_metrics::stamp::{self, Stamp};
use walbench_metrics::{Failure, Window};

use super::batch::{Batch, Due, Segment};
use super::confirmations::Ended;
use super::fault::{Fault, is_planted};
use super::machine::{Describe, protocol};
use crate::pgoutput::{LogicalMessage, OldTuple, Relation, Tuple};
use crate::replication::lsn_text;
use crate::rowbinary::{EncodeError, Policy, RowKind, Table, Unencodable};

/// How rows are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    /// The run, as its stamps carry it.
    pub run: u64,
    /// Subtracted from the server's clock to have the orchestrator's, in µs.
    pub server_correction_us: i64,
    /// Whether rows are encoded or only checked.
    pub encode: bool,
    /// What becomes of values that have no counterpart.
    pub policy: Policy,
}

/// Tables by the OID of their relation; cheap to keep.
pub(super) type Tables = Arc<HashMap<u32, Arc<Table>>>;

/// Rows as they come, up to the next cut.
pub(super) struct Rows {
    writing: Writing,
    catalogue: Box<dyn Describe>,
    tables: Tables,
    /// The table that rows are of; the next row's most often is the last one's.
    table: Option<(u32, Arc<Table>)>,
    /// Columns that were NULL though the catalogue says they never are.
    widened: HashSet<(u32, String)>,
    pub(super) open: Batch,
    /// When what is read now arrived, in µs of the orchestrator's clock.
    pub(super) received_us: i64,
    transaction: Option<Transaction>,
    last_commit_lsn: u64,
    /// Behind the beginning of the last commit of which anything was ever received.
    pub(super) begun_lsn: u64,
    /// Transactions whose commit position was not above that of the one before.
    pub(super) out_of_order: u64,
    pub(super) account: Account,
}

/// What was received since the last time somebody asked.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Rows.
    pub received: Vec<Segment>,
    /// Transactions that ended.
    pub ended: Vec<Option<Due>>,
    /// Values that were clamped.
    pub clamped_values: u64,
    /// Flushes that failed.
    pub errors: u64,
    /// Flushes that are tried again.
    pub retries: u64,
}

/// The transaction that is being received.
#[derive(Clone, Copy)]
struct Transaction {
    commit_lsn: u64,
    /// When it was committed on this server, in µs of the orchestrator's clock, if that is known.
    commit_us: Option<i64>,
    due: Option<Due>,
    stamp: Option<(u32, u32, u64)>,
    rows: u64,
}

impl Rows {
    pub(super) fn new(writing: Writing, catalogue: Box<dyn Describe>) -> Self {
        Self {
            writing,
            catalogue,
            tables: Tables::default(),
            table: None,
            widened: HashSet::new(),
            open: Batch::default(),
            received_us: 0,
            transaction: None,
            last_commit_lsn: 0,
            begun_lsn: 0,
            out_of_order: 0,
            account: Account::default(),
        }
    }

    /// Forgets what is not whole: it comes again.
    pub(super) fn restart(&mut self) {
        if !is_planted(Fault::KeepBatch) {
            self.open.clear();
        }
        self.transaction = None;
        self.last_commit_lsn = 0;
    }

    /// Whether a transaction has begun and not ended.
    pub(super) fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    pub(super) fn begin(&mut self, commit_lsn: u64, commit_us: i64) -> Result<(), Failure> {
        if self.transaction.is_some() {
            let text = format!("a transaction begins inside another at {}", lsn_text(commit_lsn));
            return Err(protocol(text));
        }
        self.out_of_order += u64::from(commit_lsn <= self.last_commit_lsn);
        self.last_commit_lsn = commit_lsn;
        self.begun_lsn = self.begun_lsn.max(commit_lsn + 1);
        let commit_us = Some(commit_us - self.writing.server_correction_us);
        self.transaction =
            Some(Transaction { commit_lsn, commit_us, due: None, stamp: None, rows: 0 });
        Ok(())
    }

    /// The transaction was replicated to this server: PostgreSQL gives the time of its commit on the
    /// server where it was made, from which no lag of ours follows.
    pub(super) fn comes_from_elsewhere(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.commit_us = None;
        }
    }

    pub(super) fn commit(&mut self, commit_lsn: u64) -> Result<(), Failure> {
        let Some(transaction) = self.transaction.take_if(|t| t.commit_lsn == commit_lsn) else {
            return Err(protocol(format!(
                "a commit without its begin at {}",
                lsn_text(commit_lsn)
            )));
        };
        self.account.ended.push(transaction.due);
        self.open.mark.ended.push(Ended { stamp: transaction.stamp, rows: transaction.rows });
        Ok(())
    }

    pub(super) fn stamp(&mut self, message: &LogicalMessage<'_>) {
        if !message.transactional || message.prefix != stamp::PREFIX {
            return;
        }
        let stamp = Stamp::decode(message.content).filter(|stamp| stamp.run == self.writing.run);
        if let (Some(stamp), Some(transaction)) = (stamp, &mut self.transaction) {
            let window = if stamp.measured { Window::Measured } else { Window::Warmup };
            transaction.due = Some(Due { phase: stamp.phase, window, due_us: stamp.due_us });
            transaction.stamp = Some((stamp.phase, stamp.producer, stamp.sequence));
        }
    }

    pub(super) fn describe(&mut self, relation: &Relation<'_>) -> Result<(), Failure> {
        match self.catalogue.learn(relation) {
            Err(_) if is_planted(Fault::PassOverUnanswered) => return Ok(()),
            learnt => learnt?,
        }
        let facts = self.catalogue.facts(relation.id);
        let mut table = Table::new(relation, facts, self.writing.policy);
        for (_, column) in self.widened.iter().filter(|(id, _)| *id == relation.id) {
            table.widen(column);
        }
        self.table = None;
        // The same description comes again after many kinds of catalogue change; the table that
        // batches know stays the same then.
        let known = self.tables.get(&relation.id);
        if known.is_none_or(|known| **known != table) {
            Arc::make_mut(&mut self.tables).insert(relation.id, Arc::new(table));
        }
        Ok(())
    }

    /// The tables as they are described now.
    pub(super) fn tables(&self) -> Tables {
        self.tables.clone()
    }

    /// From here on tables are as they were described at another time; returns how they were.
    pub(super) fn replace_tables(&mut self, tables: Tables) -> Tables {
        self.table = None;
        std::mem::replace(&mut self.tables, tables)
    }

    /// The table of a relation.
    pub(super) fn table_of(&self, relation: u32) -> Result<Arc<Table>, Failure> {
        self.tables.get(&relation).cloned().ok_or_else(|| not_described(relation))
    }

    /// Makes a relation's table the one that rows are of.
    #[inline]
    fn select_table(&mut self, relation: u32) -> Result<(), Failure> {
        if self.table.as_ref().is_some_and(|(id, _)| *id == relation) {
            return Ok(());
        }
        self.table = Some((relation, self.table_of(relation)?));
        Ok(())
    }

    #[inline]
    pub(super) fn insert(
        &mut self,
        relation: u32,
        new: Tuple<'_>,
        lsn: u64,
    ) -> Result<(), Failure> {
        self.select_table(relation)?;
        let bytes = self.write(new, None, RowKind::Present, lsn)?;
        self.count(bytes, lsn)
    }

    #[inline]
    pub(super) fn update(
        &mut self,
        relation: u32,
        old: Option<OldTuple<'_>>,
        new: Tuple<'_>,
        lsn: u64,
    ) -> Result<(), Failure> {
        self.select_table(relation)?;
        let Some(OldTuple::Key(old_row) | OldTuple::Full(old_row)) = old else {
            let bytes = self.write(new, None, RowKind::Present, lsn)?;
            return self.count(bytes, lsn);
        };
        // One change, two row versions at the destination, and still one at the source: only the
        // new one is counted.
        let mut bytes = 0;
        if self.table.as_ref().is_some_and(|(_, table)| table.key_differs(old_row, new)) {
            bytes += self.write(old_row, None, RowKind::Deleted, lsn)?;
        }
        bytes += self.write(new, Some(old_row), RowKind::Present, lsn)?;
        self.count(bytes, lsn)
    }

    #[inline]
    pub(super) fn delete(
        &mut self,
        relation: u32,
        (OldTuple::Key(old) | OldTuple::Full(old)): OldTuple<'_>,
        lsn: u64,
    ) -> Result<(), Failure> {
        self.select_table(relation)?;
        let bytes = self.write(old, None, RowKind::Deleted, lsn)?;
        self.count(bytes, lsn)
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
        if !self.writing.encode {
            table.check(tuple).map_err(|e| unencodable(&e))?;
            return Ok(tuple.encoded_bytes() as u64);
        }
        let part = self.open.part(table);
        let before = part.encoded.len();
        match table.encode(tuple, old, kind, lsn, &mut part.encoded) {
            Ok(clamped) => {
                self.account.clamped_values += u64::from(clamped);
                part.rows += 1;
                Ok((part.encoded.len() - before) as u64)
            }
            Err(error) => {
                self.widen(&error)?;
                self.write(tuple, old, kind, lsn)
            }
        }
    }

    /// A column that was NOT NULL when the catalogue was read may not be any more: the row shows
    /// that it isn't. From here on the table is written with it as `Nullable`.
    #[cold]
    fn widen(&mut self, error: &EncodeError) -> Result<(), Failure> {
        let Some((relation, table)) = &mut self.table else { return Err(not_described(0)) };
        let EncodeError::Value { column, source: Unencodable::Null, .. } = error else {
            return Err(unencodable(error));
        };
        let mut wider = Table::clone(table);
        if !wider.widen(column) {
            return Err(unencodable(error));
        }
        self.widened.insert((*relation, column.clone()));
        *table = Arc::new(wider);
        Arc::make_mut(&mut self.tables).insert(*relation, table.clone());
        Ok(())
    }

    /// Counts one change.
    #[inline]
    fn count(&mut self, bytes: u64, lsn: u64) -> Result<(), Failure> {
        let Some(transaction) = &mut self.transaction else {
            return Err(protocol(format!("a row outside a transaction at {}", lsn_text(lsn))));
        };
        transaction.rows += 1;
        let segment = Segment {
            due: transaction.due,
            commit_us: transaction.commit_us,
            received_us: self.received_us,
            rows: 0,
        };
        self.open.count(1, bytes, segment);
        segment.add_rows(1, &mut self.account.received);
        Ok(())
    }
}

#[cold]
fn not_described(relation: u32) -> Failure {
    protocol(format!("a row of relation {relation}, which was not described"))
}

#[cold]
fn unencodable(error: &EncodeError) -> Failure {
    let failure = Failure::new("a row can't be replicated").caused_by(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Message;
    use crate::rowbinary::{Facts, SourceType, TableFacts};
    use crate::stream::simulation::writing;

    const LSN: u64 = 8;

    /// A catalogue of one table: a key of two columns and another one, all of them text.
    struct Catalogue(TableFacts);

    impl Catalogue {
        fn new(not_null: bool) -> Self {
            let column = |name: &str| Facts {
                name: name.into(),
                not_null,
                primary_key: name != "note",
                identity: name != "note",
                published: true,
                type_oid: 25,
                type_modifier: -1,
                source: SourceType::of(25),
            };
            let columns = ["large", "small", "note"].map(column).into();
            let (namespace, name) = ("public".into(), "t".into());
            let identity = crate::pgoutput::ReplicaIdentity::Default;
            Self(TableFacts { oid: 7, namespace, name, identity, columns })
        }
    }

    impl Describe for Catalogue {
        fn learn(&mut self, _relation: &Relation<'_>) -> Result<(), Failure> {
            Ok(())
        }

        fn facts(&self, _relation: u32) -> Option<&TableFacts> {
            Some(&self.0)
        }
    }

    /// Rows of that table, in a transaction.
    fn rows(not_null: bool) -> Rows {
        let catalogue = Catalogue::new(not_null);
        let facts = catalogue.0.clone();
        let mut rows = Rows::new(writing(), Box::new(catalogue));
        rows.describe(&facts.relation()).unwrap();
        rows.begin(LSN, 0).unwrap();
        rows
    }

    /// A tuple as it is sent: values are letters, `-` is NULL and `=` is left out as unchanged.
    fn tuple(tag: u8, values: &str) -> Vec<u8> {
        let values = values.bytes().flat_map(|value| match value {
            b'-' => vec![b'n'],
            b'=' => vec![b'u'],
            letter => vec![b't', 0, 0, 0, 1, letter],
        });
        [tag, 0, 3].into_iter().chain(values).collect()
    }

    fn update(rows: &mut Rows, old: Option<(u8, &str)>, new: &str) -> Result<(), Failure> {
        let old = old.map(|(tag, values)| tuple(tag, values)).unwrap_or_default();
        let body = [b"U\0\0\0\x07".as_slice(), &old, &tuple(b'N', new)].concat();
        match Message::decode(&body).unwrap() {
            Message::Update { relation, old, new } => rows.update(relation, old, new, LSN),
            other => panic!("{other:?}"),
        }
    }

    /// A row as it is written, where `note` may be NULL.
    fn written(large: u8, small: u8, note: Option<u8>, is_deleted: bool) -> Vec<u8> {
        let note = note.map_or(vec![1], |note| vec![0, 1, note]);
        let head = [&[1, large, 1, small], note.as_slice(), &LSN.to_le_bytes()].concat();
        [head, vec![is_deleted.into()]].concat()
    }

    #[test]
    fn an_unchanged_value_is_taken_from_the_old_row_where_that_has_it() {
        let present = |large, small, note| written(large, small, Some(note), false);
        let moved = [written(b'L', b'a', None, true), present(b'L', b's', b'n')].concat();
        for (old, new, expected) in [
            (Some((b'K', "Ls-")), "=sn", Some(present(b'L', b's', b'n'))),
            (Some((b'K', "La-")), "=sn", Some(moved)),
            (Some((b'O', "LsN")), "=s=", Some(present(b'L', b's', b'N'))),
            // Not a column of the key.
            (Some((b'K', "Ls-")), "=s=", None),
            (None, "=sn", None),
        ] {
            let mut rows = rows(false);
            let updated = update(&mut rows, old, new);
            let Some(expected) = expected else {
                let failure = updated.unwrap_err().to_string();
                assert!(failure.contains("left unchanged"), "{old:?} {new}: {failure}");
                continue;
            };
            updated.unwrap();
            assert_eq!(rows.open.parts[0].encoded, expected, "{old:?} {new}");
            assert_eq!(rows.open.rows, 1, "one change");
        }
    }

    #[test]
    fn a_column_is_widened_once_however_often_its_table_is_as_it_was() {
        let mut rows = rows(true);
        let narrow = rows.tables();
        for _ in 0..3 {
            update(&mut rows, None, "ab-").unwrap();
            assert!(rows.table_of(7).unwrap().columns[2].nullable);
            rows.replace_tables(narrow.clone());
        }
        assert_eq!(rows.widened.len(), 1);
        rows.describe(&Catalogue::new(true).0.relation()).unwrap();
        assert!(rows.table_of(7).unwrap().columns[2].nullable, "it is not forgotten");
    }
}
