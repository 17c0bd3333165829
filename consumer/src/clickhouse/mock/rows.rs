//! What is kept of a table's rows: of each key the newest version, by an index in memory over a
//! file; of a table without a key all.
//!
//! ```text
//! index: hash of the key ─► version, deleted, where ─┐
//! file:  rows as they came, block behind block ◄─────┘
//! ```
//!
//! The file has no name, and is gone with the process whatever ends it. It is written anew when more
//! than half of it is versions that others have replaced.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::check::Row;

/// A file that is smaller is not written anew.
const SMALLEST_COMPACTED_BYTES: u64 = 64 * 1024 * 1024;

/// Read and written at once where a file is gone through.
const WINDOW_BYTES: usize = 1024 * 1024;

/// Where some rows stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// Which columns they have, by number.
    pub(super) layout: u32,
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    version: u64,
    at: u64,
    bytes: u32,
    layout: u32,
}

/// A hash needs no hashing.
#[derive(Default)]
struct FirstHalf(u64);

impl Hasher for FirstHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

type Index = HashMap<u128, Newest, BuildHasherDefault<FirstHalf>>;

/// What became of the rows of an insert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fates {
    /// The first of their key.
    pub(super) new: u64,
    /// Of a higher version than what was there.
    pub(super) newer: u64,
    /// Of the same version and with the same bytes.
    pub(super) replayed: u64,
    /// Of a lower version.
    pub(super) late: u64,
    /// Of the same version, with other bytes.
    pub(super) conflicting: u64,
    /// Of a table without a key.
    pub(super) keyless: u64,
}

/// Rows of a table.
#[derive(Debug)]
pub(super) struct Rows {
    file: Arc<File>,
    end: u64,
    /// Of rows that are the newest of their key, or have none.
    live_bytes: u64,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Newest(Index),
    All(Vec<Span>),
}

/// What was there when it was taken.
pub(super) struct Snapshot {
    file: Arc<File>,
    spans: Vec<Span>,
}

/// A block of rows that were checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) rows: &'a [Row],
    pub(super) layout: u32,
}

impl Rows {
    /// None yet, of a table with a key or without.
    pub(super) fn new(has_key: bool) -> io::Result<Self> {
        let kept = match has_key {
            true => Kept::Newest(Index::default()),
            false => Kept::All(Vec::new()),
        };
        Ok(Self { file: Arc::new(tempfile::tempfile()?), end: 0, live_bytes: 0, kept })
    }

    /// Takes a block in, whole or not at all. `is_same` tells whether a stored row and a new one
    /// are the same, where their columns differ.
    pub(super) fn append(
        &mut self,
        block: Block<'_>,
        is_same: impl Fn(u32, &[u8], &[u8]) -> bool,
    ) -> io::Result<Fates> {
        self.file.write_all_at(block.bytes, self.end)?;
        let start = self.end;
        self.end += block.bytes.len() as u64;
        let mut fates = Fates::default();
        match &mut self.kept {
            Kept::All(spans) => {
                let bytes = block.bytes.len() as u64;
                spans.push(Span { at: start, bytes, layout: block.layout });
                self.live_bytes += bytes;
                fates.keyless = block.rows.len() as u64;
            }
            Kept::Newest(index) => {
                let mut keeper = Keeper { file: &self.file, start, block, stored: Vec::new() };
                let live_bytes = &mut self.live_bytes;
                for row in block.rows {
                    keeper.keep(index, row, live_bytes, &mut fates, &is_same)?;
                }
            }
        }
        if self.end > SMALLEST_COMPACTED_BYTES && self.live_bytes * 2 < self.end {
            self.compact()?;
        }
        Ok(fates)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        *self = Self::new(matches!(self.kept, Kept::Newest(_)))?;
        Ok(())
    }

    /// What is there now, to be read while more comes.
    pub(super) fn snapshot(&self) -> Snapshot {
        let spans = match &self.kept {
            Kept::All(spans) => spans.clone(),
            Kept::Newest(index) => {
                let mut spans: Vec<Span> = index.values().map(span).collect();
                spans.sort_unstable_by_key(|span| span.at);
                spans
            }
        };
        Snapshot { file: self.file.clone(), spans }
    }

