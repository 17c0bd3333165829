//! A client of PostgreSQL's streaming replication protocol, and nothing else: it logs in, makes,
//! checks and starts logical slots, reads their streams and confirms positions. It knows neither
//! plans nor sinks.
//!
//! Reading is blocking, by one thread with a large buffer: an async reactor would wake for every
//! packet, and waking for every packet makes the walsender dearer as well.

mod connection;
mod create;
mod error;
mod input;
mod login;
mod message;
mod query;
mod server;
mod server_error;
mod slot;
mod start;
mod tls;
mod transport;

pub use connection::Connection;
pub use create::{Blockers, CreateSlot, CreatedSlot, Snapshot};
pub use error::ReplicationError;
pub use input::Input;
pub use message::{Frame, StatusUpdate, frame};
pub(crate) use query::{quote, quote_identifier};
pub use server::{StreamOption, SystemIdentity, newest_protocol};
pub use server_error::ServerError;
pub use slot::{Foreign, Holder, LostReason, Slot, SlotType, WalStatus};
pub use start::Stream;
pub use tls::Tls;
pub use transport::Transport;

/// A WAL position as PostgreSQL writes it, such as `16/B374D848`.
#[must_use]
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Reads a WAL position as PostgreSQL writes it.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| {
        (!digits.starts_with('+')).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    Some(u64::from(part(high)?) << 32 | u64::from(part(low)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn positions_read_as_they_are_written(lsn: u64) {
            proptest::prop_assert_eq!(parse_lsn(&lsn_text(lsn)), Some(lsn));
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "1", "/", "1/", "x/1", "1/100000000", "+1/+1", "1/2/3"] {
            assert_eq!(parse_lsn(text), None, "{text:?}");
        }
    }
}
