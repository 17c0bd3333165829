//! What COPY sends, row by row, as the tuples that pgoutput would send of the same rows: what
//! encodes the stream's rows encodes these as well. A row is copied once, into a buffer that the
//! next one takes over; nothing is allocated a row.
//!
//! Text and binary form are PostgreSQL's (manual, COPY, "File Formats").

use thiserror::Error;

use crate::pgoutput::{Malformed, Message, Tuple};

/// An insert of relation 0, up to its tuple.
const INSERT: &[u8] = b"I\0\0\0\0N";

/// How COPY's binary form begins: the signature, flags of which none is set, and an extension of no
/// length.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Memory that the buffer keeps for the next row; what a larger one took is given back.
const KEPT_BYTES: usize = 1024 * 1024;

/// In which form COPY was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines with tabs between the values' text forms.
    Text,
    /// The values' binary forms.
    Binary,
}

/// What COPY can't have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MalformedCopy {
    /// The binary form begins otherwise.
    #[error("it does not begin as COPY's binary form does")]
    Header,
    /// A message ends within a row.
    #[error("a message ends within a row")]
    Short,
    /// A row has more or fewer values than were asked for.
    #[error("a row has {got} columns where {expected} were asked for")]
    Columns {
        /// Columns of the row, as far as they were counted.
        got: u16,
        /// Columns that were asked for.
        expected: u16,
    },
    /// A backslash stands before something that COPY never puts behind one.
    #[error("a backslash stands before something that needs none")]
    Escape,
    /// A value has a length that none can have.
    #[error("a value has {0} bytes")]
    Length(i64),
    /// Something comes behind the end of all rows.
    #[error("something comes behind the last row")]
    Behind,
    /// The binary form ends without its end.
    #[error("it ends without the mark of its end")]
    Unfinished,
    /// What was made of a row can't be read; that would be an error of ours.
    #[error("a row can't be read")]
    Tuple(#[from] Malformed),
}

/// Reads the answer to one COPY.
#[derive(Debug)]
pub struct Rows {
    format: Format,
    columns: u16,
    /// One row as pgoutput's insert.
    insert: Vec<u8>,
    stage: Stage,
}

/// How far a binary answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    End,
}

impl Rows {
    /// For rows of so many columns.
    #[must_use]
    pub fn new(format: Format, columns: u16) -> Self {
        let stage = if format == Format::Binary { Stage::Header } else { Stage::Rows };
        Self { format, columns, insert: Vec::new(), stage }
    }

    /// Hands the rows of one CopyData message to `each`. PostgreSQL puts each row into a message of
    /// its own, and the header before the first one; more rows in a message are read as well.
    ///
    /// # Errors
    /// COPY can't have sent this, or the error of `each`.
    #[inline]
    pub fn read<E: From<MalformedCopy>>(
        &mut self,
        mut data: &[u8],
        mut each: impl FnMut(Tuple<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.stage == Stage::Header {
            data = data.strip_prefix(HEADER).ok_or(MalformedCopy::Header)?;
            self.stage = Stage::Rows;
        }
        while !data.is_empty() {
            self.begin();
            data = match self.format {
                Format::Text => self.line(data)?,
                Format::Binary => self.binary_row(data)?,
            };
            if self.stage == Stage::End {
                break;
            }
            let insert = Message::decode(&self.insert).map_err(MalformedCopy::Tuple)?;
            let Message::Insert { new, .. } = insert else {
                return Err(MalformedCopy::Short.into());
            };
            each(new)?;
        }
        Ok(())
    }

    /// Checks that what was read is all of it.
    ///
    /// # Errors
    /// The end is missing.
    pub fn finish(&self) -> Result<(), MalformedCopy> {
        match (self.format, self.stage) {
            (Format::Text, _) | (Format::Binary, Stage::End) => Ok(()),
            _ => Err(MalformedCopy::Unfinished),
        }
    }

    fn begin(&mut self) {
        if self.insert.capacity() > KEPT_BYTES && self.insert.len() <= KEPT_BYTES {
            self.insert.shrink_to(KEPT_BYTES);
        }
        self.insert.clear();
        self.insert.extend_from_slice(INSERT);
        self.insert.extend_from_slice(&self.columns.to_be_bytes());
    }

    /// Takes a line off the front. A value's own line ends are escaped.
    fn line<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], MalformedCopy> {
        let length = memchr::memchr(b'\n', data).ok_or(MalformedCopy::Short)?;
        let (line, rest) = (&data[..length], &data[length + 1..]);
        let mut left = (self.columns > 0 || !line.is_empty()).then_some(line);
        let mut got = 0;
        while let Some(values) = left {
            if got == self.columns {
                return Err(MalformedCopy::Columns { got: got + 1, expected: self.columns });
            }
            left = text_value(values, &mut self.insert)?;
            got += 1;
        }
        if got < self.columns {
            return Err(MalformedCopy::Columns { got, expected: self.columns });
        }
        Ok(rest)
    }

