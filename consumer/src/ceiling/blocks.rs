//! A consumer's blocks, kept in memory instead of sent.

use std::sync::{Mutex, PoisonError};

use crate::sink::Written;
use crate::stream::Batch;

/// Encoded rows that are kept; compressed, they are there once more.
const KEPT_BYTES: u64 = 64 << 20;

/// Takes all and keeps the first.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Mutex<Kept>);

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) batches: Vec<Batch>,
    bytes: u64,
    /// There were more.
    pub(crate) is_bounded: bool,
}

impl Blocks {
    /// Keeps a copy of the rows, if there is room.
    pub(crate) fn take(&self, batch: &Batch) -> Written {
        let encoded_bytes = batch.parts.iter().map(|part| part.encoded.len() as u64).sum();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.is_bounded |= kept.bytes + encoded_bytes > KEPT_BYTES;
        if !kept.is_bounded {
            kept.bytes += encoded_bytes;
            kept.batches.push(batch.rows_alone());
        }
        Written { encoded_bytes, ..Written::default() }
    }

    /// Takes out what was kept.
    pub(crate) fn take_out(&self) -> Kept {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rowbinary::Table;

    fn batch(bytes: usize) -> Batch {
        let table = Arc::new(Table::default());
        let mut batch = Batch::default();
        let part = batch.part(&table);
        part.encoded.resize(bytes, 0);
        part.rows = 1;
        part.token = Some("sent once".into());
        batch.part(&Arc::new(Table { name: "without rows".into(), ..Table::default() }));
        batch.rows = 1;
        batch
    }

    #[test]
    fn the_first_are_kept_as_long_as_there_is_room() {
        let (blocks, half) = (Blocks::default(), KEPT_BYTES as usize / 2);
        // A smaller one that would fit is behind the first that did not.
        for bytes in [half, half - 1, 2, 1] {
            assert_eq!(blocks.take(&batch(bytes)).encoded_bytes, bytes as u64);
        }
        let Kept { batches, is_bounded, .. } = blocks.take_out();
        assert!(is_bounded);
        let kept: Vec<_> = batches.iter().map(|batch| batch.parts[0].encoded.len()).collect();
        assert_eq!(kept, [half, half - 1]);
        // They are as if nobody had sent them.
        assert!(batches.iter().all(|it| it.parts.len() == 1 && it.parts[0].token.is_none()));
        assert!(blocks.take_out().batches.is_empty());
    }
}
