//! Which pages of a table are copied together.

use std::ops::Range;

use rangemap::RangeSet;

/// Chunks are not smaller, in bytes: each costs a transaction, about a millisecond.
const SMALLEST_BYTES: u64 = 1024 * 1024;

/// Nor larger: a chunk is what a kill costs, and what one connection does at the end while the
/// others have nothing left.
const LARGEST_BYTES: u64 = 64 * 1024 * 1024;

/// A table that is not large is cut into so many chunks for each connection, so that all of them
/// end at about the same time.
const FOR_EACH_CONNECTION: u64 = 4;

/// Pages that make a chunk of a table with so many pages and so many bytes, values stored outside
/// of its pages included.
pub(super) fn chunk_pages(pages: u32, table_bytes: u64, connections: u32) -> u32 {
    let share = table_bytes / (u64::from(connections).max(1) * FOR_EACH_CONNECTION);
    let chunks = table_bytes.div_ceil(share.clamp(SMALLEST_BYTES, LARGEST_BYTES)).max(1);
    // Not more than there are pages, which fit.
    u64::from(pages).div_ceil(chunks).max(1) as u32
}

/// What is left of a table's pages, in chunks of at most so many.
pub(super) fn chunks(pages: u32, done: &RangeSet<u32>, chunk_pages: u32) -> Vec<Range<u32>> {
    let mut chunks = Vec::new();
    if pages == 0 {
        return chunks;
    }
    for gap in done.gaps(&(0..pages)) {
        let mut start = gap.start;
        while start < gap.end {
            let end = start.saturating_add(chunk_pages.max(1)).min(gap.end);
            chunks.push(start..end);
            start = end;
        }
    }
    chunks
}

/// How many of a table's pages are done.
pub(super) fn pages_of(done: &RangeSet<u32>) -> u64 {
    done.iter().map(|range| u64::from(range.end - range.start)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 8192;

    #[test]
    fn small_tables_are_one_chunk_and_large_ones_many() {
        assert_eq!(chunk_pages(0, 0, 4), 1);
        assert_eq!(chunk_pages(100, 100 * PAGE, 4), 100);
        // 16 MB over 4 connections: 16 chunks of 1 MB.
        assert_eq!(chunk_pages(2_048, 2_048 * PAGE, 4), 128);
        // 1 TB: chunks of 64 MB.
        assert_eq!(chunk_pages(1 << 27, (1 << 27) * PAGE, 4), 8_192);
        // A page whose values are large ones, stored elsewhere.
        assert_eq!(chunk_pages(2, 1 << 40, 4), 1);
        assert_eq!(chunk_pages(u32::MAX, u64::MAX, u32::MAX), 1);
    }

    #[test]
    fn what_is_done_is_not_copied_again() {
        let done = RangeSet::from_iter([0..10, 15..16, 90..100]);
        assert_eq!(chunks(100, &done, 30), [10..15, 16..46, 46..76, 76..90]);
        assert_eq!(chunks(0, &RangeSet::new(), 30), []);
        assert_eq!(pages_of(&done), 21);
    }

    proptest! {
        #[test]
        fn chunks_are_exactly_what_is_left(
            pages in 0u32..300,
            done in prop::collection::vec((0u32..300, 1u32..40), 0..8),
            chunk_pages in 1u32..50,
        ) {
            let mut seen = RangeSet::new();
            for (start, length) in done {
                seen.insert(start..start + length);
            }
            let mut expected: Vec<u32> = (0..pages).filter(|page| !seen.contains(page)).collect();
            for chunk in chunks(pages, &seen, chunk_pages) {
                prop_assert!(!chunk.is_empty() && chunk.end - chunk.start <= chunk_pages);
                let copied: Vec<u32> = expected.drain(..chunk.len()).collect();
                prop_assert_eq!(copied, chunk.collect::<Vec<_>>());
            }
            prop_assert!(expected.is_empty());
        }

        #[test]
        fn a_table_of_any_size_has_chunks(pages: u32, bytes: u64, connections in 1u32..65) {
            let chunk = chunk_pages(pages, bytes, connections);
            prop_assert!(chunk >= 1 && chunk <= pages.max(1));
        }
    }
}
