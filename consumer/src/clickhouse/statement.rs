//! Where an INSERT's data begin: ClickHouse takes a statement and its data as one stream of bytes.
//!
//! Only as much of the language is known here as that takes. Whatever is not clearly an INSERT with
//! data is left to the engine, which says what is wrong with it.

use std::ops::Range;

use super::token::{Token, Tokens};

/// The longest text of a statement: ClickHouse's default of `max_query_size`.
pub const LONGEST_STATEMENT_BYTES: usize = 256 * 1024;

/// What a stream begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// An INSERT with data in a format.
    Insert {
        /// The statement up to its format: `INSERT INTO t (a, b)`.
        into: Range<usize>,
        /// The format's name; `Values` for an INSERT … VALUES.
        format: String,
        /// Where the data begin.
        data: usize,
    },
    /// Any other statement, which is all there is.
    Other,
    /// That can't be said yet.
    Open,
}

/// Looks at the beginning of a stream, which is `whole` if there is no more of it.
#[must_use]
pub fn split(text: &[u8], whole: bool) -> Beginning {
    let mut words = Tokens::new(text);
    let found = insert(&mut words);
    // The last token may go on in what is still to come.
    if !whole && found.is_none() && words.at() >= text.len() {
        return Beginning::Open;
    }
    match found {
        None => Beginning::Other,
        Some((_, _, data)) if !whole && data >= text.len() && !line_ended(text, data) => {
            Beginning::Open
        }
        Some((into, format, data)) => Beginning::Insert { into, format, data },
    }
}

