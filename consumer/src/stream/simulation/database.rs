//! A database: transactions that change a few tables at the same time, and the WAL they leave.
//! Rows and tables are locked as in PostgreSQL, so that for one row positions rise with commits.

use super::draw::Draw;

/// Keys of a table that has one.
pub(super) const KEYS: usize = 6;

/// Tables 0 and 1 have a key.
pub(super) const KEYED: usize = 2;

/// The last table is a log: rows without a key, which are only added, and emptied all at once.
pub(super) const LOG: usize = 2;

/// All tables.
pub(super) const TABLES: usize = 3;

/// Columns that a table has at most.
const MOST_COLUMNS: usize = 5;

/// Transactions that are open at once, at most; as many more may be prepared.
const MOST_OPEN: usize = 3;

/// A record's position and the one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub lsn: u64,
    pub end_lsn: u64,
}

/// A row; every column but the key holds `value`, which no other row version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub table: usize,
    pub key: u64,
    pub value: u64,
    pub columns: usize,
}

/// What a statement did.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Insert(Row),
    Update {
        /// The old row's key, if it is another.
        old_key: Option<u64>,
        new: Row,
    },
    Delete(Row),
    /// Tables, and how many columns they have.
    Truncate(Vec<(usize, usize)>),
    AddColumn(usize),
    Stamp,
    /// A change of a table that is not published.
    Unpublished,
}

/// A change and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub lsn: u64,
    /// The subtransaction it is of; the transaction itself outside of all subtransactions.
    pub subxid: u32,
    pub op: Op,
    /// It was rolled back with its subtransaction.
    pub is_undone: bool,
}

/// What a record of the WAL says; transactions are given by their index.
#[derive(Clone, Debug)]
pub(super) enum Record {
    /// Changes of a transaction, up to this index: more than one for rows that were copied in.
    Changes {
        of: usize,
        behind: usize,
    },
    /// Subtransactions were rolled back, the outermost last.
    UndoneSubs {
        of: usize,
        subxids: Vec<u32>,
    },
    Abort(usize),
    /// The server comes back: these have not survived.
    Crash(Vec<usize>),
    Commit(usize),
    Prepare(usize),
    CommitPrepared(usize),
    RollbackPrepared(usize),
    /// A logical message that is in no transaction.
    LoneMessage,
    /// Something that logical decoding has no interest in.
    Other,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Prepared,
    Committed,
    Gone,
}

/// A transaction.
#[derive(Clone, Debug)]
pub(super) struct Txn {
    pub xid: u32,
    /// Its number, as its stamp has it.
    pub sequence: u64,
    /// Index of its first record.
    pub first_record: usize,
    pub changes: Vec<Change>,
    pub state: State,
    pub prepared: Option<Span>,
    /// What ended it.
    pub ended: Option<Span>,
    /// Subtransactions that ended well.
    pub subxids: Vec<u32>,
    open_subs: Vec<Sub>,
    undo: Vec<Undo>,
    touched: [bool; TABLES],
}

/// An open subtransaction.
#[derive(Clone, Debug)]
struct Sub {
    xid: u32,
    first_change: usize,
    first_undo: usize,
    subxids: Vec<u32>,
}

/// How to take something back.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Row { table: usize, key: usize, was: Option<Row> },
    Columns { table: usize, was: usize },
}

/// What a committed key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub lsn: u64,
    /// `None` once it was deleted.
    pub row: Option<Row>,
}

/// What is committed: what a sink must hold in the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub keyed: [[Option<Version>; KEYS]; KEYED],
    pub log: Vec<u64>,
    /// Where each table was emptied last.
    pub truncated_lsn: [u64; TABLES],
    /// Transactions in the order in which they were committed.
    pub order: Vec<usize>,
}

/// What transactions do, and how often; percentages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    pub truncate: u64,
    pub add_column: u64,
    pub subtransaction: u64,
    pub prepare: u64,
    pub abort: u64,
    /// Changes of a transaction on average.
    pub changes: u64,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Database {
    pub habits: Habits,
    pub txns: Vec<Txn>,
    pub wal: Vec<(Span, Record)>,
    pub model: Model,
    open: Vec<usize>,
    pub prepared: Vec<usize>,
    next_lsn: u64,
    next_xid: u32,
    next_value: u64,
    rows: [[Option<Row>; KEYS]; KEYED],
    row_locks: [[Option<usize>; KEYS]; KEYED],
    table_locks: [Option<usize>; TABLES],
    columns: [usize; TABLES],
}

