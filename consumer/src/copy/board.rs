//! Which chunks are to be copied, by whom, and what is done: where those who copy meet.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use walbench_metrics::Failure;

use super::chunks::{chunk_pages, chunks};
use super::progress::Progress;
use super::relations::Size;
use super::state::{State, TableState};

/// Some pages of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Which table, as the board numbers them.
    pub(super) table: usize,
    /// The pages.
    pub(super) pages: Range<u32>,
    /// The file they are pages of.
    pub(super) file: u32,
    /// They are read in the snapshot of the slot's start, and not in one of now.
    pub(super) at_start: bool,
}

/// A table on the board.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its OID, by which the state knows it.
    pub(super) oid: u32,
    /// Which of the published tables it is of.
    pub(super) published: usize,
    /// Rows can be told apart: copying some of them twice is as good as once.
    pub(super) keyed: bool,
    /// How many pages make a chunk.
    pub(super) chunk_pages: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Board {
    entries: Vec<Entry>,
    connections: u32,
    file: Option<PathBuf>,
    progress: Arc<Progress>,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Held while the state is written: an older one must not take a newer one's place.
    saving: Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    queue: VecDeque<Chunk>,
    /// Chunks that were given out, and of which not every row is at the sink.
    under_way: usize,
    /// The snapshot of the slot's start can be read in.
    at_start: bool,
    /// The state was changed since it was last saved.
    unsaved: bool,
    /// Every chunk that was given out was to be read in the snapshot of the slot's start.
    of_one_moment: bool,
    closed: bool,
    failure: Option<Failure>,
}

impl Board {
    /// For tables of which `state` knows how far they are; `at_start` says whether the snapshot of
    /// the slot's start is there.
    pub(super) fn new(
        entries: Vec<Entry>,
        state: State,
        at_start: bool,
        connections: u32,
        file: Option<PathBuf>,
        progress: Arc<Progress>,
    ) -> Self {
        let inner = Inner {
            state,
            queue: VecDeque::new(),
            under_way: 0,
            at_start,
            unsaved: true,
            of_one_moment: true,
            closed: false,
            failure: None,
        };
        let (inner, changed, saving) = (Mutex::new(inner), Condvar::new(), Mutex::new(()));
        let board = Self { entries, connections, file, progress, inner, changed, saving };
        board.fill();
        board
    }

    /// Puts everything that is left on the board. Tables without a key come first: whatever ends
    /// the copy before they are done ends it for good.
    fn fill(&self) {
        let mut inner = self.lock();
        for keyed in [false, true] {
            let all = self.entries.iter().enumerate();
            for (table, _) in all.filter(|(_, entry)| entry.keyed == keyed) {
                self.enqueue(&mut inner, table);
            }
        }
        for (table, entry) in self.entries.iter().enumerate() {
            if let Some(state) = inner.state.tables.get(&entry.oid) {
                self.tell(table, state, 1);
            }
        }
    }

    fn enqueue(&self, inner: &mut Inner, table: usize) {
        let entry = &self.entries[table];
        let Some(state) = inner.state.tables.get(&entry.oid) else { return };
        let (file, at_start) = (state.file, inner.at_start);
        let left = chunks(state.pages, &state.done, entry.chunk_pages);
        inner.queue.extend(left.into_iter().map(|pages| Chunk { table, pages, file, at_start }));
    }

    /// Adds a table's pages to the published one's, or takes them away.
    fn tell(&self, table: usize, state: &TableState, sign: i64) {
        let done = state.pages_done().cast_signed();
        let pages = i64::from(state.pages);
        self.progress.add_pages(self.entries[table].published, sign * done, sign * pages);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next chunk; waits while what is under way may bring another. `None` at the end.
    pub(super) fn next(&self) -> Option<Chunk> {
        let nothing_yet =
            |inner: &mut Inner| !inner.closed && inner.queue.is_empty() && inner.under_way > 0;
        let inner = self.changed.wait_while(self.lock(), nothing_yet);
        let mut inner = inner.unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return None;
        }
        let mut chunk = inner.queue.pop_front()?;
        inner.under_way += 1;
        chunk.at_start &= inner.at_start;
        inner.of_one_moment &= chunk.at_start;
        Some(chunk)
    }

