//! ClickHouse's compressed blocks, read: a checksum, a header, data (ClickHouse manual, native
//! protocol, "Compression"). [`crate::sink`] writes them.

use std::io::{self, Read};

use super::exception::{
    CANNOT_DECOMPRESS, CANNOT_READ_ALL_DATA, CHECKSUM_DOESNT_MATCH, CORRUPTED_DATA, Exception,
    TOO_LARGE_SIZE_COMPRESSED, UNKNOWN_CODEC,
};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;

const NONE: u8 = 0x02;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;

/// The largest block that is read, compressed or not. ClickHouse reads 1 GB; its own clients write
/// 1 MB, and the `clickhouse` crate as much as it is given at once.
pub const LARGEST_BLOCK_BYTES: usize = 128 * 1024 * 1024;

/// Reads what compressed blocks hold, one block in memory at a time. Its errors carry an
/// [`Exception`].
#[derive(Debug)]
pub struct BlockReader<R> {
    blocks: R,
    /// Header and data of a block.
    compressed: Vec<u8>,
    raw: Vec<u8>,
    /// How much of it was read.
    position: usize,
}

impl<R: Read> BlockReader<R> {
    /// A reader of blocks.
    pub fn new(blocks: R) -> Self {
        Self { blocks, compressed: Vec::new(), raw: Vec::new(), position: 0 }
    }

