//! Reading fields off the front of a message.

use thiserror::Error;
use walbench_metrics::clock::POSTGRES_EPOCH_US;

/// A message that can't be what PostgreSQL sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("the message ends within its {0}")]
    Short(&'static str),
    /// A tag that no message or tuple has.
    #[error("unknown {0} {1:?}")]
    Tag(&'static str, char),
    /// Flags that no message has: what they change is unknown.
    #[error("unknown flags {1:#04x} in a {0} message")]
    Flags(&'static str, u8),
    /// A name that is not UTF-8, which client_encoding promises.
    #[error("a name is not UTF-8")]
    Encoding,
    /// Something follows the end.
    #[error("{0} bytes follow the message's end")]
    Trailing(usize),
}

/// The unread rest of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(*head)
    }

    #[inline]
    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }

    #[inline]
    pub(super) fn bytes(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(head)
    }

    /// A zero-terminated string.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        let length = memchr::memchr(0, self.0).ok_or(Malformed::Short(what))?;
        let text = self.bytes(length, what)?;
        self.0 = &self.0[1..];
        std::str::from_utf8(text).map_err(|_| Malformed::Encoding)
    }

    /// A time, in µs since the Unix epoch.
    pub(super) fn unix_us(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.u64(what).map(|us| us.cast_signed().wrapping_add(POSTGRES_EPOCH_US))
    }

    /// Flags of which none is defined so far. PostgreSQL's own subscriber refuses any as well.
    pub(super) fn no_flags(&mut self, what: &'static str) -> Result<(), Malformed> {
        match self.u8(what)? {
            0 => Ok(()),
            flags => Err(Malformed::Flags(what, flags)),
        }
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(Malformed::Trailing(bytes)),
        }
    }
}
