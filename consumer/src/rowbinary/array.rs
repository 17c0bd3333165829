//! Arrays of one dimension, element by element.

use super::put_count;
use super::unencodable::Unencodable;
use crate::pgoutput::Value;

/// An element of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    /// NULL.
    Null,
    /// In its type's text form.
    Text(&'a [u8]),
    /// The same, with backslashes before some of its bytes.
    Escaped(&'a [u8]),
    /// In its type's binary form.
    Binary(&'a [u8]),
}

/// Writes the elements as `put` does, each behind its mark of NULL or not, and their number in
/// front.
#[inline]
pub(super) fn write<'a>(
    elements: impl Iterator<Item = Result<Element<'a>, Unencodable>>,
    out: &mut Vec<u8>,
    mut put: impl FnMut(Element<'a>, &mut Vec<u8>) -> Result<(), Unencodable>,
) -> Result<(), Unencodable> {
    let at = out.len();
    out.push(0);
    let mut count = 0;
    for element in elements {
        put(element?, out)?;
        count += 1;
    }
    put_count(count, at, out);
    Ok(())
}

/// The elements of an array. Ends at the first that can't be read.
pub(super) enum Elements<'a> {
    /// Of its text form.
    Text(TextElements<'a>),
    /// Of its binary form.
    Binary(BinaryElements<'a>),
}

impl<'a> Elements<'a> {
    #[inline]
    pub(super) fn of(array: Value<'a>, delimiter: u8) -> Result<Self, Unencodable> {
        match array {
            Value::Text(text) => TextElements::new(text, delimiter).map(Self::Text),
            Value::Binary(binary) => BinaryElements::new(binary).map(Self::Binary),
            Value::Null | Value::Unchanged => Err(Unencodable::Null),
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Unencodable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Text(elements) => elements.next(),
            Self::Binary(elements) => elements.next(),
        }
    }
}

/// The elements of an array's text, `{1,NULL,"quoted \"text\""}` (PostgreSQL manual, section
/// 8.15.6).
pub(super) struct TextElements<'a> {
    rest: &'a [u8],
    delimiter: u8,
    is_first: bool,
}

impl<'a> TextElements<'a> {
    #[inline]
    pub(super) fn new(text: &'a [u8], delimiter: u8) -> Result<Self, Unencodable> {
        let body = match text {
            [b'{', body @ .., b'}'] => body,
            // `[2:3]={…}`: bounds other than 1 have no counterpart; the elements have.
            [b'[', ..] => {
                let at = text.windows(3).position(|w| w == b"]={").ok_or(Unencodable::Malformed)?;
                match &text[at + 2..] {
                    [b'{', body @ .., b'}'] => body,
                    _ => return Err(Unencodable::Malformed),
                }
            }
            _ => return Err(Unencodable::Malformed),
        };
        if body.first() == Some(&b'{') {
            return Err(Unencodable::Dimensions);
        }
        Ok(Self { rest: body, delimiter, is_first: true })
    }

    #[inline]
    fn element(&mut self) -> Result<Element<'a>, Unencodable> {
        if let Some((b'"', quoted)) = self.rest.split_first() {
            return self.quoted(quoted);
        }
        let end = self.rest.iter().position(|b| *b == self.delimiter).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        match value {
            [] => Err(Unencodable::Malformed),
            b"NULL" => Ok(Element::Null),
            _ => Ok(Element::Text(value)),
        }
    }

    /// An element whose opening quote was taken off.
    #[inline]
    fn quoted(&mut self, quoted: &'a [u8]) -> Result<Element<'a>, Unencodable> {
        let mut end = 0;
        let mut is_escaped = false;
        loop {
            let skip = memchr::memchr2(b'"', b'\\', quoted.get(end..).unwrap_or_default());
            end += skip.ok_or(Unencodable::Malformed)?;
            if quoted[end] == b'"' {
                break;
            }
            is_escaped = true;
            end += 2;
        }
        self.rest = &quoted[end + 1..];
        let value = &quoted[..end];
        Ok(if is_escaped { Element::Escaped(value) } else { Element::Text(value) })
    }
}

impl<'a> Iterator for TextElements<'a> {
    type Item = Result<Element<'a>, Unencodable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match (self.rest.split_first()?, self.is_first) {
            ((byte, rest), false) if *byte == self.delimiter => self.rest = rest,
            (_, true) => {}
            (_, false) => {
                self.rest = &[];
                return Some(Err(Unencodable::Malformed));
            }
        }
        self.is_first = false;
        let element = self.element();
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

/// The bytes of an escaped element.
pub(super) fn unescaped(escaped: &[u8]) -> impl Iterator<Item = u8> {
    let mut bytes = escaped.iter();
    std::iter::from_fn(move || match bytes.next() {
        Some(b'\\') => bytes.next().copied(),
        byte => byte.copied(),
    })
}

/// The elements of an array's binary form: dimensions, whether any is NULL, the element's type, then
/// size and lower bound of each dimension, then each element behind its length.
pub(super) struct BinaryElements<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> BinaryElements<'a> {
    #[inline]
    pub(super) fn new(binary: &'a [u8]) -> Result<Self, Unencodable> {
        let mut elements = Self { rest: binary, left: 0 };
        let [dimensions, _flags, _type] =
            [elements.number()?, elements.number()?, elements.number()?];
        match dimensions {
            0 => {}
            1 => {
                elements.left = elements.number()?;
                elements.number()?;
            }
            _ => return Err(Unencodable::Dimensions),
        }
        if elements.left == 0 && !elements.rest.is_empty() {
            return Err(Unencodable::Malformed);
        }
        Ok(elements)
    }

    #[inline]
    fn number(&mut self) -> Result<u32, Unencodable> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(Unencodable::Malformed)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*number))
    }

    #[inline]
    fn element(&mut self) -> Result<Element<'a>, Unencodable> {
        let element = match self.number()? {
            u32::MAX => Element::Null,
            length => {
                let parts = self.rest.split_at_checked(length as usize);
                let (element, rest) = parts.ok_or(Unencodable::Malformed)?;
                self.rest = rest;
                Element::Binary(element)
            }
        };
        if self.left == 0 && !self.rest.is_empty() {
            return Err(Unencodable::Malformed);
        }
        Ok(element)
    }
}

