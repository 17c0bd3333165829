//! ClickHouse's errors: their codes, their names, their text, and the HTTP status each travels with.

use std::fmt;

/// A kind of error, as ClickHouse numbers and names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The number clients look at.
    pub code: i32,
    /// Its name.
    pub name: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $code:literal,)*) => {
        $(
            #[doc = concat!("ClickHouse's error ", stringify!($code), ".")]
            pub const $name: Kind = Kind { code: $code, name: stringify!($name) };
        )*
    };
}

kinds! {
    NOT_FOUND_COLUMN_IN_BLOCK = 10,
    DUPLICATE_COLUMN = 15,
    NO_SUCH_COLUMN_IN_TABLE = 16,
    NUMBER_OF_COLUMNS_DOESNT_MATCH = 20,
    ATTEMPT_TO_READ_AFTER_EOF = 32,
    CANNOT_READ_ALL_DATA = 33,
    BAD_ARGUMENTS = 36,
    ILLEGAL_TYPE_OF_ARGUMENT = 43,
    ILLEGAL_COLUMN = 44,
    UNKNOWN_IDENTIFIER = 47,
    TOO_LARGE_SIZE_COMPRESSED = 39,
    CHECKSUM_DOESNT_MATCH = 40,
    NOT_IMPLEMENTED = 48,
    LOGICAL_ERROR = 49,
    UNKNOWN_TYPE = 50,
    TYPE_MISMATCH = 53,
    TABLE_ALREADY_EXISTS = 57,
    UNKNOWN_TABLE = 60,
    SYNTAX_ERROR = 62,
    ARGUMENT_OUT_OF_BOUND = 69,
    UNKNOWN_FORMAT = 73,
    CANNOT_WRITE_TO_FILE_DESCRIPTOR = 75,
    UNKNOWN_DATABASE = 81,
    DATABASE_ALREADY_EXISTS = 82,
    UNKNOWN_COMPRESSION_METHOD = 89,
    UNKNOWN_SETTING = 115,
    INCORRECT_DATA = 117,
    TOO_LARGE_ARRAY_SIZE = 128,
    TOO_LARGE_STRING_SIZE = 131,
    READONLY = 164,
    BAD_TYPE_OF_FIELD = 169,
    ILLEGAL_FINAL = 181,
    TOO_MANY_SIMULTANEOUS_QUERIES = 202,
    NETWORK_ERROR = 210,
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING = 216,
    MEMORY_LIMIT_EXCEEDED = 241,
    CORRUPTED_DATA = 246,
    CANNOT_DECOMPRESS = 271,
    ZLIB_INFLATE_FAILED = 354,
    QUERY_WAS_CANCELLED = 394,
    BAD_REQUEST_PARAMETER = 408,
    UNKNOWN_CODEC = 432,
    CANNOT_PARSE_BOOL = 467,
    AUTHENTICATION_FAILED = 516,
    ALTER_OF_COLUMN_IS_FORBIDDEN = 524,
    ZSTD_DECODER_FAILED = 561,
    LZ4_DECODER_FAILED = 618,
    UNKNOWN_EXCEPTION = 1002,
}

/// An error as ClickHouse reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its number.
    pub code: i32,
    /// Its number's name; empty if it is not known.
    pub name: String,
    /// What went wrong.
    pub message: String,
}

impl Exception {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { code: kind.code, name: kind.name.into(), message: message.into() }
    }

    /// Reads what an engine says: `Code: 62. DB::Exception: Syntax error. (SYNTAX_ERROR)`, with or
    /// without a version behind it. What has another form is an unknown error of that text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::read(text.trim()).unwrap_or_else(|| Self::new(UNKNOWN_EXCEPTION, text.trim()))
    }

    fn read(text: &str) -> Option<Self> {
        let (code, rest) = text.strip_prefix("Code: ")?.split_once('.')?;
        let (class, message) = rest.trim_start().split_once("Exception: ")?;
        if !class.starts_with("DB::") || class.contains(' ') {
            return None;
        }
        let message = match message.rfind(" (version ") {
            Some(at) if message.ends_with(')') => &message[..at],
            _ => message,
        };
        let named = message.strip_suffix(')').and_then(|message| message.rsplit_once(". ("));
        let (message, name) = match named {
            Some((message, name)) if is_name(name) => (message, name),
            _ => (message, ""),
        };
        Some(Self { code: code.parse().ok()?, name: name.into(), message: message.into() })
    }

    /// What stands in a response's body.
    #[must_use]
    pub fn text(&self, version: &str) -> String {
        format!("{self} (version {version})\n")
    }

    /// The HTTP status it travels with, as ClickHouse chooses it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.code {
            194 => 401,
            192 | 193 | 497 | 512 | 516 => 403,
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167
            | 168 | 223 | 321 | 376 | 427 | 441 | 675 | 676 => 400,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => 404,
            159 => 408,
            381 => 411,
            229 => 413,
            779 => 415,
            48 => 501,
            76 | 209 | 439 => 503,
            _ => 500,
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, name, message } = self;
        write!(f, "Code: {code}. DB::Exception: {message}")?;
        if !name.is_empty() {
            write!(f, ". ({name})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Exception {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_is_read_and_said_again() {
        let said = "Code: 33. DB::Exception: Cannot read all data. Bytes read: 1. Bytes expected: \
                    3: (at row 1)\n: While executing BinaryRowInputFormat. (CANNOT_READ_ALL_DATA)";
        for text in [said.to_owned(), format!("{said} (version 26.7.2.1)\n")] {
            let exception = Exception::parse(&text);
            assert_eq!((exception.code, &*exception.name), (33, "CANNOT_READ_ALL_DATA"));
            assert_eq!(exception.to_string(), said);
            assert_eq!(exception.text("26.7.2.1"), format!("{said} (version 26.7.2.1)\n"));
        }
        let network =
            "Code: 210. DB::NetException: Connection refused (127.0.0.1:1). (NETWORK_ERROR)";
        assert_eq!(Exception::parse(network).code, 210);
    }

    #[test]
    fn what_is_no_exception_is_an_unknown_one() {
        for text in
            ["", "send_insert requires an INSERT query", "Code: x. DB::Exception: y", "Code: 1"]
        {
            let exception = Exception::parse(text);
            assert_eq!((exception.code, &*exception.message), (1002, text));
        }
    }

    #[test]
    fn names_are_taken_only_for_names() {
        let exception = Exception::parse("Code: 395. DB::Exception: no. (Not a name)");
        assert_eq!((&*exception.name, &*exception.message), ("", "no. (Not a name)"));
    }

    #[test]
    fn the_status_tells_whose_fault_it_is() {
        let statuses = [SYNTAX_ERROR, AUTHENTICATION_FAILED, NOT_IMPLEMENTED, CANNOT_READ_ALL_DATA]
            .map(|kind| Exception::new(kind, "").status());
        assert_eq!(statuses, [400, 403, 501, 500]);
    }
}
