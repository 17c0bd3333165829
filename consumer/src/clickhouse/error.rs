//! What a refusal of ClickHouse's means: whether it may pass, or is about rows.

use std::error::Error as StdError;

use clickhouse::error::Error;
use walbench_metrics::Failure;

/// What can be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same again, later.
    Retry,
    /// It is about some of the rows: without them the others can be written.
    LeaveOut,
    /// Nothing would help.
    None,
}

/// An error of ClickHouse's, or of the way there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct ClickhouseError {
    /// ClickHouse's number for it, if it is ClickHouse's.
    pub code: Option<u32>,
    /// What it says.
    pub text: String,
    /// What can be done.
    pub remedy: Remedy,
    /// The server may have done, or do, what it was asked: nobody has heard.
    pub is_open: bool,
    /// No server answered.
    pub is_away: bool,
    /// What a person can do, where that is not the same for all errors of this number.
    pub hint: Option<&'static str>,
}

/// ClickHouse's codes of what may pass: limits that are reached for now, disks and other servers that
/// don't answer, its own keeper, what was damaged on the way (`src/Common/ErrorCodes.cpp`).
const PASSING: [u32; 46] = [
    40, 74, 75, 76, 159, 160, 173, 198, 201, 202, 203, 209, 210, 216, 225, 236, 241, 242, 243, 244,
    246, 252, 254, 271, 279, 285, 286, 289, 290, 319, 364, 373, 394, 425, 439, 473, 499, 530, 579,
    592, 700, 745, 999, 1000, 1001, 1002,
];

/// And of what is about the values of rows.
const OF_ROWS: [u32; 25] = [
    6, 9, 25, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 128, 131, 190, 321, 349, 376, 395, 407,
    441, 469, 691,
];

impl From<Error> for ClickhouseError {
    fn from(error: Error) -> Self {
        match &error {
            Error::BadResponse(text) => Self::answered(text),
            Error::Network(_) | Error::TimedOut => Self::unheard(&error),
            _ => Self::refused(with_causes(&error)),
        }
    }
}

impl ClickhouseError {
    /// The server answered, or somebody on the way to it.
    fn answered(text: &str) -> Self {
        let code = code(text);
        let remedy = match (code, status(text)) {
            (Some(code), _) if PASSING.contains(&code) => Remedy::Retry,
            (Some(code), _) if OF_ROWS.contains(&code) => Remedy::LeaveOut,
            // Without a status it is a page of a proxy's, or nothing.
            (None, None | Some(408 | 425 | 429 | 500 | 502..=504)) => Remedy::Retry,
            _ => Remedy::None,
        };
        let text = plain(text).chars().take(LONGEST_TEXT).collect();
        let (is_open, hint) = (code.is_none(), code.and_then(hint));
        Self { code, text, remedy, is_open, is_away: false, hint }
    }

    /// Nothing would help.
    pub(crate) fn refused(text: String) -> Self {
        let (is_open, is_away) = (false, false);
        Self { code: None, text, remedy: Remedy::None, is_open, is_away, hint: None }
    }

    /// It may be otherwise in a while.
    pub(crate) fn passing(text: String) -> Self {
        Self { remedy: Remedy::Retry, ..Self::refused(text) }
    }

    pub(crate) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// An answer that makes no sense.
    pub(crate) fn nonsense(answer: &str) -> Self {
        let answer: String = answer.chars().take(100).collect();
        Self::refused(format!("no ClickHouse answers so: {answer:?}"))
    }

    fn unheard(error: &Error) -> Self {
        // Who was not reached was not asked.
        let is_open = !is_connecting(error);
        Self { is_open, is_away: true, ..Self::passing(with_causes(error)) }
    }