    /// Writes what counts into another file, in the same order.
    fn compact(&mut self) -> io::Result<()> {
        let Kept::Newest(index) = &mut self.kept else { return Ok(()) };
        let mut entries: Vec<&mut Newest> = index.values_mut().collect();
        entries.sort_unstable_by_key(|newest| newest.at);
        let file = tempfile::tempfile()?;
        let mut window = Window::new(&self.file);
        let (mut end, mut pending) = (0u64, Vec::with_capacity(WINDOW_BYTES * 2));
        for newest in &entries {
            pending.extend_from_slice(window.read(span(newest))?);
            if pending.len() >= WINDOW_BYTES {
                file.write_all_at(&pending, end)?;
                end += pending.len() as u64;
                pending.clear();
            }
        }
        file.write_all_at(&pending, end)?;
        // Nothing failed: now the index may follow.
        let mut at = 0;
        for newest in entries {
            newest.at = at;
            at += u64::from(newest.bytes);
        }
        (self.file, self.end, self.live_bytes) = (Arc::new(file), at, at);
        Ok(())
    }
}

fn span(newest: &Newest) -> Span {
    Span { at: newest.at, bytes: newest.bytes.into(), layout: newest.layout }
}

/// Decides over the rows of a block.
struct Keeper<'a> {
    file: &'a File,
    /// Where the block stands in the file.
    start: u64,
    block: Block<'a>,
    /// A row that was read again.
    stored: Vec<u8>,
}

