//! The read buffer: whole protocol messages in place, without copying one.

use std::io::{self, Read};

/// Size of a read. Large, so that a walsender that is ahead is read in few calls.
const CAPACITY_BYTES: usize = 1024 * 1024;

/// Longest message that is accepted. PostgreSQL's own bound on a row is 1 GB.
const MESSAGE_LIMIT_BYTES: usize = 1_300_000_000;

/// Bytes read and not yet taken, as messages of the frontend/backend protocol: a tag, a length that
/// counts itself, a body (PostgreSQL manual, section 55.7).
#[derive(Debug)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { buffer: vec![0; CAPACITY_BYTES], start: 0, end: 0 }
    }
}

impl Input {
    /// Reads once and returns the number of bytes; 0 is the end of the stream.
    ///
    /// # Errors
    /// The source's.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        self.make_room();
        let read = source.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }

    /// The next whole message, as tag and body; `None` when more must be read first.
    ///
    /// # Errors
    /// The length makes no sense.
    #[inline]
    pub fn next_message(&mut self) -> io::Result<Option<(u8, &[u8])>> {
        let Some((tag, length)) = self.header()? else { return Ok(None) };
        let from = self.start;
        if self.end - from < length {
            return Ok(None);
        }
        self.start += length;
        Ok(Some((tag, &self.buffer[from + 5..from + length])))
    }

    /// Whether [`Self::next_message`] has something without reading more.
    #[must_use]
    pub fn has_message(&self) -> bool {
        // What makes no sense is told when it is taken.
        self.header().map_or(true, |h| h.is_some_and(|(_, length)| self.end - self.start >= length))
    }

    /// Bytes read and not yet taken.
    #[must_use]
    pub fn unread_bytes(&self) -> usize {
        self.end - self.start
    }

    /// Tag and whole length, tag included, of the message at the front.
    #[inline]
    fn header(&self) -> io::Result<Option<(u8, usize)>> {
        let unread = &self.buffer[self.start..self.end];
        let [tag, a, b, c, d, ..] = *unread else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MESSAGE_LIMIT_BYTES).contains(&length) {
            let text = format!("the server sent a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some((tag, length + 1)))
    }

    /// Moves what is left of the last read to the front, and grows the buffer for a message that
    /// does not fit, by what has come of it and not by what its length promises; gives memory back
    /// once such a message is gone.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let needed = match self.header() {
            Ok(Some((_, length))) => length.min(self.end * 2).max(CAPACITY_BYTES),
            _ => CAPACITY_BYTES,
        };
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        } else if self.buffer.len() > needed && self.end <= needed {
            self.buffer.truncate(needed);
            self.buffer.shrink_to(needed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives out its bytes in pieces of the given sizes.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let size = self.1.pop().unwrap_or(usize::MAX).min(self.0.len()).min(out.len());
            out[..size].copy_from_slice(&self.0[..size]);
            self.0 = &self.0[size..];
            Ok(size)
        }
    }

    fn framed(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, body) in messages {
            bytes.push(*tag);
            bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            bytes.extend(body);
        }
        bytes
    }

    fn read_all(mut source: impl Read) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let (mut input, mut messages) = (Input::default(), Vec::new());
        loop {
            while let Some((tag, body)) = input.next_message()? {
                messages.push((tag, body.to_vec()));
            }
            if input.fill(&mut source)? == 0 {
                return Ok(messages);
            }
        }
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in prop::collection::vec(1usize..30, 0..200),
        ) {
            let bytes = framed(&messages);
            prop_assert_eq!(read_all(Pieces(&bytes, cuts)).unwrap(), messages);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(bytes.as_slice());
        }
    }

    #[test]
    fn a_message_larger_than_the_buffer_is_read_and_its_memory_given_back() {
        let messages = vec![(b'd', vec![7; 3 * CAPACITY_BYTES]), (b'd', vec![8; 10])];
        let bytes = framed(&messages);
        assert_eq!(read_all(bytes.as_slice()).unwrap(), messages);

        let mut input = Input::default();
        let mut source = bytes.as_slice();
        while input.next_message().unwrap().is_none() {
            input.fill(&mut source).unwrap();
        }
        input.fill(&mut source).unwrap();
        assert_eq!(input.buffer.len(), CAPACITY_BYTES);
    }
}
