//! Any history of a table, replayed from any confirmed point any number of times and broken off
//! anywhere, ends in the table's state.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::database::{KEYS, Model, Op, Row, Span};
use super::message;
use super::plan::{Unknown, writing};
use super::sink::Sink;
use crate::stream::{Bounds, Job, Machine, Settings};

/// What may be done to the table.
#[derive(Clone, Debug)]
enum Act {
    /// Gives a key a new value, whether it is there or not.
    Set(usize),
    Remove(usize),
    /// Gives a row another key, if that is free.
    Move(usize, usize),
    Truncate,
    AddColumn,
    Commit,
}

/// One delivery: where it begins and where it is broken off, among what is possible.
#[derive(Clone, Debug)]
struct Delivery {
    from: Index,
    to: Index,
    /// Of the jobs that are ready the last is carried out first.
    backwards: bool,
    /// So many of the last jobs are not carried out before the next delivery.
    jobs_left: usize,
    /// It is another connection's, not another consumer's.
    same_machine: bool,
}

/// Messages in the order they are sent, and behind which of them which position may be confirmed.
#[derive(Debug, Default)]
struct History {
    bodies: Vec<Vec<u8>>,
    /// Number of messages, and position: the first is where all begins.
    points: Vec<(usize, u64)>,
    model: Model,
    lsn: u64,
    columns: usize,
    open: Vec<(u64, Op)>,
}

impl History {
    fn new(acts: &[Act]) -> Self {
        let mut history =
            Self { lsn: 100, columns: 2, points: vec![(0, 100)], ..Default::default() };
        let mut rows = [false; KEYS];
        for act in acts.iter().chain([&Act::Commit]) {
            history.act(act, &mut rows);
        }
        history
    }

    fn act(&mut self, act: &Act, rows: &mut [bool; KEYS]) {
        let op = match *act {
            Act::Set(key) if std::mem::replace(&mut rows[key], true) => {
                Op::Update { old_key: None, new: self.row(key) }
            }
            Act::Set(key) => Op::Insert(self.row(key)),
            Act::Remove(key) if std::mem::take(&mut rows[key]) => Op::Delete(self.row(key)),
            Act::Move(from, to) if rows[from] && !rows[to] => {
                rows.swap(from, to);
                Op::Update { old_key: Some(from as u64), new: self.row(to) }
            }
            Act::Remove(_) | Act::Move(..) => return,
            Act::Truncate => {
                *rows = [false; KEYS];
                Op::Truncate(vec![(0, self.columns)])
            }
            Act::AddColumn => {
                self.columns = (self.columns + 1).min(5);
                Op::AddColumn(0)
            }
            Act::Commit => return self.commit(),
        };
        self.lsn += 10;
        self.open.push((self.lsn, op));
    }

    fn row(&self, key: usize) -> Row {
        Row { table: 0, key: key as u64, value: self.lsn, columns: self.columns }
    }

    fn commit(&mut self) {
        let span = Span { lsn: self.lsn + 10, end_lsn: self.lsn + 20 };
        self.lsn = span.end_lsn;
        self.bodies.push(message::begin(span.lsn, span.lsn, 7));
        let mut described = 0;
        for (lsn, op) in std::mem::take(&mut self.open) {
            self.model.apply(lsn, &op);
            let (columns, body) = match &op {
                Op::Insert(row) => (row.columns, message::insert(lsn, row, None)),
                Op::Update { old_key, new } => {
                    (new.columns, message::update(lsn, *old_key, new, None))
                }
                Op::Delete(row) => (row.columns, message::delete(lsn, row, None)),
                Op::Truncate(tables) => (tables[0].1, message::truncate(lsn, tables, None)),
                Op::AddColumn(_) | Op::Stamp | Op::Unpublished => continue,
            };
            if described != columns {
                described = columns;
                self.bodies.push(message::relation(0, columns, None));
            }
            self.bodies.push(body);
        }
        self.bodies.push(message::commit(span));
        self.points.push((self.bodies.len(), span.end_lsn));
    }
}

/// A consumer with its sink.
struct Consumer {
    bounds: Bounds,
    machine: Machine,
    sink: Sink,
    /// Jobs that have not ended.
    under_way: Vec<Job>,
    now: Instant,
    /// Where the slot is confirmed.
    confirmed_lsn: u64,
}

impl Consumer {
    fn new(bounds: Bounds) -> Self {
        let now = Instant::now();
        let machine = machine(bounds, 100, now);
        Self {
            bounds,
            machine,
            sink: Sink::default(),
            under_way: Vec::new(),
            now,
            confirmed_lsn: 100,
        }
    }

