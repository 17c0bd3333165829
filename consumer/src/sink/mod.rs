//! Where batches go.

pub(crate) mod compress;
mod files;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use walbench_metrics::Failure;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::plan::{Clickhouse, Consumer, MockLevel};

use crate::ceiling::Blocks;
use crate::clickhouse::Description;
use crate::clickhouse::destination::Destination;
use crate::rowbinary::Table;
use crate::stream::{Batch, Work};
pub(crate) use compress::Compressor;
use files::Files;

/// A destination for batches.
#[derive(Debug)]
pub(crate) struct Sink {
    kind: Kind,
    /// What a flush takes beyond its CPU cost.
    delay: Duration,
}

#[derive(Debug)]
enum Kind {
    /// Rows were decoded and are dropped.
    Discard,
    /// Rows were encoded, are compressed as for ClickHouse, and dropped.
    Encode,
    /// Rows were encoded and are kept as files.
    Files(Arc<Files>),
    /// Rows were encoded, and are kept in memory.
    Keep(Arc<Blocks>),
    /// Rows were encoded, are compressed, and written into ClickHouse.
    Clickhouse(Arc<Destination>),
}

/// What a flush handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of encoded rows.
    pub encoded_bytes: u64,
    /// Bytes after compression.
    pub sent_bytes: u64,
    /// Rows that were put aside.
    pub rejected_rows: u64,
}

/// A flush that is not durable.
#[derive(Debug)]
pub(crate) struct SinkError {
    /// Why.
    pub failure: Failure,
    /// Whether it may go away.
    pub transient: bool,
}

impl Sink {
    /// The mock that a plan asks for.
    ///
    /// # Errors
    /// The level needs a server that this build does not have, or a folder that can't be used.
    pub(crate) fn mock(consumer: &Consumer) -> Result<Self, Failure> {
        let delay = Duration::from_millis(consumer.mock_delay_ms);
        let kind = match consumer.mock_level {
            MockLevel::Discard => Kind::Discard,
            MockLevel::Encode => Kind::Encode,
            MockLevel::Files => Kind::Files(Arc::new(Files::open(consumer.mock_dir.as_deref())?)),
            MockLevel::Http => {
                return Err(Failure::new(
                    "consumer.mock_level = \"http\" needs a mock server, and none was started",
                )
                .hint("use \"encode\", which has the same CPU cost and no server"));
            }
        };
        Ok(Self { kind, delay })
    }

    /// Keeps what it is given.
    pub(crate) fn keeping(blocks: Arc<Blocks>) -> Self {
        Self { kind: Kind::Keep(blocks), delay: Duration::ZERO }
    }

    /// A real ClickHouse, for a writer of which there is no other at the same time.
    ///
    /// # Errors
    /// It can't be reached, or refuses.
    pub(crate) async fn clickhouse(
        address: &ClickhouseAddress,
        plan: &Clickhouse,
        writer: &str,
    ) -> Result<Self, Failure> {
        let kind = Kind::Clickhouse(Arc::new(Destination::open(address, plan, writer).await?));
        Ok(Self { kind, delay: Duration::ZERO })
    }

    /// What a report says of a real ClickHouse.
    pub(crate) fn description(&self) -> Option<Description> {
        match &self.kind {
            Kind::Clickhouse(destination) => Some(destination.description()),
            _ => None,
        }
    }

    /// Whether it wants rows encoded.
    #[must_use]
    pub(crate) fn wants_rows(&self) -> bool {
        !matches!(self.kind, Kind::Discard)
    }

    /// Does what is asked, and hands it back with what was written, once it is durable.
    pub(crate) async fn carry_out(&self, work: Work) -> (Work, Result<Written, SinkError>) {
        // Compressing and writing are work for a core: on the runtime they would hold up the link.
        let done = match (&self.kind, work) {
            (Kind::Encode, Work::Write(batch)) => {
                tokio::task::spawn_blocking(move || {
                    let written = compress_parts(&batch);
                    (Work::Write(batch), Ok(written))
                })
                .await
            }
            (Kind::Clickhouse(destination), work) => Ok(destination.carry_out(work).await),
            (Kind::Keep(blocks), Work::Write(batch)) => {
                let written = blocks.take(&batch);
                Ok((Work::Write(batch), Ok(written)))
            }
            (Kind::Discard | Kind::Encode | Kind::Keep(_), work) => {
                Ok((work, Ok(Written::default())))
            }
            (Kind::Files(files), work) => {
                let files = files.clone();
                tokio::task::spawn_blocking(move || {
                    let written = match &work {
                        Work::Write(batch) => files.write(batch),
                        Work::Truncate(tables) => files.truncate(tables),
                    };
                    (work, written.map_err(|failure| SinkError { failure, transient: true }))
                })
                .await
            }
        };
        // A flush that panics ends the process, as any panic of a worker does.
        let done = done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        // The runtime's clock has ticks of 1 ms, and to sleep for no time takes one.
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        done
    }
}

thread_local! {
    static COMPRESSOR: RefCell<Compressor> = RefCell::default();
}

/// Compresses with memory that this thread keeps.
pub(crate) fn with_compressor<T>(work: impl FnOnce(&mut Compressor) -> T) -> T {
    COMPRESSOR.with_borrow_mut(work)
}

fn compress_parts(batch: &Batch) -> Written {
    with_compressor(|compressor| {
        let mut written = Written::default();
        for part in &batch.parts {
            written.encoded_bytes += part.encoded.len() as u64;
            written.sent_bytes += compressor.blocks(&part.encoded).len() as u64;
        }
        written
    })
}

/// A destination table's name as a part of a file's, and of no other table's.
fn file_name(table: &Table) -> String {
    table.name.replace('%', "%25").replace('/', "%2F")
}