impl<'a> Iterator for BinaryElements<'a> {
    type Item = Result<Element<'a>, Unencodable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let element = self.element();
        if element.is_err() {
            self.left = 0;
        }
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Result<Vec<Element<'_>>, Unencodable> {
        TextElements::new(text.as_bytes(), b',')?.collect()
    }

    #[test]
    fn texts_are_taken_apart() {
        let plain = |text: &'static str| Element::Text(text.as_bytes());
        let escaped = |text: &'static str| Element::Escaped(text.as_bytes());
        for (text, expected) in [
            ("{}", vec![]),
            ("{1,NULL}", vec![plain("1"), Element::Null]),
            (r#"{"NULL","",","}"#, vec![plain("NULL"), plain(""), plain(",")]),
            (r#"{"a\"b","\\"}"#, vec![escaped(r#"a\"b"#), escaped(r"\\")]),
            ("[-1:0]={x,y}", vec![plain("x"), plain("y")]),
        ] {
            assert_eq!(texts(text), Ok(expected), "{text}");
        }
        assert_eq!(unescaped(br#"a\"b\\"#).collect::<Vec<_>>(), br#"a"b\"#);
    }

    #[test]
    fn what_is_no_array_of_one_dimension_is_refused() {
        for text in
            ["", "{", "1", "{1", "{,}", "{1,}", r#"{"a"#, r#"{"a\"}"#, r#"{"a"b}"#, "[1:1]{1}"]
        {
            assert_eq!(texts(text), Err(Unencodable::Malformed), "{text}");
        }
        for text in ["{{1},{2}}", "[0:0][0:0]={{1}}"] {
            assert_eq!(texts(text), Err(Unencodable::Dimensions), "{text}");
        }
    }

    #[test]
    fn binary_arrays_are_taken_apart() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        let read = |words: &[u8]| {
            let elements: Result<Vec<_>, _> = BinaryElements::new(words)?.collect();
            elements.map(|elements| elements.len())
        };
        assert_eq!(read(&words(&[0, 0, 23])), Ok(0));
        assert_eq!(read(&words(&[1, 1, 23, 2, 1, 4, 7, u32::MAX])), Ok(2));
        assert_eq!(read(&words(&[2, 0, 23, 1, 1, 1, 1, 4, 7])), Err(Unencodable::Dimensions));
        for broken in
            [&[0, 0][..], &[0, 0, 23, 1], &[1, 0, 23, 1, 1, 4], &[1, 0, 23, 1, 1, 4, 7, 7]]
        {
            assert_eq!(read(&words(broken)), Err(Unencodable::Malformed), "{broken:?}");
        }
    }
}
