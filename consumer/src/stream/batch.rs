//! Rows gathered for one flush.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walbench_metrics::Window;

use super::confirmations::Mark;
use crate::rowbinary::Table;

/// When a batch is flushed: at the first bound it reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Age of the first row.
    pub age: Duration,
}

/// Rows in the order they came, by table, with what is needed to account for them once the sink
/// has acknowledged them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Encoded rows of each table; a table without rows keeps its buffer for the next batch.
    pub parts: Vec<Part>,
    /// Runs of rows with the same times.
    pub segments: Vec<Segment>,
    /// What is safe once this batch is.
    pub mark: Mark,
    /// Row versions.
    pub rows: u64,
    /// Bytes that count against the bounds: encoded rows, or received ones where none are encoded.
    pub bytes: u64,
    opened: Option<Instant>,
    current: usize,
}

/// One table's rows.
#[derive(Debug)]
pub(crate) struct Part {
    /// The table.
    pub table: Arc<Table>,
    /// Its rows, encoded one behind the other.
    pub encoded: Vec<u8>,
    /// How many they are.
    pub rows: u64,
    /// The sink has them, though not all of the batch: bytes that were sent, and rows put aside.
    pub written: Option<(u64, u64)>,
    /// What the sink tells them by.
    pub token: Option<String>,
}

/// Rows of one transaction that were received together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Phase and window the rows belong to; `None` for rows without a stamp of this run.
    pub due: Option<Due>,
    /// When they were committed, in µs of the orchestrator's clock; `None` for rows that were
    /// committed on another server first.
    pub commit_us: Option<i64>,
    /// When they were received, in µs of the orchestrator's clock.
    pub received_us: i64,
    /// How many they are.
    pub rows: u64,
}

impl Segment {
    /// Adds rows with these times to a list, to its last segment where that has the same.
    #[inline]
    pub(crate) fn add_rows(self, rows: u64, to: &mut Vec<Self>) {
        match to.last_mut() {
            Some(last) if (Self { rows: self.rows, ..*last }) == self => last.rows += rows,
            _ => to.push(Self { rows, ..self }),
        }
    }
}

/// What a stamp says of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Index of the phase.
    pub phase: u32,
    /// Part of the phase.
    pub window: Window,
    /// When the rows were due, in µs of the orchestrator's clock.
    pub due_us: i64,
}

impl Part {
    fn new(table: Arc<Table>) -> Self {
        Self { table, encoded: Vec::new(), rows: 0, written: None, token: None }
    }
}

impl Batch {
    /// The buffer for rows of `table`.
    #[inline]
    pub(crate) fn part(&mut self, table: &Arc<Table>) -> &mut Part {
        let same = |part: &Part| Arc::ptr_eq(&part.table, table);
        if !self.parts.get(self.current).is_some_and(same) {
            self.current = self.parts.iter().position(same).unwrap_or_else(|| {
                self.parts.push(Part::new(table.clone()));
                self.parts.len() - 1
            });
        }
        &mut self.parts[self.current]
    }

    /// Counts rows that were written to a part.
    #[inline]
    pub(crate) fn count(&mut self, rows: u64, bytes: u64, of: Segment) {
        self.rows += rows;
        self.bytes += bytes;
        of.add_rows(rows, &mut self.segments);
    }

    /// Whether a bound other than age is reached.
    #[inline]
    #[must_use]
    pub(crate) fn is_full(&self, bounds: &Bounds) -> bool {
        self.rows >= bounds.rows || self.bytes >= bounds.bytes
    }

    /// Bytes that it takes beside its rows. Where transactions are small these are more than the
    /// rows are. Buffers that an empty one keeps for later are not counted: nothing would free them.
    #[inline]
    pub(crate) fn overhead_bytes(&self) -> u64 {
        if self.rows == 0 {
            return 0;
        }
        let parts = self.parts.len() * size_of::<Part>();
        (parts + self.segments.len() * size_of::<Segment>()) as u64
    }

    /// Bytes that its buffers for rows could hold.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.encoded.capacity() as u64).sum()
    }

    /// Its age counts from now, if it has rows and nobody has said so before. Whoever looks after
    /// batches calls this each time: a clock read for every row would cost more than it tells.
    pub(crate) fn seen(&mut self, now: Instant) {
        if self.rows > 0 {
            self.opened.get_or_insert(now);
        }
    }

    /// When its age reaches the bound; `None` while it is empty, or was not seen with rows.
    #[must_use]
    pub(crate) fn deadline(&self, bounds: &Bounds) -> Option<Instant> {
        self.opened.map(|opened| opened + bounds.age)
    }

    /// A copy of its rows, for which nobody is to be told anything.
    pub(crate) fn rows_alone(&self) -> Self {
        let with_rows = self.parts.iter().filter(|part| part.rows > 0);
        let copy = |part: &Part| Part {
            encoded: part.encoded.clone(),
            rows: part.rows,
            ..Part::new(part.table.clone())
        };
        let parts = with_rows.map(copy).collect();
        Self { parts, rows: self.rows, bytes: self.bytes, ..Self::default() }
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        // A table that got no row since the last time may be gone, or described anew.
        self.parts.retain(|part| part.rows > 0);
        for part in &mut self.parts {
            part.encoded.clear();
            part.rows = 0;
            part.written = None;
            part.token = None;
        }
        self.segments.clear();
        self.mark = Mark::default();
        self.rows = 0;
        self.bytes = 0;
        self.opened = None;
        self.current = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(commit_us: i64) -> Segment {
        Segment { due: None, commit_us: Some(commit_us), received_us: 9, rows: 0 }
    }

    fn bounds(rows: u64, bytes: u64) -> Bounds {
        Bounds { rows, bytes, age: Duration::from_secs(1) }
    }

    #[test]
    fn rows_with_the_same_times_are_one_segment() {
        let mut batch = Batch::default();
        batch.count(1, 10, segment(1));
        batch.count(1, 10, segment(1));
        batch.count(1, 10, segment(2));
        let rows: Vec<_> = batch.segments.iter().map(|s| (s.commit_us, s.rows)).collect();
        assert_eq!(rows, [(Some(1), 2), (Some(2), 1)]);
    }

    #[test]
    fn it_is_full_at_the_first_bound() {
        let mut batch = Batch::default();
        batch.seen(Instant::now());
        assert!(batch.deadline(&bounds(2, 100)).is_none());
        batch.count(1, 60, segment(1));
        assert!(!batch.is_full(&bounds(2, 100)));
        assert!(batch.is_full(&bounds(1, 100)) && batch.is_full(&bounds(2, 60)));
        let now = Instant::now();
        batch.seen(now);
        batch.seen(now + Duration::from_secs(9));
        assert_eq!(batch.deadline(&bounds(2, 100)), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn clearing_keeps_the_buffers_of_tables_in_use() {
        let tables =
            ["a", "b"].map(|name| Arc::new(Table { name: name.into(), ..Table::default() }));
        let mut batch = Batch::default();
        batch.part(&tables[0]).rows = 1;
        batch.part(&tables[0]).encoded.extend([0; 100]);
        batch.part(&tables[1]);
        batch.count(1, 100, segment(1));
        batch.clear();
        assert_eq!(batch.parts.len(), 1);
        assert!(batch.parts[0].encoded.is_empty() && batch.parts[0].encoded.capacity() >= 100);
        assert_eq!((batch.rows, batch.bytes, batch.segments.len()), (0, 0, 0));
    }
}