    /// Takes a row off the front, or the mark of the end.
    fn binary_row<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], MalformedCopy> {
        if self.stage == Stage::End {
            return Err(MalformedCopy::Behind);
        }
        let (count, mut rest) = data.split_first_chunk::<2>().ok_or(MalformedCopy::Short)?;
        let got = u16::from_be_bytes(*count);
        if got == u16::MAX {
            self.stage = Stage::End;
            return if rest.is_empty() { Ok(rest) } else { Err(MalformedCopy::Behind) };
        }
        if got != self.columns {
            return Err(MalformedCopy::Columns { got, expected: self.columns });
        }
        for _ in 0..got {
            let length = rest.first_chunk::<4>().ok_or(MalformedCopy::Short)?;
            let length = i32::from_be_bytes(*length);
            let Ok(bytes) = usize::try_from(length) else {
                if length != -1 {
                    return Err(MalformedCopy::Length(length.into()));
                }
                self.insert.push(b'n');
                rest = &rest[4..];
                continue;
            };
            // Both write the length in the same way.
            let (value, next) = rest.split_at_checked(4 + bytes).ok_or(MalformedCopy::Short)?;
            self.insert.push(b'b');
            self.insert.extend_from_slice(value);
            rest = next;
        }
        Ok(rest)
    }
}

/// Appends the first value of a line as a tuple has it; returns the others, if there are any.
#[inline]
fn text_value<'a>(line: &'a [u8], out: &mut Vec<u8>) -> Result<Option<&'a [u8]>, MalformedCopy> {
    match line {
        b"\\N" => {
            out.push(b'n');
            return Ok(None);
        }
        [b'\\', b'N', b'\t', rest @ ..] => {
            out.push(b'n');
            return Ok(Some(rest));
        }
        _ => {}
    }
    out.extend_from_slice(b"t\0\0\0\0");
    let start = out.len();
    let mut left = line;
    let rest = loop {
        let Some(at) = memchr::memchr2(b'\t', b'\\', left) else {
            out.extend_from_slice(left);
            break None;
        };
        out.extend_from_slice(&left[..at]);
        if left[at] == b'\t' {
            break Some(&left[at + 1..]);
        }
        let escaped = left.get(at + 1).copied().and_then(unescaped);
        out.push(escaped.ok_or(MalformedCopy::Escape)?);
        left = &left[at + 2..];
    };
    let length = out.len() - start;
    let length = u32::try_from(length).map_err(|_| MalformedCopy::Length(length as i64))?;
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
    Ok(rest)
}