    fn deliver(&mut self, history: &History, delivery: &Delivery) {
        let Delivery { from, to, same_machine, .. } = delivery;
        let point =
            if *same_machine { self.reconnect(history) } else { self.replace(history, from) };
        let bodies = &history.bodies[history.points[point].0..];
        for body in &bodies[..to.index(bodies.len() + 1)] {
            while !self.machine.wants_data() {
                self.flush(delivery.backwards, 0);
            }
            self.machine.copy_data(body).unwrap();
        }
        self.flush(delivery.backwards, delivery.jobs_left);
    }

    /// Another connection of the same consumer; returns where it begins.
    fn reconnect(&mut self, history: &History) -> usize {
        self.machine.disconnected();
        let resume_lsn = self.machine.resume_lsn();
        history.points.iter().rposition(|(_, lsn)| *lsn <= resume_lsn).unwrap()
    }

    /// Another consumer, which begins at any point that was confirmed; returns it.
    fn replace(&mut self, history: &History, from: &Index) -> usize {
        self.under_way.clear();
        let confirmed = history.points.iter().filter(|(_, lsn)| *lsn <= self.confirmed_lsn);
        let point = from.index(confirmed.count());
        // The slot stands there again: what was behind it is confirmed no more.
        self.confirmed_lsn = history.points[point].1;
        self.machine = machine(self.bounds, self.confirmed_lsn, self.now);
        point
    }

    /// Another consumer, which is left in peace.
    fn finish(&mut self, history: &History, from: &Index) {
        let point = self.replace(history, from);
        for body in &history.bodies[history.points[point].0..] {
            while !self.machine.wants_data() {
                self.flush(false, 0);
            }
            self.machine.copy_data(body).unwrap();
        }
        self.flush(false, 0);
        while !self.machine.is_idle() {
            self.flush(false, 0);
        }
    }

    /// Carries out what is ready, but for some jobs.
    fn flush(&mut self, backwards: bool, jobs_left: usize) {
        self.now += Duration::from_millis(5);
        let now = self.now;
        self.machine.cut_if_due(now);
        self.under_way.extend(std::iter::from_fn(|| self.machine.start_flush(now)));
        if backwards {
            self.under_way.reverse();
        }
        let left = jobs_left.min(self.under_way.len());
        for job in self.under_way.split_off(left) {
            self.sink.apply(&job.work).unwrap();
            self.machine.flush_ended(job, Ok(()), now).unwrap();
        }
        self.confirmed_lsn = self.confirmed_lsn.max(self.machine.confirmed_lsn());
    }
}

fn machine(bounds: Bounds, confirmed_lsn: u64, now: Instant) -> Machine {
    let settings = Settings {
        silence_limit: None,
        confirmed_lsn,
        bounds,
        max_in_flight_bytes: 2_000,
        flush_concurrency: 3,
        flush_patience: Duration::ZERO,
        seed: 1,
        spool_memory_bytes: 1 << 20,
        spool_dir: None,
        writing: writing(),
    };
    Machine::new(settings, Box::new(Unknown), now)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Act::Set),
        2 => (0..KEYS).prop_map(Act::Remove),
        2 => (0..KEYS, 0..KEYS).prop_map(|(from, to)| Act::Move(from, to)),
        1 => Just(Act::Truncate),
        1 => Just(Act::AddColumn),
        3 => Just(Act::Commit),
    ]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let flags = (any::<bool>(), 0usize..3, any::<bool>());
    (any::<Index>(), any::<Index>(), flags).prop_map(|(from, to, flags)| {
        let (backwards, jobs_left, same_machine) = flags;
        Delivery { from, to, backwards, jobs_left, same_machine }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 256 } else { 4_096 }))]

    #[test]
    fn a_replayed_history_ends_in_the_same_state(
        acts in vec(act(), 0..40),
        deliveries in vec(delivery(), 0..6),
        last_from in any::<Index>(),
        rows in 1u64..8,
    ) {
        let history = History::new(&acts);
        let bounds = Bounds { rows, bytes: 1 << 20, age: Duration::from_millis(1) };
        let mut consumer = Consumer::new(bounds);
        for delivery in &deliveries {
            consumer.deliver(&history, delivery);
        }
        consumer.finish(&history, &last_from);
        let held = consumer.sink.keyed[0].map(|stored| {
            stored.filter(|stored| !stored.is_deleted).map(|stored| (stored.version, stored.row))
        });
        let wanted = history.model.keyed[0]
            .map(|version| version.and_then(|version| version.row.map(|row| (version.lsn, row))));
        prop_assert_eq!(held, wanted);
        prop_assert_eq!(Some(consumer.confirmed_lsn), history.points.last().map(|(_, lsn)| *lsn));
    }
}
