//! A mock that keeps what it is given: each flush as files of RowBinary. Of one consumer's flushes,
//! the names' order is the order in which they were kept whole; several consumers may share a folder,
//! and their flushes have no order between them. What was acknowledged survives the consumer,
//! however that ends, and not the machine: nothing is synced to disk.
//!
//! ```text
//! <folder>/00000000000000000007.<writer>.<n>.public.orders.rowbinary    rows of one table
//! <folder>/00000000000000000007.<writer>.<n>.public.orders.columns      their columns: name, type
//! <folder>/00000000000000000008.<writer>.0.public.orders.truncate       it was emptied
//! ```
//!
//! A flush that fails half way, or whose consumer is killed, may leave some of its files, and comes
//! again under another number.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use walbench_metrics::Failure;

use super::{Written, file_name};
use crate::rowbinary::Table;
use crate::stream::Batch;

/// A folder of flushes.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// Tells this consumer's files from those of others, on whatever machine.
    writer: String,
    /// What the next flush that is kept has in its name.
    next: Mutex<u64>,
    /// Tries so far.
    tries: AtomicU64,
}

/// A file of a flush: its name behind number and writer, and what is in it.
type Content<'a> = (String, &'a [u8]);

impl Files {
    /// Goes on behind what the folder holds already.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self, Failure> {
        let folder = folder.ok_or_else(|| {
            Failure::new("consumer.mock_level = \"files\" needs a folder")
                .hint("set consumer.mock_dir")
        })?;
        let failed = |e: io::Error| {
            Failure::new(format!("consumer.mock_dir {} can't be used", folder.display()))
                .caused_by(&e)
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut next = 0;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.split('.').next()?.parse().ok());
            next = next.max(number.map_or(0, |number: u64| number + 1));
        }
        // The state of a hasher is random, from the operating system.
        let writer = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let folder = folder.to_path_buf();
        Ok(Self { folder, writer, next: Mutex::new(next), tries: AtomicU64::new(0) })
    }

    /// Keeps a batch.
    pub(super) fn write(&self, batch: &Batch) -> Result<Written, Failure> {
        let parts = || batch.parts.iter().enumerate().filter(|(_, part)| part.rows > 0);
        let columns: Vec<_> = parts().map(|(_, part)| columns(&part.table)).collect();
        let contents = parts().zip(&columns).flat_map(|((index, part), columns)| {
            let name = |kind| name(index, &part.table, kind);
            [(name("columns"), columns.as_bytes()), (name("rowbinary"), part.encoded.as_slice())]
        });
        self.keep(&contents.collect::<Vec<_>>())?;
        let bytes = parts().map(|(_, part)| part.encoded.len() as u64).sum();
        Ok(Written { encoded_bytes: bytes, sent_bytes: bytes, ..Written::default() })
    }

    /// Remembers that tables were emptied.
    pub(super) fn truncate(&self, tables: &[Arc<Table>]) -> Result<Written, Failure> {
        let tables = tables.iter().enumerate();
        let contents = tables.map(|(index, table)| (name(index, table, "truncate"), &[][..]));
        self.keep(&contents.collect::<Vec<_>>())?;
        Ok(Written::default())
    }

    /// Keeps the files of a flush. Each is there whole or not at all.
    fn keep(&self, contents: &[Content<'_>]) -> Result<(), Failure> {
        let number = self.tries.fetch_add(1, Ordering::Relaxed);
        let partial = |index| self.folder.join(format!(".{}.{number}.{index}", self.writer));
        let kept = self.keep_by(contents, partial);
        if kept.is_err() {
            // The next try writes files of its own.
            (0..contents.len()).for_each(|index| drop(fs::remove_file(partial(index))));
        }
        kept
    }

    fn keep_by(
        &self,
        contents: &[Content<'_>],
        partial: impl Fn(usize) -> PathBuf,
    ) -> Result<(), Failure> {
        let failed = |path: &Path, e: io::Error| {
            Failure::new(format!("the flush can't be kept in {}", path.display())).caused_by(&e)
        };
        for (index, (_, bytes)) in contents.iter().enumerate() {
            let path = partial(index);
            fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
        }
        // Held until all have their names: the numbers' order is that of what is whole.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *next;
        *next += 1;
        for (index, (name, _)) in contents.iter().enumerate() {
            let path = self.folder.join(format!("{number:020}.{}.{name}", self.writer));
            fs::rename(partial(index), &path).map_err(|e| failed(&path, e))?;
        }
        Ok(())
    }
}

fn name(index: usize, table: &Table, kind: &str) -> String {
    format!("{index}.{}.{kind}", file_name(table))
}

/// A table's columns, a line each.
fn columns(table: &Table) -> String {
    let columns = table.columns.iter();
    columns.map(|c| format!("{}\t{}\n", c.name.escape_default(), c.clickhouse_type())).collect()
}
