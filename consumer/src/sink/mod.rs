//! Where batches go.

mod compress;

use std::io;
use std::time::Duration;

use walbench_phases::plan::{Consumer, MockLevel};

use crate::batch::Batch;

/// A destination for batches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sink {
    /// Rows were decoded and are dropped.
    Discard {
        /// What a flush takes.
        delay: Duration,
    },
    /// Rows were encoded, are compressed as for ClickHouse, and dropped.
    Encode {
        /// What a flush takes beyond its CPU cost.
        delay: Duration,
    },
}

/// What a flush handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of encoded rows.
    pub encoded_bytes: u64,
    /// Bytes after compression.
    pub sent_bytes: u64,
}

impl Sink {
    /// The mock that a plan asks for.
    ///
    /// # Errors
    /// The level needs a server that this build does not have.
    pub(crate) fn mock(consumer: &Consumer) -> Result<Self, walbench_metrics::Failure> {
        let delay = Duration::from_millis(consumer.mock_delay_ms);
        match consumer.mock_level {
            MockLevel::Discard => Ok(Self::Discard { delay }),
            MockLevel::Encode => Ok(Self::Encode { delay }),
            MockLevel::Files | MockLevel::Http => Err(walbench_metrics::Failure::new(
                "consumer.mock_level = \"http\" is not in this version of walbench",
            )
            .hint("use \"encode\", which has the same CPU cost and no server")),
        }
    }

    /// Whether it wants rows encoded.
    #[must_use]
    pub(crate) fn wants_rows(&self) -> bool {
        matches!(self, Self::Encode { .. })
    }

    /// Writes a batch and hands it back with what was written, once it is durable.
    ///
    /// # Errors
    /// The batch is not durable.
    pub(crate) async fn write(&self, batch: Batch) -> io::Result<(Batch, Written)> {
        match *self {
            Self::Discard { delay } => {
                tokio::time::sleep(delay).await;
                Ok((batch, Written::default()))
            }
            Self::Encode { delay } => {
                // Compressing is work for a core: on the runtime it would hold up the link.
                let (batch, written) =
                    tokio::task::spawn_blocking(move || compress_parts(batch)).await?;
                tokio::time::sleep(delay).await;
                Ok((batch, written))
            }
        }
    }
}

fn compress_parts(batch: Batch) -> (Batch, Written) {
    let mut written = Written::default();
    let mut compressed = Vec::new();
    for part in &batch.parts {
        compressed.clear();
        compress::blocks(&part.encoded, &mut compressed);
        written.encoded_bytes += part.encoded.len() as u64;
        written.sent_bytes += compressed.len() as u64;
    }
    (batch, written)
}
