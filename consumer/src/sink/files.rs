//! A mock that keeps what it is given: each flush as files of RowBinary, in the order in which they
//! became durable. What was acknowledged survives the consumer, however that ends.
//!
//! ```text
//! <folder>/00000000000000000007.<n>.public.orders.rowbinary    rows of one table
//! <folder>/00000000000000000007.<n>.public.orders.columns      their columns: name, type
//! <folder>/00000000000000000008.0.public.orders.truncate       it was emptied
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use walbench_metrics::Failure;

use super::{Written, file_name};
use crate::rowbinary::Table;
use crate::stream::Batch;

/// A folder of flushes.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    next: AtomicU64,
}

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
        Ok(Self { folder: folder.to_path_buf(), next: AtomicU64::new(next) })
    }

    /// Keeps a batch.
    pub(super) fn write(&self, batch: &Batch) -> Result<Written, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut written = Written::default();
        for (index, part) in batch.parts.iter().enumerate().filter(|(_, part)| part.rows > 0) {
            let columns = part.table.columns.iter();
            let columns: String = columns
                .map(|c| format!("{}\t{}\n", c.name.escape_default(), c.clickhouse_type()))
                .collect();
            self.keep(number, index, &part.table, "columns", columns.as_bytes())?;
            self.keep(number, index, &part.table, "rowbinary", &part.encoded)?;
            written.encoded_bytes += part.encoded.len() as u64;
            written.sent_bytes += part.encoded.len() as u64;
        }
        Ok(written)
    }

    /// Remembers that tables were emptied.
    pub(super) fn truncate(&self, tables: &[Arc<Table>]) -> Result<Written, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        for (index, table) in tables.iter().enumerate() {
            self.keep(number, index, table, "truncate", &[])?;
        }
        Ok(Written::default())
    }

    /// A file is there whole or not at all.
    fn keep(
        &self,
        number: u64,
        index: usize,
        table: &Table,
        kind: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let name = format!("{number:020}.{index}.{}.{kind}", file_name(table));
        let (path, partial) = (self.folder.join(&name), self.folder.join(format!(".{name}")));
        fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path)).map_err(|e| {
            Failure::new(format!("the flush can't be kept in {}", path.display())).caused_by(&e)
        })
    }
}
