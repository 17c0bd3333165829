//! How far a copy is, for whoever looks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far a copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copying {
    /// The tables, as they are published.
    pub tables: Vec<TableCopying>,
    /// For how long it goes on, or went on.
    pub time: Duration,
    /// Every row is at the sink.
    pub complete: bool,
    /// It has ended, complete or not.
    pub ended: bool,
}

/// How far a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCopying {
    /// Schema and name.
    pub name: String,
    /// Rows that the sink acknowledged since the start, those that had to be copied twice twice.
    pub rows: u64,
    /// Their bytes: encoded, or received where nothing is encoded.
    pub bytes: u64,
    /// Pages of which every row is at the sink, those of former starts among them.
    pub pages_done: u64,
    /// Pages in all.
    pub pages: u64,
}

impl Copying {
    /// Rows of all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }
}

impl TableCopying {
    /// How much of it is copied, by pages, in percent; one without pages is.
    #[must_use]
    pub fn percent(&self) -> f64 {
        if self.pages == 0 { 100.0 } else { self.pages_done as f64 * 100.0 / self.pages as f64 }
    }
}

/// Counted by those who copy.
#[derive(Debug)]
pub(crate) struct Progress {
    tables: Vec<Counts>,
    started: Instant,
    time: Mutex<Option<Duration>>,
    complete: AtomicBool,
}

#[derive(Debug)]
struct Counts {
    name: String,
    rows: AtomicU64,
    bytes: AtomicU64,
    pages_done: AtomicU64,
    pages: AtomicU64,
}

impl Progress {
    /// For tables of these names.
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let zero = || AtomicU64::new(0);
        let counts =
            |name| Counts { name, rows: zero(), bytes: zero(), pages_done: zero(), pages: zero() };
        Self {
            tables: names.into_iter().map(counts).collect(),
            started: Instant::now(),
            time: Mutex::default(),
            complete: AtomicBool::new(false),
        }
    }

    /// The sink acknowledged rows of a table.
    pub(super) fn acknowledged(&self, table: usize, rows: u64, bytes: u64) {
        self.tables[table].rows.fetch_add(rows, Ordering::Relaxed);
        self.tables[table].bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many pages of a table are done besides, and there are so many besides; or so many less.
    pub(super) fn add_pages(&self, table: usize, done: i64, pages: i64) {
        // Wrapping, as atomics do.
        self.tables[table].pages_done.fetch_add(done.cast_unsigned(), Ordering::Relaxed);
        self.tables[table].pages.fetch_add(pages.cast_unsigned(), Ordering::Relaxed);
    }

    /// It has ended.
    pub(super) fn end(&self, complete: bool) {
        self.complete.store(complete, Ordering::Relaxed);
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.started.elapsed());
    }

    /// How far it is now.
    pub(crate) fn now(&self) -> Copying {
        let ended = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tables = self.tables.iter().map(|table| TableCopying {
            name: table.name.clone(),
            rows: load(&table.rows),
            bytes: load(&table.bytes),
            pages_done: load(&table.pages_done),
            pages: load(&table.pages),
        });
        Copying {
            tables: tables.collect(),
            time: ended.unwrap_or_else(|| self.started.elapsed()),
            complete: self.complete.load(Ordering::Relaxed),
            ended: ended.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_add_up() {
        let progress = Progress::new(["a".to_owned(), "b".to_owned()]);
        progress.add_pages(0, 3, 9);
        progress.add_pages(0, -2, -5);
        progress.acknowledged(0, 10, 100);
        progress.acknowledged(1, 5, 50);
        progress.acknowledged(1, 1, 10);
        let copying = progress.now();
        assert_eq!((copying.rows(), copying.bytes()), (16, 160));
        assert_eq!(copying.tables[0].percent(), 25.0);
        assert_eq!(copying.tables[1].percent(), 100.0);
        assert!(!copying.ended && !copying.complete);
        progress.end(true);
        let copying = progress.now();
        assert!(copying.ended && copying.complete);
        assert_eq!(copying.time, progress.now().time);
    }
}