/// The format that a statement wants its result in, if it says so.
#[must_use]
pub fn output_format(text: &[u8]) -> Option<String> {
    let mut words = Tokens::new(text);
    let (mut depth, mut found) = (0i32, None);
    while let Some(token) = words.next() {
        match token {
            Token::Symbol(b'(' | b'[' | b'{') => depth += 1,
            Token::Symbol(b')' | b']' | b'}') => depth -= 1,
            token if depth == 0 && token.is("FORMAT") => {
                if let Some(Token::Word(format)) = words.peek() {
                    found = Some(String::from_utf8_lossy(format).into_owned());
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether an INSERT up to its format can be followed by a `SETTINGS` clause: not if it has one, nor if
/// it has a query, whose clause it would be.
#[must_use]
pub fn takes_settings(into: &[u8]) -> bool {
    let mut words = Tokens::new(into);
    std::iter::from_fn(|| words.next())
        .all(|token| !["SETTINGS", "SELECT", "WITH"].iter().any(|word| token.is(word)))
}

/// The INSERT's range, format and data's beginning.
fn insert(words: &mut Tokens<'_>) -> Option<(Range<usize>, String, usize)> {
    if !words.next()?.is("INSERT") {
        return None;
    }
    table(words)?;
    let (mut depth, mut selects, mut reads_input) = (0u32, false, false);
    loop {
        let end = words.at();
        let token = words.next()?;
        // The data of an INSERT … SELECT are what the table function `input` reads.
        reads_input |= token.is("INPUT") && words.peek() == Some(Token::Symbol(b'('));
        match token {
            Token::Symbol(b'(') => {
                let selects_here = |t: Token<'_>| t.is("SELECT") || t.is("WITH");
                if depth == 0 && !selects && words.peek().is_some_and(selects_here) {
                    return None;
                }
                depth += 1;
            }
            Token::Symbol(b')') => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {}
            token if token.is("SELECT") || token.is("WITH") => selects = true,
            token if token.is("VALUES") && !selects => {
                return Some((0..end, "Values".into(), words.at()));
            }
            token if token.is("FORMAT") => {
                let Token::Word(format) = words.next()? else { return None };
                if selects && !reads_input {
                    return None;
                }
                // It may go on in what is still to come.
                let format = String::from_utf8_lossy(format).into_owned();
                return Some((0..end, format, words.at_data()));
            }
            token if !selects && (token.is("FROM") || token.is("WATCH")) => return None,
            _ => {}
        }
    }
}

/// The table's name, whatever words it is made of: a table may be called `format`.
fn table(words: &mut Tokens<'_>) -> Option<()> {
    for keyword in ["INTO", "TABLE", "FUNCTION"] {
        if words.peek()?.is(keyword) {
            words.next()?;
        }
    }
    words.next()?;
    while words.peek()? == Token::Symbol(b'.') {
        words.next()?;
        words.next()?;
    }
    Some(())
}

fn line_ended(text: &[u8], data: usize) -> bool {
    data > 0 && text.get(data - 1) == Some(&b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn insert(text: &str) -> (&str, String, &str) {
        match split(text.as_bytes(), true) {
            Beginning::Insert { into, format, data } => (&text[into], format, &text[data..]),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn settings_follow_an_insert_that_has_none() {
        for (text, takes) in [
            ("INSERT INTO t", true),
            ("INSERT INTO `settings`.\"select\" (a, b) -- SETTINGS", true),
            ("INSERT INTO t SETTINGS max_threads = 1", false),
            ("INSERT INTO t SELECT a FROM input('a Int8')", false),
            ("insert into t with 1 as x select x from input('a Int8')", false),
            // Names that look like it are no loss: they only cost a statement more.
            ("INSERT INTO settings", false),
        ] {
            assert_eq!(takes_settings(text.as_bytes()), takes, "{text}");
        }
    }

    #[test]
    fn data_begin_behind_the_format() {
        for (text, into, format, data) in [
            ("INSERT INTO t FORMAT RowBinary\nxyz", "INSERT INTO t", "RowBinary", "xyz"),
            ("insert into t(a, b) format CSV \t\r\n\n1", "insert into t(a, b)", "CSV", "\n1"),
            ("INSERT INTO t FORMAT TSV 1\t2", "INSERT INTO t", "TSV", "1\t2"),
            ("INSERT INTO t FORMAT TSV", "INSERT INTO t", "TSV", ""),
            ("INSERT INTO t VALUES (1), (2)", "INSERT INTO t", "Values", " (1), (2)"),
            (
                "INSERT INTO `a b`.\"f\" SETTINGS x = 'VALUES' FORMAT X\n",
                "INSERT INTO `a b`.\"f\" SETTINGS x = 'VALUES'",
                "X",
                "",
            ),
            (
                "/* FORMAT Y */ INSERT INTO format (values, format) -- FORMAT Z\nVALUES(1)",
                "/* FORMAT Y */ INSERT INTO format (values, format)",
                "Values",
                "(1)",
            ),
            (
                "INSERT INTO TABLE FUNCTION remote('h', d.t) FORMAT TSV\n1",
                "INSERT INTO TABLE FUNCTION remote('h', d.t)",
                "TSV",
                "1",
            ),
            ("INSERT t FORMAT TSV\n1", "INSERT t", "TSV", "1"),
            (
                "INSERT INTO t (a) SELECT * FROM input('a Int16') FORMAT RowBinary\nx",
                "INSERT INTO t (a) SELECT * FROM input('a Int16')",
                "RowBinary",
                "x",
            ),
        ] {
            let found = insert(text);
            assert_eq!((found.0.trim_end(), &*found.1, found.2), (into, format, data), "{text}");
        }
    }

    #[test]
    fn all_else_is_the_engines() {
        for text in [
            "",
            "SELECT 'INSERT INTO t FORMAT X'",
            "INSERT INTO t SELECT 1 FORMAT TSV",
            "INSERT INTO t SELECT input FROM values FORMAT TSV",
            "INSERT INTO t (SELECT 1)",
            "INSERT INTO t WITH 1 AS x SELECT x",
            "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
            "INSERT INTO t",
            "INSERT INTO t (a FORMAT TSV\n1",
            "INSERT INTO t) FORMAT TSV\n1",
            "INSERT INTO t FORMAT 'TSV'",
        ] {
            assert_eq!(split(text.as_bytes(), true), Beginning::Other, "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_stays_open_until_it_is_clear() {
        let text = b"INSERT INTO t (a) SETTINGS x = 'y' FORMAT RowBinary\ndata";
        for cut in 0..text.len() - 4 {
            assert_eq!(split(&text[..cut], false), Beginning::Open, "{cut}");
        }
        assert!(matches!(split(&text[..text.len() - 4], false), Beginning::Insert { .. }));
        let clear = split(b"SELECT 1", false);
        assert_eq!(clear, Beginning::Other);
    }

    #[test]
    fn a_result_has_the_format_that_is_asked_for() {
        let format = |text: &str| output_format(text.as_bytes());
        assert_eq!(format("SELECT 1 FORMAT JSON SETTINGS x = 1").as_deref(), Some("JSON"));
        assert_eq!(format("SELECT 'FORMAT CSV', (1 FORMAT TSV) -- FORMAT XML"), None);
        assert_eq!(format("SELECT format FORMAT TSV;").as_deref(), Some("TSV"));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(text in prop::collection::vec(any::<u8>(), 0..200), whole: bool) {
            let text = [b"INSERT INTO ", &text[..]].concat();
            if let Beginning::Insert { into, data, .. } = split(&text, whole) {
                prop_assert!(into.end <= data && data <= text.len());
            }
        }
    }
}
