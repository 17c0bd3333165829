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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(bytes: usize, compressibility: f64, key: u64) -> Vec<u8> {
        let mut out = Vec::new();
        Payload { bytes, compressibility }.write(&mut out, &mut Draw::new(key));
        out
    }

    proptest! {
        #[test]
        fn it_is_text_of_exactly_the_size(bytes in 0usize..5_000, share in 0.0..=1.0, key: u64) {
            let out = payload(bytes, share, key);
            prop_assert_eq!(out.len(), bytes);
            prop_assert!(out.is_ascii());
            prop_assert_eq!(payload(bytes, share, key), out);
        }

        #[test]
        fn a_compressor_takes_away_what_was_asked_for(step in 0u32..=10, key: u64) {
            let share = f64::from(step) / 10.0;
            let packed = lz4_flex::block::compress(&payload(10_000, share, key)).len() as f64;
            let left = packed / 10_000.0;
            prop_assert!((left - (1.0 - share)).abs() < 0.03, "{} of {}", left, 1.0 - share);
        }
    }
}
