//! HTTP's own compression of bodies.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};

use crate::clickhouse::exception::{
    Kind, LZ4_DECODER_FAILED, ZLIB_INFLATE_FAILED, ZSTD_DECODER_FAILED,
};
use crate::sink::compress::Compressor;

/// A compression that both sides know by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    /// LZ4's frames; not ClickHouse's blocks.
    Lz4,
    Zstd,
}

impl Encoding {
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        match &*name {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "lz4" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// What bytes that are not of this encoding are to ClickHouse.
    pub(super) fn failure(self) -> Kind {
        match self {
            Self::Gzip | Self::Deflate => ZLIB_INFLATE_FAILED,
            Self::Lz4 => LZ4_DECODER_FAILED,
            Self::Zstd => ZSTD_DECODER_FAILED,
        }
    }

    pub(super) fn decoder(self, body: impl Read + 'static) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(body)),
            Self::Deflate => Box::new(ZlibDecoder::new(body)),
            Self::Lz4 => Box::new(Lz4Frames::new(body)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(body)?),
        })
    }
}

/// LZ4's frames, one behind the other. [`FrameDecoder`] ends after the first, and takes the end of its
/// reader in mid-frame for that of the frame: rows would be missing, and nobody told.
struct Lz4Frames<R: Read> {
    frames: FrameDecoder<Watched<R>>,
    /// None has begun, or one has ended.
    is_between: bool,
}

/// A reader, and what is known of it.
struct Watched<R> {
    reader: R,
    bytes: u64,
    last: [u8; 4],
    has_ended: bool,
}

/// A block of nothing, which is no end: no encoder that we know of writes one.
const EMPTY_BLOCK: [u8; 4] = [0, 0, 0, 0x80];

impl<R: Read> Lz4Frames<R> {
    fn new(reader: R) -> Self {
        let watched = Watched { reader, bytes: 0, last: [0; 4], has_ended: false };
        Self { frames: FrameDecoder::new(watched), is_between: true }
    }
}

impl<R: Read> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let bytes_before = self.frames.get_ref().bytes;
            let read = self.frames.read(buffer)?;
            let Watched { bytes, last, has_ended, .. } = *self.frames.get_ref();
            if read > 0 {
                self.is_between = false;
                return Ok(read);
            }
            if !has_ended {
                self.is_between = last != EMPTY_BLOCK;
            } else if self.is_between && bytes == bytes_before {
                return Ok(0);
            } else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes += read as u64;
        for byte in &buffer[read.saturating_sub(self.last.len())..read] {
            self.last.rotate_left(1);
            self.last[3] = *byte;
        }
        self.has_ended |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

/// Compresses an answer, part by part.
pub(super) enum Encoder {
    Plain,
    /// ClickHouse's blocks.
    Blocks(Box<Compressor>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Lz4(Box<FrameEncoder<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    pub(super) fn blocks() -> Self {
        Self::Blocks(Box::default())
    }

    pub(super) fn new(encoding: Option<Encoding>) -> io::Result<Self> {
        let level = Compression::fast();
        Ok(match encoding {
            None => Self::Plain,
            Some(Encoding::Gzip) => Self::Gzip(GzEncoder::new(Vec::new(), level)),
            Some(Encoding::Deflate) => Self::Deflate(ZlibEncoder::new(Vec::new(), level)),
            Some(Encoding::Lz4) => Self::Lz4(Box::new(FrameEncoder::new(Vec::new()))),
            Some(Encoding::Zstd) => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?),
        })
    }

    /// A part's bytes, or fewer: some may come with the next.
    pub(super) fn push(&mut self, part: Bytes) -> io::Result<Bytes> {
        match self {
            Self::Plain => return Ok(part),
            Self::Blocks(compressor) => {
                return Ok(Bytes::copy_from_slice(compressor.blocks(&part)));
            }
            Self::Gzip(encoder) => encoder.write_all(&part)?,
            Self::Deflate(encoder) => encoder.write_all(&part)?,
            Self::Lz4(encoder) => encoder.write_all(&part)?,
            Self::Zstd(encoder) => encoder.write_all(&part)?,
        }
        Ok(self.take())
    }

    /// What is held back so far.
    pub(super) fn flush(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Plain | Self::Blocks(_) => {}
            Self::Gzip(encoder) => encoder.flush()?,
            Self::Deflate(encoder) => encoder.flush()?,
            Self::Lz4(encoder) => encoder.flush()?,
            Self::Zstd(encoder) => encoder.flush()?,
        }
        Ok(self.take())
    }

