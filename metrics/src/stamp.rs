//! The mark each write transaction carries through the WAL.
//!
//! A producer emits it as a transactional logical decoding message
//! (`pg_logical_emit_message(true, 'walbench', …)`, PostgreSQL manual, section 9.28.6), so that a
//! consumer knows when the transaction's rows were due without a column of ours in any table.

/// The prefix of the logical decoding message.
pub const PREFIX: &str = "walbench";

/// Encoded length in bytes.
pub const LENGTH: usize = 35;

const VERSION: u8 = 1;

/// Whose rows these are and when they were due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run, as [`run_number`] of its id: rows of another run are not ours to count.
    pub run: u64,
    /// Index of the phase in the plan.
    pub phase: u32,
    /// Whether the rows were due in the measured window (else in the warm-up).
    pub measured: bool,
    /// Index of the producer process.
    pub producer: u32,
    /// Number of the transaction within its phase and producer, from 0 without gaps.
    pub sequence: u64,
    /// When the rows were due, in µs since the Unix epoch.
    pub due_us: i64,
}

impl Stamp {
    /// The message's content: big-endian fields behind a version byte.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let Self { run, phase, measured, producer, sequence, due_us } = *self;
        let mut out = [0; LENGTH];
        out[0] = VERSION;
        out[1] = u8::from(measured);
        out[2..10].copy_from_slice(&run.to_be_bytes());
        out[10..14].copy_from_slice(&phase.to_be_bytes());
        out[14..18].copy_from_slice(&producer.to_be_bytes());
        out[18..26].copy_from_slice(&sequence.to_be_bytes());
        out[26..34].copy_from_slice(&due_us.to_be_bytes());
        out[34] = checksum(&out[..34]);
        out
    }

    /// Reads a message's content; `None` when it isn't a stamp of this version.
    #[must_use]
    pub fn decode(content: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = content.try_into().ok()?;
        if bytes[0] != VERSION || bytes[1] > 1 || checksum(&bytes[..34]) != bytes[34] {
            return None;
        }
        let u32_at =
            |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let u64_at =
            |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        Some(Self {
            measured: bytes[1] == 1,
            run: u64_at(2),
            phase: u32_at(10),
            producer: u32_at(14),
            sequence: u64_at(18),
            due_us: u64_at(26).cast_signed(),
        })
    }
}

/// Tells a stamp from other content under the same prefix.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0x5a, |sum: u8, b| sum.rotate_left(1) ^ b)
}

/// A run id as the number that stamps carry (FNV-1a, 64 bits).
#[must_use]
pub fn run_number(run_id: &str) -> u64 {
    run_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            run: u64, phase: u32, measured: bool, producer: u32, sequence: u64, due_us: i64,
        ) {
            let stamp = Stamp { run, phase, measured, producer, sequence, due_us };
            prop_assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Stamp::decode(&bytes);
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0..LENGTH, bit in 0..8u32) {
            let stamp = Stamp { run: 1, phase: 2, measured: true, producer: 3, sequence: 4, due_us: 5 };
            let mut bytes = stamp.encode();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Stamp::decode(&bytes), None);
        }
    }
}
