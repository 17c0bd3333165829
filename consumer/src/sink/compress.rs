//! ClickHouse's compressed blocks: a checksum, a header, LZ4 data (ClickHouse manual, native
//! protocol, "Compression").

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

/// Uncompressed bytes of a block: ClickHouse's own `min_compress_block_size`. LZ4 looks no further
/// back than that, so larger ones are hardly smaller in all.
const BLOCK_BYTES: usize = 64 * 1024;

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const LZ4: u8 = 0x82;

/// Memory that is kept from one use to the next: getting it anew costs a page fault each 4 KB.
const KEPT_BYTES: usize = 2 * 1024 * 1024;

/// Compresses, with memory of its own.
pub(crate) struct Compressor {
    table: CompressTable,
    blocks: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { table: CompressTable::large(), blocks: Vec::new() }
    }
}

impl Compressor {
    /// `raw` as compressed blocks.
    pub(crate) fn blocks(&mut self, raw: &[u8]) -> &[u8] {
        self.blocks.clear();
        self.blocks.shrink_to(KEPT_BYTES);
        for chunk in raw.chunks(BLOCK_BYTES) {
            block(chunk, &mut self.table, &mut self.blocks);
            // On a busy machine it may have taken the core of whoever sends the rows, who should not
            // wait until a whole batch is compressed.
            std::thread::yield_now();
        }
        &self.blocks
    }
}

fn block(raw: &[u8], table: &mut CompressTable, out: &mut Vec<u8>) {
    let start = out.len();
    let header = start + CHECKSUM_BYTES;
    let data = header + HEADER_BYTES;
    out.resize(data + get_maximum_output_size(raw.len()), 0);
    let length = compress_into_with_table(raw, &mut out[data..], table)
        .expect("the output has room for the worst case");
    out.truncate(data + length);

    let size = |n: usize| u32::try_from(n).expect("a block is small").to_le_bytes();
    out[header] = LZ4;
    out[header + 1..header + 5].copy_from_slice(&size(HEADER_BYTES + length));
    out[header + 5..data].copy_from_slice(&size(raw.len()));
    // ClickHouse writes the lower half of its CityHash first; the crate's number has it on top.
    let checksum = cityhash_rs::cityhash_102_128(&out[header..]).rotate_left(64);
    out[start..header].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decompress(mut blocks: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        while !blocks.is_empty() {
            let (checksum, rest) = blocks.split_at(CHECKSUM_BYTES);
            let size =
                |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(rest[0], LZ4);
            let (block, next) = rest.split_at(size(1));
            let hash = cityhash_rs::cityhash_102_128(block).rotate_left(64);
            assert_eq!(checksum, hash.to_le_bytes());
            raw.extend(lz4_flex::block::decompress(&block[HEADER_BYTES..], size(5)).unwrap());
            blocks = next;
        }
        raw
    }

    #[test]
    fn large_data_is_cut_into_blocks() {
        let raw: Vec<u8> = (0..3 * BLOCK_BYTES + 5).map(|n| (n / 7) as u8).collect();
        let mut compressor = Compressor::default();
        // Nothing of one use is left in the next.
        for raw in [&raw[..], &raw[7..], &raw[..9]] {
            assert_eq!(decompress(compressor.blocks(raw)), raw);
        }
        assert!(compressor.blocks(&raw).len() < raw.len() / 4);
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_read_back(raw in prop::collection::vec(any::<u8>(), 0..5_000)) {
            prop_assert_eq!(decompress(Compressor::default().blocks(&raw)), raw);
        }
    }
}