    /// The end.
    pub(super) fn finish(self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Plain | Self::Blocks(_) => Bytes::new(),
            Self::Gzip(encoder) => encoder.finish()?.into(),
            Self::Deflate(encoder) => encoder.finish()?.into(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other)?.into(),
            Self::Zstd(encoder) => encoder.finish()?.into(),
        })
    }

    fn take(&mut self) -> Bytes {
        let out = match self {
            Self::Plain | Self::Blocks(_) => return Bytes::new(),
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
            Self::Lz4(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        };
        std::mem::take(out).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 4] = [Encoding::Gzip, Encoding::Deflate, Encoding::Lz4, Encoding::Zstd];

    fn encoded(encoding: Encoding, text: &'static [u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Some(encoding)).unwrap();
        let first = encoder.push(Bytes::from_static(text)).unwrap();
        let second = encoder.flush().unwrap();
        let third = encoder.push(Bytes::from_static(text)).unwrap();
        [first, second, third, encoder.finish().unwrap()].concat()
    }

    fn decoded(encoding: Encoding, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        encoding.decoder(io::Cursor::new(body.to_vec()))?.read_to_end(&mut decoded)?;
        Ok(decoded)
    }

    #[test]
    fn what_is_cut_is_an_error() {
        for encoding in ALL {
            let whole = encoded(encoding, b"some rows, and some more rows");
            assert!(decoded(encoding, &whole).is_ok());
            for length in 1..whole.len() {
                let cut = decoded(encoding, &whole[..length]);
                assert!(cut.is_err(), "{} of {length} bytes", encoding.name());
            }
        }
    }

    #[test]
    fn several_are_read_one_behind_the_other() {
        // HTTP's deflate is one stream.
        for encoding in [Encoding::Gzip, Encoding::Lz4, Encoding::Zstd] {
            let twice = [encoded(encoding, b"one"), encoded(encoding, b"two")].concat();
            assert_eq!(decoded(encoding, &twice).unwrap(), b"oneonetwotwo", "{}", encoding.name());
            let cut = decoded(encoding, &twice[..twice.len() - 1]);
            assert!(cut.is_err(), "{}", encoding.name());
        }
    }

    #[test]
    fn an_empty_block_is_no_end_of_a_frame() {
        let mut frame = encoded(Encoding::Lz4, b"x");
        let end = frame.split_off(frame.len() - 4);
        assert_eq!(end, [0; 4]);
        frame.extend(EMPTY_BLOCK);
        assert!(decoded(Encoding::Lz4, &frame).is_err());
        assert_eq!(decoded(Encoding::Lz4, &[frame, end].concat()).unwrap(), b"xx");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let parts: Vec<Bytes> = (0..50).map(|n| vec![n; 10_000].into()).collect();
        for encoding in ALL {
            let mut encoder = Encoder::new(Some(encoding)).unwrap();
            let mut encoded = Vec::new();
            for (n, part) in parts.iter().enumerate() {
                encoded.extend(encoder.push(part.clone()).unwrap());
                if n % 7 == 0 {
                    encoded.extend(encoder.flush().unwrap());
                }
            }
            encoded.extend(encoder.finish().unwrap());
            let mut decoded = Vec::new();
            let body = io::Cursor::new(encoded);
            encoding.decoder(body).unwrap().read_to_end(&mut decoded).unwrap();
            assert_eq!(decoded, parts.concat(), "{}", encoding.name());
            assert_eq!(Encoding::of(encoding.name()), Some(encoding));
        }
    }
}