impl Database {
    pub(super) fn new(habits: Habits) -> Self {
        Self {
            habits,
            txns: Vec::new(),
            wal: Vec::new(),
            model: Model::default(),
            open: Vec::new(),
            prepared: Vec::new(),
            next_lsn: 1_000,
            next_xid: 700,
            next_value: 1,
            rows: Default::default(),
            row_locks: Default::default(),
            table_locks: Default::default(),
            columns: [2; TABLES],
        }
    }

    /// Position behind everything.
    pub(super) fn end_lsn(&self) -> u64 {
        self.wal.last().map_or(self.next_lsn, |(span, _)| span.end_lsn)
    }

    /// Becomes what it was at an earlier time. What is written from there on is none of what was
    /// lost.
    pub(super) fn rewind(&mut self, earlier: Self) {
        *self = Self { next_value: self.next_value, ..earlier };
    }

    /// Something happens.
    pub(super) fn step(&mut self, draw: &mut Draw) {
        match draw.below(100) {
            0..3 => drop(self.log(Record::Other, draw)),
            3..5 => drop(self.log(Record::LoneMessage, draw)),
            5..12 if !self.prepared.is_empty() => {
                let commit = draw.chance(75);
                self.decide(draw.index(self.prepared.len()), commit, draw);
            }
            _ => self.step_of_open(draw),
        }
    }

    fn step_of_open(&mut self, draw: &mut Draw) {
        if self.open.is_empty() || (self.open.len() < MOST_OPEN && draw.chance(15)) {
            return self.begin(draw);
        }
        let at = draw.index(self.open.len());
        if draw.one_in(self.habits.changes + 1) {
            return self.finish(at, draw);
        }
        let of = self.open[at];
        if draw.chance(self.habits.subtransaction) {
            return self.nest(of, draw);
        }
        if let Some(ops) = self.choose(of, draw) {
            self.change(of, ops, draw);
        }
    }

    fn begin(&mut self, draw: &mut Draw) {
        self.next_xid += 1;
        self.open.push(self.txns.len());
        self.txns.push(Txn {
            xid: self.next_xid,
            sequence: self.txns.len() as u64,
            first_record: self.wal.len(),
            changes: Vec::new(),
            state: State::Open,
            prepared: None,
            ended: None,
            subxids: Vec::new(),
            open_subs: Vec::new(),
            undo: Vec::new(),
            touched: [false; TABLES],
        });
        if draw.chance(60) {
            self.change(self.txns.len() - 1, vec![Op::Stamp], draw);
        }
    }

    fn log(&mut self, record: Record, draw: &mut Draw) -> Span {
        let span = Span { lsn: self.next_lsn, end_lsn: self.next_lsn + draw.between(1, 60) };
        // Behind some records a page begins, and the next one stands behind its header.
        self.next_lsn = span.end_lsn + draw.pick(&[0, 0, 0, 24]);
        self.wal.push((span, record));
        span
    }

    fn change(&mut self, of: usize, ops: Vec<Op>, draw: &mut Draw) {
        let lsn = self.next_lsn;
        let txn = &mut self.txns[of];
        let subxid = txn.open_subs.last().map_or(txn.xid, |sub| sub.xid);
        let change = |op| Change { lsn, subxid, op, is_undone: false };
        txn.changes.extend(ops.into_iter().map(change));
        let behind = txn.changes.len();
        self.log(Record::Changes { of, behind }, draw);
    }

    /// What a transaction does next; `None` if it would have to wait for another.
    fn choose(&mut self, of: usize, draw: &mut Draw) -> Option<Vec<Op>> {
        let table = draw.index(TABLES);
        if draw.chance(self.habits.truncate) {
            return self.truncate(of, draw).map(|op| vec![op]);
        }
        if draw.chance(self.habits.add_column) {
            return self.add_column(of, table).map(|op| vec![op]);
        }
        if draw.chance(5) {
            return Some(vec![Op::Unpublished]);
        }
        if self.table_locks[table].is_some_and(|owner| owner != of) {
            return None;
        }
        self.txns[of].touched[table] = true;
        if table == LOG {
            let copied = draw.pick(&[1, 1, 1, 3]);
            return Some((0..copied).map(|_| Op::Insert(self.new_row(table, None))).collect());
        }
        self.change_row(of, table, draw).map(|op| vec![op])
    }

    fn new_row(&mut self, table: usize, key: Option<usize>) -> Row {
        let value = self.next_value;
        self.next_value += 1;
        Row { table, key: key.map_or(value, |key| key as u64), value, columns: self.columns[table] }
    }