    /// Every row of a chunk is at the sink.
    pub(super) fn done(&self, chunk: &Chunk) {
        let mut inner = self.lock();
        inner.under_way -= 1;
        inner.unsaved = true;
        let state = inner.state.tables.get_mut(&self.entries[chunk.table].oid);
        // Pages of a file that is gone are nothing.
        if let Some(state) = state.filter(|state| state.file == chunk.file) {
            state.finish(chunk.pages.clone());
            let pages = chunk.pages.end - chunk.pages.start;
            self.progress.add_pages(self.entries[chunk.table].published, pages.into(), 0);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Rows of a table without a key are about to be handed to the sink: remembered before that
    /// happens, so that they are never handed over twice.
    ///
    /// # Errors
    /// The state can't be kept.
    pub(super) fn begin(&self, chunk: &Chunk) -> Result<(), Failure> {
        let mut inner = self.lock();
        if let Some(state) = inner.state.tables.get_mut(&self.entries[chunk.table].oid) {
            state.begun = true;
            inner.unsaved = true;
        }
        drop(inner);
        self.save()
    }

    /// A table was rewritten since its chunks were made: none of its pages has the rows any more
    /// that it had. What it is now is copied from the start. `None`: it is gone.
    pub(super) fn rewritten(&self, chunk: &Chunk, size: Option<Size>, table_shape: String) {
        let mut inner = self.lock();
        inner.under_way -= 1;
        let entry = &self.entries[chunk.table];
        let is_news = |state: &&mut TableState| state.file == chunk.file;
        if let Some(state) = inner.state.tables.get_mut(&entry.oid).filter(is_news) {
            let Size { file, pages, .. } = size.unwrap_or(Size { file: 0, pages: 0, bytes: 0 });
            self.tell(chunk.table, state, -1);
            *state = TableState::new(state.name.clone(), file, table_shape, pages);
            self.tell(chunk.table, state, 1);
            inner.unsaved = true;
            inner.queue.retain(|other| other.table != chunk.table);
            self.enqueue_anew(&mut inner, chunk.table, size);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// In a snapshot of now: in one from before, what some rewrites leave can't be seen.
    fn enqueue_anew(&self, inner: &mut Inner, table: usize, size: Option<Size>) {
        let Some(Size { file, pages, bytes }) = size else { return };
        let left = chunks(pages, &Default::default(), chunk_pages(pages, bytes, self.connections));
        let left = left.into_iter();
        inner.queue.extend(left.map(|pages| Chunk { table, pages, file, at_start: false }));
    }

    /// The snapshot of the slot's start can't be read in any more; a chunk that was to be copied in
    /// it is to be copied again.
    pub(super) fn start_is_gone(&self, chunk: Chunk) {
        let mut inner = self.lock();
        inner.under_way -= 1;
        inner.at_start = false;
        inner.queue.push_front(chunk);
        drop(inner);
        self.changed.notify_all();
    }

    /// The copy can't go on. What it failed of first is what is told; what fails because it ends is
    /// not.
    pub(super) fn fail(&self, failure: Failure) {
        let mut inner = self.lock();
        if !inner.closed {
            inner.failure = Some(failure);
        }
        drop(inner);
        self.close();
    }

    /// Gives out nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until then, or until it is closed.
    pub(super) fn pause_until(&self, then: Instant) {
        let mut inner = self.lock();
        while !inner.closed {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a change, but not for long.
    pub(super) fn wait(&self, patience: Duration) {
        let waited = self.changed.wait_timeout(self.lock(), patience);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether every row is at the sink; it is in the state from then on.
    pub(super) fn complete(&self) -> bool {
        let mut inner = self.lock();
        let is_complete = inner.failure.is_none() && inner.queue.is_empty() && inner.under_way == 0;
        inner.unsaved |= is_complete && !inner.state.complete;
        inner.state.complete |= is_complete;
        is_complete
    }

    /// Whether everything was read in the snapshot of the slot's start.
    pub(super) fn is_of_one_moment(&self) -> bool {
        self.lock().of_one_moment
    }

    /// Why the copy can't go on.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Keeps the state, if it was changed and has a file.
    ///
    /// # Errors
    /// The folder's or the disk's.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.unsaved) {
            return Ok(());
        }
        let state = inner.state.clone();
        drop(inner);
        state.save(file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::TableCopying;
    use super::super::state::Origin;
    use super::*;

    const KEYED: usize = 0;
    const KEYLESS: usize = 1;

    fn board(at_start: bool, file: Option<PathBuf>) -> Board {
        let text = String::new;
        let origin = Origin {
            system: text(),
            database: text(),
            publication: text(),
            slot: text(),
            consistent_lsn: 1,
            version: 1,
        };
        let mut state = State::new(origin);
        state.tables.insert(10, TableState::new("keyed".into(), 100, text(), 25));
        state.tables.insert(11, TableState::new("keyless".into(), 110, text(), 25));
        let entries = vec![
            Entry { oid: 10, published: 0, keyed: true, chunk_pages: 10 },
            Entry { oid: 11, published: 1, keyed: false, chunk_pages: u32::MAX },
        ];
        let progress = Arc::new(Progress::new(["keyed".to_owned(), "keyless".to_owned()]));
        Board::new(entries, state, at_start, 1, file, progress)
    }

    fn pages(chunk: &Option<Chunk>) -> (usize, Range<u32>) {
        let chunk = chunk.as_ref().unwrap();
        (chunk.table, chunk.pages.clone())
    }

    #[test]
    fn tables_without_a_key_come_first_and_whole() {
        let board = board(true, None);
        let chunks: Vec<_> = (0..4).map(|_| board.next()).collect();
        let all = [(KEYLESS, 0..25), (KEYED, 0..10), (KEYED, 10..20), (KEYED, 20..25)];
        assert_eq!(chunks.iter().map(pages).collect::<Vec<_>>(), all);
        for chunk in chunks.iter().flatten() {
            assert!(chunk.at_start && !board.complete());
            board.done(chunk);
        }
        assert!(board.next().is_none() && board.complete() && board.is_of_one_moment());
        let percent: Vec<_> =
            board.progress.now().tables.iter().map(TableCopying::percent).collect();
        assert_eq!(percent, [100.0, 100.0]);
    }

    #[test]
    fn one_with_nothing_to_do_waits_for_what_may_come_back() {
        let board = Arc::new(board(true, None));
        let chunks: Vec<_> = (0..4).filter_map(|_| board.next()).collect();
        let waiting = std::thread::spawn({
            let board = board.clone();
            move || board.next()
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        board.start_is_gone(chunks[1].clone());
        let again = waiting.join().unwrap().unwrap();
        assert_eq!((again.pages, again.at_start), (0..10, false));
        assert!(!board.is_of_one_moment());
        board.close();
        assert!(board.next().is_none() && !board.complete());
    }

    #[test]
    fn a_rewritten_table_is_copied_from_the_start_as_it_is_now() {
        let board = board(true, None);
        let chunks: Vec<_> = (0..3).filter_map(|_| board.next()).collect();
        board.done(&chunks[1]);
        let size = Size { file: 200, pages: 7, bytes: 7 };
        board.rewritten(&chunks[2], Some(size), "shape".into());
        let anew = board.next().unwrap();
        let expected = Chunk { table: KEYED, pages: 0..7, file: 200, at_start: false };
        assert_eq!(anew, expected);
        // Its old pages mean nothing any more, nor does a second one who finds the same.
        assert_eq!(board.progress.now().tables[0].pages_done, 0);
        board.done(&anew);
        board.done(&chunks[0]);
        assert!(board.next().is_none() && board.complete());
    }

    #[test]
    fn a_table_that_is_gone_is_done() {
        let board = board(true, None);
        let chunks: Vec<_> = (0..2).filter_map(|_| board.next()).collect();
        board.rewritten(&chunks[1], None, String::new());
        board.done(&chunks[0]);
        assert!(board.next().is_none() && board.complete());
    }

    #[test]
    fn the_first_failure_is_told_and_ends_it() {
        let board = board(true, None);
        board.fail(Failure::new("first"));
        board.fail(Failure::new("second"));
        assert_eq!(board.failure(), Some(Failure::new("first")));
        assert!(board.next().is_none() && !board.complete());
        board.pause_until(Instant::now() + Duration::from_secs(60));
    }

    #[test]
    fn what_has_begun_is_kept_before_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let board = board(true, Some(path.clone()));
        let chunk = board.next().unwrap();
        assert_eq!(State::load(&path).unwrap(), None);
        board.begin(&chunk).unwrap();
        assert!(State::load(&path).unwrap().unwrap().tables[&11].begun);
        board.done(&chunk);
        board.save().unwrap();
        assert!(State::load(&path).unwrap().unwrap().tables[&11].is_complete());
        std::fs::remove_file(&path).unwrap();
        board.save().unwrap();
        assert!(!path.exists(), "nothing was changed");
    }
}