    /// For a person, with what to do where that is known.
    #[must_use]
    pub fn failure(&self, what: &str) -> Failure {
        let failure = Failure::new(what).because(Failure::new(self.text.clone()));
        match self.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// An error's text, and those of what caused it.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source().and_then(StdError::source);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Whether it happened before anything was sent.
fn is_connecting(error: &Error) -> bool {
    let hyper = error.source().and_then(|e| e.downcast_ref::<hyper_util::client::legacy::Error>());
    hyper.is_some_and(hyper_util::client::legacy::Error::is_connect)
}

/// Of an error's text no more than this is shown: a row may stand in it.
const LONGEST_TEXT: usize = 300;

fn hint(code: u32) -> Option<&'static str> {
    Some(match code {
        // ClickHouse's codes, as above.
        81 | 291 => "the database does not exist, or may not be entered by this user",
        192 | 193 | 194 | 516 => {
            "user and password come from the URL, or from CLICKHOUSE_USER and CLICKHOUSE_PASSWORD"
        }
        497 => {
            "the user needs CREATE DATABASE, CREATE TABLE, ALTER, INSERT, SELECT and TRUNCATE on the \
             database"
        }
        164 => "the user is readonly, and must be one that may write",
        115 => "clickhouse.settings, or the URL, names a setting that this server does not know",
        252 => {
            "larger batches make fewer parts: consumer.flush_batch_size, consumer.flush_interval_ms"
        }
        359 => "the server's max_table_size_to_drop forbids to empty a table of this size",
        _ => return None,
    })
}

/// `Code: 252. DB::Exception: …`, or `Code: 252, e.displayText() = …` of older servers.
fn code(text: &str) -> Option<u32> {
    let digits = text.split_once("Code: ")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Without what says nothing to a person: the server's version, how C++ has named the exception, and
/// the lines of a page.
fn plain(text: &str) -> String {
    let text = text.split_once("(version ").map_or(text, |(before, _)| before);
    let text = text.split_once(", e.what() = ").map_or(text, |(before, _)| before);
    let text = text.replace(", e.displayText() = ", ". ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `503 Service Unavailable`, which stands where there is no text.
fn status(text: &str) -> Option<u16> {
    let (status, _) = text.split_once(' ')?;
    status.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> ClickhouseError {
        Error::BadResponse(text.into()).into()
    }

    #[test]
    fn old_and_new_servers_are_understood() {
        for (text, code, remedy, said) in [
            (
                "Code: 252. DB::Exception: Too many parts (301). Merges are processing \
                 significantly slower than inserts. (TOO_MANY_PARTS) (version 26.7.3.1)\n",
                Some(252),
                Remedy::Retry,
                "Code: 252. DB::Exception: Too many parts (301). Merges are processing \
                 significantly slower than inserts. (TOO_MANY_PARTS)",
            ),
            (
                "Code: 252, e.displayText() = DB::Exception: Too many parts (300), e.what() = \
                 DB::Exception\n",
                Some(252),
                Remedy::Retry,
                "Code: 252. DB::Exception: Too many parts (300)",
            ),
            (
                "Code: 33, e.displayText() = DB::Exception: Cannot read all data, e.what() = \
                 DB::Exception",
                Some(33),
                Remedy::LeaveOut,
                "Code: 33. DB::Exception: Cannot read all data",
            ),
            (
                "Code: 60. DB::Exception: no table",
                Some(60),
                Remedy::None,
                "Code: 60. DB::Exception: no table",
            ),
            ("503 Service Unavailable", None, Remedy::Retry, "503 Service Unavailable"),
            ("429 Too Many Requests", None, Remedy::Retry, "429 Too Many Requests"),
            ("404 Not Found", None, Remedy::None, "404 Not Found"),
            ("<html>\n bad gateway\n</html>", None, Remedy::Retry, "<html> bad gateway </html>"),
        ] {
            let error = answered(text);
            let found = (error.code, error.remedy, &*error.text);
            assert_eq!(found, (code, remedy, said));
            assert_eq!(error.is_open, code.is_none(), "{text}");
        }
    }

    #[test]
    fn what_nobody_heard_of_may_be_done_and_is_tried_again() {
        for error in [Error::TimedOut, Error::Network("gone".into())] {
            let error = ClickhouseError::from(error);
            assert!(error.is_open && error.is_away && error.remedy == Remedy::Retry);
        }
        let error = ClickhouseError::from(Error::InvalidParams("nonsense".into()));
        assert_eq!(error.remedy, Remedy::None);
    }

    #[test]
    fn a_row_in_a_message_is_cut_off() {
        let secret = "secret ".repeat(10_000);
        let error = answered(&format!("Code: 27. DB::Exception: Cannot parse input: {secret}"));
        assert_eq!((error.remedy, error.text.len()), (Remedy::LeaveOut, LONGEST_TEXT));
        assert!(error.failure("a batch").to_string().len() < LONGEST_TEXT + 100);
    }

    #[test]
    fn a_code_has_one_remedy_and_a_person_something_to_do() {
        assert!(!PASSING.iter().any(|code| OF_ROWS.contains(code)));
        assert!(PASSING.is_sorted() && OF_ROWS.is_sorted());
        let failure = answered("Code: 516. DB::Exception: Authentication failed").failure("it");
        assert!(failure.hint.unwrap().contains("CLICKHOUSE_PASSWORD"));
    }
}
