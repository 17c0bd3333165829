//! Records in their order, however many there are: what is more than the memory they may take is
//! sorted piece by piece into a file, and the pieces are read side by side.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::record::{RECORD_BYTES, Record};

/// Records that a piece is read by at once: not more, and not less.
const READ_RECORDS: Range<usize> = 64..16_384;

/// Takes records in any order.
#[derive(Debug)]
pub(super) struct Sorter {
    records: Vec<Record>,
    most_records: usize,
    /// It has no name, and is gone with this process.
    file: Option<File>,
    /// Where in it each piece lies, in records.
    pieces: Vec<Range<u64>>,
}

impl Sorter {
    /// Takes about so much memory.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let most = usize::try_from(memory_bytes).unwrap_or(usize::MAX) / RECORD_BYTES;
        Self { records: Vec::new(), most_records: most.max(1), file: None, pieces: Vec::new() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// The file's.
    #[inline]
    pub(super) fn push(&mut self, record: Record) -> io::Result<()> {
        if self.records.len() == self.records.capacity() {
            self.make_room()?;
        }
        self.records.push(record);
        Ok(())
    }

    #[cold]
    fn make_room(&mut self) -> io::Result<()> {
        let records = self.records.len();
        if records >= self.most_records {
            return self.put_aside();
        }
        self.records.reserve_exact(records.max(1024).min(self.most_records - records));
        Ok(())
    }

    /// Moves what is in memory to the file, sorted.
    fn put_aside(&mut self) -> io::Result<()> {
        let Self { records, file, pieces, .. } = self;
        records.sort_unstable();
        let file = match file {
            Some(file) => file,
            None => file.insert(tempfile::tempfile()?),
        };
        let mut out = BufWriter::with_capacity(1 << 18, &*file);
        for record in records.iter() {
            out.write_all(&record.to_bytes())?;
        }
        out.flush()?;
        drop(out);
        let start = pieces.last().map_or(0, |last| last.end);
        pieces.push(start..start + records.len() as u64);
        records.clear();
        Ok(())
    }

    /// All of them in their order.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn sorted(mut self) -> io::Result<Sorted> {
        if self.file.is_some() && !self.records.is_empty() {
            self.put_aside()?;
        }
        let Some(file) = self.file else {
            self.records.sort_unstable();
            return Ok(Sorted::Memory(self.records.into_iter()));
        };
        drop(self.records);
        let share = self.most_records / self.pieces.len();
        let read_records = share.clamp(READ_RECORDS.start, READ_RECORDS.end);
        let mut pieces: Vec<_> = self.pieces.into_iter().map(Piece::new).collect();
        let mut heads = BinaryHeap::new();
        for (index, piece) in pieces.iter_mut().enumerate() {
            heads.extend(piece.next(&file, read_records)?.map(|record| Reverse((record, index))));
        }
        Ok(Sorted::Merged { file, pieces, heads, read_records })
    }
}

/// Records in their order.
#[derive(Debug)]
pub(super) enum Sorted {
    Memory(std::vec::IntoIter<Record>),
    Merged {
        file: File,
        pieces: Vec<Piece>,
        /// The first record of each piece that is not at its end.
        heads: BinaryHeap<Reverse<(Record, usize)>>,
        read_records: usize,
    },
}

impl Sorted {
    /// The next one; `None` behind the last.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        match self {
            Self::Memory(records) => Ok(records.next()),
            Self::Merged { file, pieces, heads, read_records } => {
                let Some(Reverse((record, index))) = heads.pop() else { return Ok(None) };
                let next = pieces[index].next(file, *read_records)?;
                heads.extend(next.map(|record| Reverse((record, index))));
                Ok(Some(record))
            }
        }
    }
}

/// A sorted piece of the file.
#[derive(Debug)]
pub(super) struct Piece {
    left: Range<u64>,
    /// What was read of it, the next one last.
    read: Vec<Record>,
}

impl Piece {
    fn new(left: Range<u64>) -> Self {
        Self { left, read: Vec::new() }
    }

    fn next(&mut self, file: &File, read_records: usize) -> io::Result<Option<Record>> {
        if self.read.is_empty() && !self.left.is_empty() {
            let records = (self.left.end - self.left.start).min(read_records as u64);
            let mut bytes = vec![0; records as usize * RECORD_BYTES];
            file.read_exact_at(&mut bytes, self.left.start * RECORD_BYTES as u64)?;
            let records_read = bytes.as_chunks().0.iter().rev().map(Record::from_bytes);
            self.read.extend(records_read);
            self.left.start += records;
        }
        Ok(self.read.pop())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn memory_and_file_give_the_same_order(
            keys in prop::collection::vec((0u64..50, 0u64..4), 0..2_000),
            memory_records in 1u64..500,
        ) {
            let record = |(key, version): (u64, u64)| Record {
                key: [key.wrapping_mul(0x9e37_79b9_7f4a_7c15), key],
                version,
                values: [version, 1],
                clock: 0,
            };
            let mut expected: Vec<_> = keys.into_iter().map(record).collect();
            let mut sorter = Sorter::new(memory_records * RECORD_BYTES as u64);
            for record in &expected {
                sorter.push(*record).unwrap();
            }
            expected.sort_unstable();
            let mut sorted = sorter.sorted().unwrap();
            let mut read = Vec::new();
            while let Some(record) = sorted.next().unwrap() {
                read.push(record);
            }
            prop_assert_eq!(read, expected);
        }
    }
}