impl Keeper<'_> {
    fn keep(
        &mut self,
        index: &mut Index,
        row: &Row,
        live_bytes: &mut u64,
        fates: &mut Fates,
        is_same: &impl Fn(u32, &[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        let newest = Newest {
            version: row.version,
            at: self.start + row.start as u64,
            bytes: (row.end - row.start) as u32,
            layout: self.block.layout,
        };
        let mut present = match index.entry(row.key) {
            Entry::Vacant(place) => {
                place.insert(newest);
                *live_bytes += u64::from(newest.bytes);
                fates.new += 1;
                return Ok(());
            }
            Entry::Occupied(present) => present,
        };
        let before = *present.get();
        match row.version.cmp(&before.version) {
            std::cmp::Ordering::Less => {
                fates.late += 1;
                return Ok(());
            }
            std::cmp::Ordering::Greater => fates.newer += 1,
            std::cmp::Ordering::Equal => {
                let bytes = &self.block.bytes[row.start..row.end];
                let stored = self.stored(before)?;
                if is_same(before.layout, stored, bytes) {
                    fates.replayed += 1;
                    return Ok(());
                }
                // As ClickHouse does, which takes what was inserted last.
                fates.conflicting += 1;
            }
        }
        *live_bytes = *live_bytes - u64::from(before.bytes) + u64::from(newest.bytes);
        present.insert(newest);
        Ok(())
    }

    fn stored(&mut self, newest: Newest) -> io::Result<&[u8]> {
        if let Some(start) = newest.at.checked_sub(self.start) {
            let start = start as usize;
            return Ok(&self.block.bytes[start..start + newest.bytes as usize]);
        }
        self.stored.resize(newest.bytes as usize, 0);
        self.file.read_exact_at(&mut self.stored, newest.at)?;
        Ok(&self.stored)
    }
}

impl Snapshot {
    /// Hands over the bytes of each span, with its layout, in the order in which they came.
    pub(super) fn read<E: From<io::Error>>(
        &self,
        mut take: impl FnMut(u32, &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut window = Window::new(&self.file);
        for span in &self.spans {
            if !take(span.layout, window.read(*span)?)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A part of a file in memory, which moves forward.
struct Window<'a> {
    file: &'a File,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a File) -> Self {
        Self { file, at: 0, bytes: Vec::new() }
    }

    fn read(&mut self, span: Span) -> io::Result<&[u8]> {
        let length = span.bytes as usize;
        let start = span.at.checked_sub(self.at).map(|start| start as usize);
        let held = start.filter(|start| start + length <= self.bytes.len());
        let start = match held {
            Some(start) => start,
            None => {
                self.fill(span.at, length)?;
                0
            }
        };
        Ok(&self.bytes[start..start + length])
    }

    /// At the file's end there is less than a window.
    fn fill(&mut self, at: u64, least: usize) -> io::Result<()> {
        self.bytes.resize(least.max(WINDOW_BYTES), 0);
        let mut filled = 0;
        while filled < self.bytes.len() {
            match self.file.read_at(&mut self.bytes[filled..], at + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        self.bytes.truncate(filled);
        self.at = at;
        if filled < least { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn insert(rows: &mut Rows, given: &[(u8, u64, u8)]) -> Fates {
        let mut bytes = Vec::new();
        let mut checked = Vec::new();
        for (key, version, value) in given {
            let start = bytes.len();
            bytes.push(*key);
            bytes.extend(std::iter::repeat_n(*value, usize::from(*value % 5) + 1));
            let (key, end) = (u128::from(*key), bytes.len());
            checked.push(Row { key, version: *version, start, end });
        }
        let block = Block { bytes: &bytes, rows: &checked, layout: 0 };
        rows.append(block, |_, stored, new| stored == new).unwrap()
    }

    fn all(rows: &Rows) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let take = |_, bytes: &[u8]| {
            all.push(bytes.to_vec());
            Ok::<_, io::Error>(true)
        };
        rows.snapshot().read(take).unwrap();
        all.sort();
        all
    }

    #[test]
    fn what_becomes_of_rows_is_counted() {
        let mut rows = Rows::new(true).unwrap();
        let fates = insert(&mut rows, &[(1, 5, 1), (2, 5, 1), (1, 6, 2), (1, 6, 2)]);
        assert_eq!(fates, Fates { new: 2, newer: 1, replayed: 1, ..Fates::default() });
        let fates = insert(&mut rows, &[(1, 5, 1), (1, 6, 2), (2, 5, 9)]);
        assert_eq!(fates, Fates { late: 1, replayed: 1, conflicting: 1, ..Fates::default() });
        assert_eq!(all(&rows), [vec![1, 2, 2, 2], vec![2, 9, 9, 9, 9, 9]]);
    }

    #[test]
    fn without_a_key_all_are_kept() {
        let mut rows = Rows::new(false).unwrap();
        insert(&mut rows, &[(1, 5, 0), (1, 5, 0)]);
        let fates = insert(&mut rows, &[(1, 5, 0)]);
        assert_eq!(fates, Fates { keyless: 1, ..Fates::default() });
        assert_eq!(all(&rows).concat(), [1, 0, 1, 0, 1, 0]);
        rows.clear().unwrap();
        assert_eq!(all(&rows), Vec::<Vec<u8>>::new());
    }

    proptest! {
        /// A map of the newest versions, whatever comes in whatever order and is compacted when.
        #[test]
        fn the_newest_version_of_each_key_is_kept(
            blocks in prop::collection::vec(
                prop::collection::vec((0u8..8, 0u64..6, 0u8..20), 0..12), 0..12),
            compact_every in 1usize..5,
        ) {
            let mut rows = Rows::new(true).unwrap();
            let mut model = BTreeMap::new();
            for (n, block) in blocks.iter().enumerate() {
                insert(&mut rows, block);
                for (key, version, value) in block {
                    let newest = model.entry(*key).or_insert((*version, *value));
                    if *version >= newest.0 {
                        *newest = (*version, *value);
                    }
                }
                if n % compact_every == 0 {
                    rows.compact().unwrap();
                    prop_assert_eq!(rows.end, rows.live_bytes);
                }
            }
            let expected: Vec<Vec<u8>> = model
                .iter()
                .map(|(key, (_, value))| {
                    let mut row = vec![*key];
                    row.extend(std::iter::repeat_n(*value, usize::from(*value % 5) + 1));
                    row
                })
                .collect();
            prop_assert_eq!(all(&rows), expected);
        }
    }
}
