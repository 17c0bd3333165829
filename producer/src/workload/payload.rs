//! Text of a given size and compressibility.

use super::draw::Draw;
use super::encode;

/// What a compressor takes away.
const PHRASE: &[u8] = b"the same words again and again, ";

/// Size and compressibility of a payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Payload {
    /// Bytes.
    pub bytes: usize,
    /// Share of the bytes that is a repeated phrase, 0 to 1; the rest is noise.
    pub compressibility: f64,
}

impl Payload {
    /// Appends one payload.
    ///
    /// The phrase comes first: PostgreSQL's own compressor gives up on a value whose first
    /// kilobyte does not shrink.
    pub fn write(self, out: &mut Vec<u8>, draw: &mut Draw) {
        let Self { bytes, compressibility } = self;
        let repeated = ((bytes as f64 * compressibility).round() as usize).min(bytes);
        let end = out.len() + repeated;
        out.reserve(bytes);
        while out.len() < end {
            out.extend_from_slice(&PHRASE[..PHRASE.len().min(end - out.len())]);
        }
        encode::noise(out, bytes - repeated, draw);
    }
}