/// What a letter behind a backslash stands for. Octal and hexadecimal numbers are for COPY FROM
/// alone: COPY TO never writes them, so that they are no row of PostgreSQL's.
#[inline]
fn unescaped(letter: u8) -> Option<u8> {
    Some(match letter {
        b'\\' => b'\\',
        b't' => b'\t',
        b'n' => b'\n',
        b'r' => b'\r',
        b'b' => 0x08,
        b'f' => 0x0c,
        b'v' => 0x0b,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pgoutput::Value;

    type Row = Vec<Option<Vec<u8>>>;

    fn read_messages(
        format: Format,
        columns: u16,
        messages: &[Vec<u8>],
    ) -> Result<Vec<Row>, MalformedCopy> {
        let (mut rows, mut read) = (Rows::new(format, columns), Vec::new());
        for message in messages {
            rows.read(message, |tuple| {
                let values = tuple.values().map(|value| match (value?, format) {
                    (Value::Null, _) => Ok(None),
                    (Value::Text(text), Format::Text) => Ok(Some(text.to_vec())),
                    (Value::Binary(binary), Format::Binary) => Ok(Some(binary.to_vec())),
                    (other, _) => panic!("{other:?}"),
                });
                read.push(values.collect::<Result<Row, Malformed>>()?);
                Ok::<_, MalformedCopy>(())
            })?;
        }
        rows.finish().map(|()| read)
    }

    fn read(format: Format, columns: u16, data: &[u8]) -> Result<Vec<Row>, MalformedCopy> {
        read_messages(format, columns, &[data.to_vec()])
    }

    fn row(values: &[Option<&str>]) -> Row {
        values.iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect()
    }

    /// A value as `CopyAttributeOutText` of PostgreSQL's copyto.c writes it.
    fn escaped(value: &[u8]) -> Vec<u8> {
        let pairs = [(8, b'b'), (9, b't'), (10, b'n'), (11, b'v'), (12, b'f'), (13, b'r')];
        let mut out = Vec::new();
        for byte in value {
            match pairs.iter().find(|(plain, _)| plain == byte) {
                Some((_, letter)) => out.extend([b'\\', *letter]),
                None if *byte == b'\\' => out.extend(b"\\\\"),
                None => out.push(*byte),
            }
        }
        out
    }

    fn as_text(row: &Row) -> Vec<u8> {
        let values = row.iter().map(|value| value.as_deref().map_or(b"\\N".to_vec(), escaped));
        [values.collect::<Vec<_>>().join(&b'\t'), b"\n".to_vec()].concat()
    }

    fn as_binary(row: &Row) -> Vec<u8> {
        let mut out = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
        for value in row {
            match value {
                None => out.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    out.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                    out.extend(value);
                }
            }
        }
        out
    }

    #[test]
    fn text_is_unescaped_and_null_is_not_an_empty_text() {
        let line = b"1\t\\N\t\ta\\tb\\\\N\\n\\r\\b\\f\\v\n\\N\t\\N\t\\N\t\\N\n";
        let first = row(&[Some("1"), None, Some(""), Some("a\tb\\N\n\r\x08\x0c\x0b")]);
        assert_eq!(read(Format::Text, 4, line), Ok(vec![first, row(&[None; 4])]));
        assert_eq!(read(Format::Text, 1, b"\\\\N\n"), Ok(vec![row(&[Some("\\N")])]));
        assert_eq!(read(Format::Text, 1, b"\n"), Ok(vec![row(&[Some("")])]));
        assert_eq!(read(Format::Text, 0, b"\n\n"), Ok(vec![row(&[]), row(&[])]));
    }

    #[test]
    fn what_copy_never_sends_as_text_is_refused() {
        use MalformedCopy::{Columns, Escape, Short};
        assert_eq!(read(Format::Text, 1, b"a"), Err(Short));
        assert_eq!(read(Format::Text, 1, b"a\\\n"), Err(Escape));
        assert_eq!(read(Format::Text, 1, b"\\x41\n"), Err(Escape));
        assert_eq!(read(Format::Text, 1, b"\\101\n"), Err(Escape));
        assert_eq!(read(Format::Text, 1, b"\\Na\n"), Err(Escape));
        assert_eq!(read(Format::Text, 1, b"\\.\n"), Err(Escape));
        assert_eq!(read(Format::Text, 2, b"a\n"), Err(Columns { got: 1, expected: 2 }));
        assert_eq!(read(Format::Text, 1, b"a\t\n"), Err(Columns { got: 2, expected: 1 }));
        assert_eq!(read(Format::Text, 0, b"a\n"), Err(Columns { got: 1, expected: 0 }));
    }

    #[test]
    fn what_copy_never_sends_in_binary_form_is_refused() {
        use MalformedCopy::{Behind, Columns, Header, Length, Short, Unfinished};
        let with = |rows: &[u8]| read(Format::Binary, 1, &[HEADER, rows].concat());
        assert_eq!(with(b"\xff\xff"), Ok(vec![]));
        assert_eq!(with(b""), Err(Unfinished));
        assert_eq!(with(b"\xff\xff\0"), Err(Behind));
        assert_eq!(with(b"\0"), Err(Short));
        assert_eq!(with(b"\0\x01\0\0\0"), Err(Short));
        assert_eq!(with(b"\0\x01\0\0\0\x02a"), Err(Short));
        assert_eq!(with(b"\0\x01\xff\xff\xff\xfe"), Err(Length(-2)));
        assert_eq!(with(b"\0\x02"), Err(Columns { got: 2, expected: 1 }));
        assert_eq!(read(Format::Binary, 1, b"PGCOPY\n"), Err(Header));
        let end = [HEADER, b"\xff\xff"].concat();
        let again = read_messages(Format::Binary, 1, &[end, b"\xff\xff".to_vec()]);
        assert_eq!(again, Err(Behind));
    }

    #[test]
    fn memory_of_a_large_row_is_given_back() {
        let mut rows = Rows::new(Format::Text, 1);
        let large = [vec![b'x'; 3 * KEPT_BYTES], b"\n".to_vec()].concat();
        for line in [large.as_slice(), b"a\n", b"b\n"] {
            rows.read(line, |_| Ok::<_, MalformedCopy>(())).unwrap();
        }
        assert!(rows.insert.capacity() <= KEPT_BYTES, "{}", rows.insert.capacity());
    }

    proptest! {
        #[test]
        fn rows_are_read_as_they_were(
            rows in (1usize..5).prop_flat_map(|columns| {
                let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
                prop::collection::vec(prop::collection::vec(value, columns), 1..5)
            }),
        ) {
            let columns = u16::try_from(rows[0].len()).unwrap();
            let messages: Vec<_> = rows.iter().map(as_text).collect();
            let read = read_messages(Format::Text, columns, &messages);
            prop_assert_eq!(read.as_ref(), Ok(&rows));
            let mut messages: Vec<_> = rows.iter().map(as_binary).collect();
            messages[0].splice(0..0, HEADER.iter().copied());
            messages.push(b"\xff\xff".to_vec());
            let read = read_messages(Format::Binary, columns, &messages);
            prop_assert_eq!(read.as_ref(), Ok(&rows));
            // Rows that come in one message are the same rows.
            let read = read_messages(Format::Binary, columns, &[messages.concat()]);
            prop_assert_eq!(read.as_ref(), Ok(&rows));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            columns in 0u16..4,
            data in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'\t')], 0..60),
        ) {
            let _ = read(Format::Text, columns, &data);
            let _ = read(Format::Binary, columns, &[HEADER, &data].concat());
        }
    }
}