    fn change_row(&mut self, of: usize, table: usize, draw: &mut Draw) -> Option<Op> {
        let key = draw.index(KEYS);
        self.lock_row(of, table, key)?;
        let Some(old) = self.rows[table][key] else {
            let new = self.new_row(table, Some(key));
            self.put(of, table, key, Some(new));
            return Some(Op::Insert(new));
        };
        match draw.below(4) {
            0 => {
                self.put(of, table, key, None);
                Some(Op::Delete(Row { columns: self.columns[table], ..old }))
            }
            1 => self.change_key(of, table, key, draw.index(KEYS)),
            _ => {
                let new = self.new_row(table, Some(key));
                self.put(of, table, key, Some(new));
                Some(Op::Update { old_key: None, new })
            }
        }
    }

    fn change_key(&mut self, of: usize, table: usize, old: usize, key: usize) -> Option<Op> {
        if self.rows[table][key].is_some() {
            return None;
        }
        self.lock_row(of, table, key)?;
        let new = self.new_row(table, Some(key));
        self.put(of, table, old, None);
        self.put(of, table, key, Some(new));
        Some(Op::Update { old_key: Some(old as u64), new })
    }

    fn lock_row(&mut self, of: usize, table: usize, key: usize) -> Option<()> {
        let owner = self.row_locks[table][key].get_or_insert(of);
        (*owner == of).then_some(())
    }

    fn put(&mut self, of: usize, table: usize, key: usize, row: Option<Row>) {
        let was = std::mem::replace(&mut self.rows[table][key], row);
        self.txns[of].undo.push(Undo::Row { table, key, was });
    }

    /// Locks a whole table, which nobody else may have touched.
    fn lock_table(&mut self, of: usize, table: usize) -> Option<()> {
        let mut others = self.open.iter().chain(&self.prepared).filter(|other| **other != of);
        if others.any(|other| self.txns[*other].touched[table]) {
            return None;
        }
        self.txns[of].touched[table] = true;
        self.table_locks[table] = Some(of);
        Some(())
    }

    fn truncate(&mut self, of: usize, draw: &mut Draw) -> Option<Op> {
        let mut tables = vec![draw.index(TABLES)];
        if draw.chance(30) {
            tables.push((tables[0] + 1) % TABLES);
        }
        for table in tables.clone() {
            self.lock_table(of, table)?;
        }
        for table in tables.iter().copied().filter(|table| *table < KEYED) {
            (0..KEYS).for_each(|key| self.put(of, table, key, None));
        }
        Some(Op::Truncate(tables.into_iter().map(|table| (table, self.columns[table])).collect()))
    }

    fn add_column(&mut self, of: usize, table: usize) -> Option<Op> {
        if self.columns[table] == MOST_COLUMNS {
            return None;
        }
        self.lock_table(of, table)?;
        self.txns[of].undo.push(Undo::Columns { table, was: self.columns[table] });
        self.columns[table] += 1;
        Some(Op::AddColumn(table))
    }

    /// Begins a subtransaction, or ends one.
    fn nest(&mut self, of: usize, draw: &mut Draw) {
        let depth = self.txns[of].open_subs.len();
        match draw.below(3) {
            0 if depth > 0 => self.undo_sub(of, draw),
            1 if depth > 0 => self.txns[of].release_sub(),
            _ if depth < 3 => {
                self.next_xid += 1;
                let (xid, txn) = (self.next_xid, &mut self.txns[of]);
                let (first_change, first_undo) = (txn.changes.len(), txn.undo.len());
                txn.open_subs.push(Sub { xid, first_change, first_undo, subxids: Vec::new() });
            }
            _ => {}
        }
    }

    fn undo_sub(&mut self, of: usize, draw: &mut Draw) {
        let Some(sub) = self.txns[of].open_subs.pop() else { return };
        let Sub { xid, first_change, first_undo, mut subxids } = sub;
        for change in &mut self.txns[of].changes[first_change..] {
            change.is_undone = true;
        }
        self.take_back(of, first_undo);
        subxids.push(xid);
        self.log(Record::UndoneSubs { of, subxids }, draw);
    }

    fn take_back(&mut self, of: usize, first_undo: usize) {
        for undo in self.txns[of].undo.drain(first_undo..).rev() {
            match undo {
                Undo::Row { table, key, was } => self.rows[table][key] = was,
                Undo::Columns { table, was } => self.columns[table] = was,
            }
        }
    }

    fn finish(&mut self, at: usize, draw: &mut Draw) {
        if draw.chance(self.habits.abort) {
            return self.abort(at, draw);
        }
        let of = self.open.swap_remove(at);
        while !self.txns[of].open_subs.is_empty() {
            self.txns[of].release_sub();
        }
        if self.prepared.len() < MOST_OPEN && draw.chance(self.habits.prepare) {
            self.prepared.push(of);
            self.txns[of].state = State::Prepared;
            self.txns[of].prepared = Some(self.log(Record::Prepare(of), draw));
        } else {
            let span = self.log(Record::Commit(of), draw);
            self.committed(of, span);
        }
    }

