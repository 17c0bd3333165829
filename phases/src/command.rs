//! What a command in the consumer's place may ask for: placeholders in its arguments.

use crate::hint::{list, nearest};

/// What stands in braces in an argument of `consumer.command`, or in `consumer.visible_sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placeholder {
    /// Connection URL of the source database, password included.
    PostgresUrl,
    /// Its host, or the folder of its Unix socket.
    PostgresHost,
    /// Its port.
    PostgresPort,
    /// Whom to log in as.
    PostgresUser,
    /// With which password; nothing, if none is needed.
    PostgresPassword,
    /// The database.
    PostgresDatabase,
    /// The replication slot; it exists.
    Slot,
    /// The publication; it exists.
    Publication,
    /// HTTP URL of the ClickHouse to write into, login and database included.
    ClickhouseUrl,
    /// The database there.
    ClickhouseDatabase,
    /// The worker's name, `consumer-0`.
    Worker,
}

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::PostgresUrl,
        Self::PostgresHost,
        Self::PostgresPort,
        Self::PostgresUser,
        Self::PostgresPassword,
        Self::PostgresDatabase,
        Self::Slot,
        Self::Publication,
        Self::ClickhouseUrl,
        Self::ClickhouseDatabase,
        Self::Worker,
    ];

    /// As it is written between the braces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PostgresUrl => "postgres_url",
            Self::PostgresHost => "postgres_host",
            Self::PostgresPort => "postgres_port",
            Self::PostgresUser => "postgres_user",
            Self::PostgresPassword => "postgres_password",
            Self::PostgresDatabase => "postgres_database",
            Self::Slot => "slot",
            Self::Publication => "publication",
            Self::ClickhouseUrl => "clickhouse_url",
            Self::ClickhouseDatabase => "clickhouse_database",
            Self::Worker => "worker",
        }
    }

    /// It means nothing without a ClickHouse.
    #[must_use]
    pub fn needs_clickhouse(self) -> bool {
        matches!(self, Self::ClickhouseUrl | Self::ClickhouseDatabase)
    }
}

/// Why a text's placeholders can't be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlaceholderError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// `text` with each placeholder replaced by its value, each `{{` by `{` and each `}}` by `}`. What a
/// value holds is taken as it is.
///
/// # Errors
/// A placeholder that there is not, or a brace that stands alone.
pub fn expand(
    text: &str,
    value: impl Fn(Placeholder) -> String,
) -> Result<String, PlaceholderError> {
    let pieces = pieces(text)?.into_iter();
    let filled = pieces.map(|piece| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Placeholder(placeholder) => value(placeholder),
    });
    Ok(filled.collect())
}

/// The placeholders of a text, in their order.
///
/// # Errors
/// Those of [`expand`].
pub fn placeholders(text: &str) -> Result<Vec<Placeholder>, PlaceholderError> {
    let placeholder = |piece| match piece {
        Piece::Placeholder(placeholder) => Some(placeholder),
        Piece::Text(_) => None,
    };
    Ok(pieces(text)?.into_iter().filter_map(placeholder).collect())
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(Placeholder),
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, PlaceholderError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from_brace) = rest.split_at(at);
        let (brace, after) = from_brace.split_at(1);
        pieces.push(Piece::Text(before));
        if let Some(after) = after.strip_prefix(brace) {
            pieces.push(Piece::Text(brace));
            rest = after;
            continue;
        }
        let inside = after.split_once('}').filter(|_| brace == "{");
        let (name, after) = inside.ok_or_else(|| PlaceholderError {
            message: format!("a \"{brace}\" stands alone"),
            hint: format!("write {brace}{brace} for a {brace} that is text"),
        })?;
        pieces.push(Piece::Placeholder(named(name)?));
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn named(name: &str) -> Result<Placeholder, PlaceholderError> {
    let known = || Placeholder::ALL.into_iter().map(Placeholder::name);
    let found = Placeholder::ALL.into_iter().find(|placeholder| placeholder.name() == name);
    found.ok_or_else(|| PlaceholderError {
        message: format!("there is no placeholder {{{name}}}"),
        hint: match nearest(name, known()) {
            Some(known) => format!("did you mean {{{known}}}?"),
            None => format!("known are {}; write {{{{ for a {{ that is text", list(known())),
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(text: &str) -> Result<String, PlaceholderError> {
        expand(text, |placeholder| format!("<{}>", placeholder.name()))
    }

    #[test]
    fn placeholders_are_filled_in_and_doubled_braces_are_text() {
        for (text, expected) in [
            ("", ""),
            ("--slot={slot}", "--slot=<slot>"),
            ("{postgres_url}{worker}", "<postgres_url><worker>"),
            ("{{slot}}", "{slot}"),
            ("{{{slot}}}", "{<slot>}"),
            ("publication_names='{publication}'", "publication_names='<publication>'"),
        ] {
            assert_eq!(filled(text).unwrap(), expected, "{text}");
        }
        // What a value holds is not looked into.
        assert_eq!(expand("{slot}", |_| "{worker}".into()).unwrap(), "{worker}");
        assert_eq!(
            placeholders("{slot} {worker}").unwrap(),
            [Placeholder::Slot, Placeholder::Worker]
        );
    }

    #[test]
    fn errors_say_what_to_write() {
        let errors = ["{slott}", "{}", "{\"a\": 1}", "{slot", "slot}", "a{{b}c"];
        let said = errors.map(|text| {
            let error = filled(text).unwrap_err();
            format!("{text}: {}\n  {}", error.message, error.hint)
        });
        insta::assert_snapshot!(said.join("\n"));
    }

    proptest! {
        #[test]
        fn any_text_is_filled_in_or_refused(text in "[{}a-z_]{0,20}") {
            let both = (filled(&text).is_ok(), placeholders(&text).is_ok());
            prop_assert!(both.0 == both.1);
        }

        #[test]
        fn doubled_braces_bring_any_text_back(text in "\\PC*") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(filled(&doubled), Ok(text));
        }
    }
}