    /// Goes on to the next block; `false` behind the last one.
    fn next(&mut self) -> io::Result<bool> {
        let mut head = [0; CHECKSUM_BYTES + HEADER_BYTES];
        match read_up_to(&mut self.blocks, &mut head)? {
            0 => return Ok(false),
            read if read < head.len() => return Err(cut_off(read, head.len())),
            _ => {}
        }
        let (checksum, header) = head.split_at(CHECKSUM_BYTES);
        let (method, compressed_bytes, raw_bytes) = (header[0], size(header, 1), size(header, 5));
        check_header(method, compressed_bytes, raw_bytes)?;

        self.compressed.clear();
        self.compressed.extend_from_slice(header);
        self.compressed.resize(compressed_bytes, 0);
        let data = &mut self.compressed[HEADER_BYTES..];
        let read = read_up_to(&mut self.blocks, data)?;
        if read < data.len() {
            return Err(cut_off(read, data.len()));
        }
        check_checksum(checksum, &self.compressed)?;

        self.position = 0;
        self.raw.clear();
        self.raw.resize(raw_bytes, 0);
        decompress(method, &self.compressed[HEADER_BYTES..], &mut self.raw)?;
        Ok(true)
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.raw.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let rest = &self.raw[self.position..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}

fn size(header: &[u8], at: usize) -> usize {
    let bytes = header[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes) as usize
}

/// Reads until the buffer is full or there is no more.
fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn cut_off(read: usize, expected: usize) -> io::Error {
    let text = format!("Cannot read all data. Bytes read: {read}. Bytes expected: {expected}.");
    io::Error::other(Exception::new(CANNOT_READ_ALL_DATA, text.trim_end_matches('.')))
}

fn check_header(method: u8, compressed_bytes: usize, raw_bytes: usize) -> io::Result<()> {
    let refuse = |kind, text: String| Err(io::Error::other(Exception::new(kind, text)));
    if !matches!(method, NONE | LZ4 | ZSTD) {
        return refuse(UNKNOWN_CODEC, format!("Unknown codec family code: {method}"));
    }
    if compressed_bytes < HEADER_BYTES {
        let text = format!(
            "Can't decompress data: the compressed data size ({compressed_bytes}, this should \
             include header size) is less than the header size ({HEADER_BYTES})"
        );
        return refuse(CORRUPTED_DATA, text);
    }
    for (which, bytes) in [("compressed", compressed_bytes), ("decompressed", raw_bytes)] {
        if bytes > LARGEST_BLOCK_BYTES {
            let text = format!(
                "Too large size_{which}: {bytes}. Most likely corrupted data; the largest block \
                 taken here has {LARGEST_BLOCK_BYTES} bytes"
            );
            return refuse(TOO_LARGE_SIZE_COMPRESSED, text);
        }
    }
    Ok(())
}

fn check_checksum(expected: &[u8], block: &[u8]) -> io::Result<()> {
    // ClickHouse writes the lower half of its CityHash first; the crate's number has it on top.
    let calculated = cityhash_rs::cityhash_102_128(block).rotate_left(64).to_le_bytes();
    if calculated == expected {
        return Ok(());
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let text = format!(
        "Checksum doesn't match: corrupted data. Reference: {}. Actual: {}. Size of compressed \
         block: {}",
        hex(expected),
        hex(&calculated),
        block.len()
    );
    Err(io::Error::other(Exception::new(CHECKSUM_DOESNT_MATCH, text)))
}

/// Fills `raw`, whose size the block's header gave.
fn decompress(method: u8, data: &[u8], raw: &mut [u8]) -> io::Result<()> {
    let decompressed = match method {
        NONE if data.len() == raw.len() => {
            raw.copy_from_slice(data);
            Ok(data.len())
        }
        NONE => Err("the sizes of an uncompressed block differ".to_owned()),
        LZ4 => lz4_flex::block::decompress_into(data, raw).map_err(|e| e.to_string()),
        _ => zstd::bulk::decompress_to_buffer(data, raw).map_err(|e| e.to_string()),
    };
    let reason = match decompressed {
        Ok(bytes) if bytes == raw.len() => return Ok(()),
        Ok(bytes) => format!("it has {bytes} bytes and not the {} of its header", raw.len()),
        Err(reason) => reason,
    };
    let name = if method == ZSTD { "ZSTD" } else { "LZ4" };
    let name = if method == NONE { "uncompressed" } else { name };
    let text = format!("Cannot decompress {name} block: {reason}");
    Err(io::Error::other(Exception::new(CANNOT_DECOMPRESS, text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sink::compress::Compressor;

    fn block(method: u8, data: &[u8], raw_bytes: usize) -> Vec<u8> {
        let mut block = vec![method];
        block.extend(u32::try_from(data.len() + HEADER_BYTES).unwrap().to_le_bytes());
        block.extend(u32::try_from(raw_bytes).unwrap().to_le_bytes());
        block.extend(data);
        let checksum = cityhash_rs::cityhash_102_128(&block).rotate_left(64);
        [&checksum.to_le_bytes()[..], &block].concat()
    }

    fn read(blocks: &[u8]) -> Result<Vec<u8>, Exception> {
        let mut raw = Vec::new();
        match BlockReader::new(blocks).read_to_end(&mut raw) {
            Ok(_) => Ok(raw),
            Err(e) => Err(e.downcast().unwrap()),
        }
    }

    #[test]
    fn blocks_of_all_methods_follow_each_other() {
        let zstd = zstd::bulk::compress(b"three", 1).unwrap();
        let blocks = [
            Compressor::default().blocks(b"one ").to_vec(),
            block(NONE, b"two ", 4),
            block(LZ4, &lz4_flex::block::compress(b""), 0),
            block(ZSTD, &zstd, 5),
        ];
        assert_eq!(read(&blocks.concat()).unwrap(), b"one two three");
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_wrong_with_a_block_is_said() {
        let good = block(NONE, b"abcdef", 6);
        let code = |blocks: &[u8]| read(blocks).unwrap_err().code;
        assert_eq!(code(&good[..10]), 33);
        assert_eq!(code(&good[..good.len() - 1]), 33);
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(code(&flipped), 40);
        assert_eq!(code(&block(0x55, b"abcdef", 6)), 432);
        assert_eq!(code(&block(NONE, b"abcdef", 7)), 271);
        assert_eq!(code(&block(LZ4, b"\xff\xff\xff", 6)), 271);
        assert_eq!(code(&block(LZ4, &lz4_flex::block::compress(b"abc"), 6)), 271);
        assert_eq!(code(&block(ZSTD, b"abcdef", 6)), 271);
        assert_eq!(code(&block(LZ4, b"", 1 << 30)), 39);
        let mut short = good;
        short[CHECKSUM_BYTES + 1..CHECKSUM_BYTES + 5].copy_from_slice(&3u32.to_le_bytes());
        assert_eq!(code(&short), 246);
    }

    proptest! {
        #[test]
        fn what_the_sink_compresses_is_read_back(raw in prop::collection::vec(any::<u8>(), 0..5_000)) {
            prop_assert_eq!(read(Compressor::default().blocks(&raw)).unwrap(), raw);
        }

        #[test]
        fn no_flipped_bit_goes_unnoticed(at in 0usize..40, bit in 0u8..8) {
            let mut blocks = block(NONE, b"fifteen bytes..", 15);
            blocks[at] ^= 1 << bit;
            prop_assert!(read(&blocks).is_err());
        }
    }
}