    fn abort(&mut self, at: usize, draw: &mut Draw) {
        let of = self.open.swap_remove(at);
        while !self.txns[of].open_subs.is_empty() {
            self.undo_sub(of, draw);
        }
        let span = self.log(Record::Abort(of), draw);
        self.gone(of, span);
    }

    /// Ends a prepared transaction, given by its place among them.
    pub(super) fn decide(&mut self, at: usize, commit: bool, draw: &mut Draw) {
        let of = self.prepared.swap_remove(at);
        if commit {
            let span = self.log(Record::CommitPrepared(of), draw);
            self.committed(of, span);
        } else {
            let span = self.log(Record::RollbackPrepared(of), draw);
            self.gone(of, span);
        }
    }

    fn gone(&mut self, of: usize, span: Span) {
        self.take_back(of, 0);
        self.txns[of].state = State::Gone;
        self.txns[of].ended = Some(span);
        self.unlock(of);
    }

    fn committed(&mut self, of: usize, span: Span) {
        self.txns[of].state = State::Committed;
        self.txns[of].ended = Some(span);
        self.unlock(of);
        self.model.commit(of, &self.txns[of]);
    }

    fn unlock(&mut self, of: usize) {
        for lock in self.row_locks.iter_mut().flatten().chain(&mut self.table_locks) {
            if *lock == Some(of) {
                *lock = None;
            }
        }
    }

    /// The server dies and comes back: what was open has left nothing but its changes.
    pub(super) fn crash(&mut self, draw: &mut Draw) {
        let lost = std::mem::take(&mut self.open);
        let span = self.log(Record::Crash(lost.clone()), draw);
        lost.into_iter().for_each(|of| self.gone(of, span));
    }

    /// Ends what is open, so that nothing is on its way.
    pub(super) fn settle(&mut self, draw: &mut Draw) {
        while !self.open.is_empty() {
            self.finish(0, draw);
        }
        // Some stay prepared for ever.
        while !self.prepared.is_empty() && draw.chance(90) {
            let commit = draw.chance(75);
            self.decide(0, commit, draw);
        }
    }
}

impl Row {
    /// Its table, and how many columns that has.
    pub(super) fn described(&self) -> (usize, usize) {
        (self.table, self.columns)
    }
}

impl Txn {
    fn release_sub(&mut self) {
        let Some(mut sub) = self.open_subs.pop() else { return };
        let into = self.open_subs.last_mut().map_or(&mut self.subxids, |outer| &mut outer.subxids);
        into.append(&mut sub.subxids);
        into.push(sub.xid);
    }

    /// Changes that were not rolled back.
    pub(super) fn lasting(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| !change.is_undone)
    }

    /// Row versions that it counts for.
    pub(super) fn rows(&self) -> u64 {
        let is_row = |change: &&Change| {
            matches!(change.op, Op::Insert(_) | Op::Update { .. } | Op::Delete(_))
        };
        self.lasting().filter(is_row).count() as u64
    }

    /// Whether it has a stamp.
    pub(super) fn is_stamped(&self) -> bool {
        self.changes.iter().any(|change| matches!(change.op, Op::Stamp))
    }
}

impl Model {
    fn commit(&mut self, of: usize, txn: &Txn) {
        self.order.push(of);
        for Change { lsn, op, .. } in txn.lasting() {
            self.apply(*lsn, op);
        }
    }

    /// Applies one change.
    pub(super) fn apply(&mut self, lsn: u64, op: &Op) {
        match op {
            Op::Insert(row) if row.table == LOG => self.log.push(row.value),
            Op::Insert(row) => self.put(row.table, row.key, lsn, Some(*row)),
            Op::Update { old_key, new } => {
                if let Some(old_key) = old_key {
                    self.put(new.table, *old_key, lsn, None);
                }
                self.put(new.table, new.key, lsn, Some(*new));
            }
            Op::Delete(row) => self.put(row.table, row.key, lsn, None),
            Op::Truncate(tables) => tables.iter().for_each(|(table, _)| self.truncate(*table, lsn)),
            Op::AddColumn(_) | Op::Stamp | Op::Unpublished => {}
        }
    }

    fn put(&mut self, table: usize, key: u64, lsn: u64, row: Option<Row>) {
        self.keyed[table][key as usize] = Some(Version { lsn, row });
    }

    fn truncate(&mut self, table: usize, lsn: u64) {
        self.truncated_lsn[table] = lsn;
        match table {
            LOG => self.log.clear(),
            _ => self.keyed[table] = Default::default(),
        }
    }
}
