//! What a ClickHouse server is, and what follows from that.

use std::fmt;

/// Version of a server, as far as features go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The year it was made in.
    pub major: u32,
    /// Which of that year.
    pub minor: u32,
}

/// Something that not every server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `LowCardinality`, and codecs of columns.
    LowCardinality,
    /// `DateTime64`.
    DateTime64,
    /// `insert_deduplicate`'s token.
    DeduplicationToken,
    /// `async_insert`.
    AsyncInsert,
    /// `Date32`.
    Date32,
    /// `Bool`.
    Bool,
    /// `ReplacingMergeTree` that knows of deleted rows.
    IsDeleted,
    /// `accurateCastOrNull`.
    AccurateCast,
}

impl Version {
    /// From what `version()` says, such as `18.16.1` or `26.7.3.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some(Self { major, minor }),
            _ => None,
        }
    }

    /// Whether it has something (ClickHouse's changelogs).
    #[must_use]
    pub fn has(self, feature: Feature) -> bool {
        let (major, minor) = match feature {
            Feature::LowCardinality => (19, 11),
            Feature::DateTime64 => (20, 1),
            Feature::DeduplicationToken => (22, 2),
            Feature::AccurateCast => (21, 1),
            Feature::AsyncInsert => (21, 11),
            Feature::Date32 => (21, 9),
            Feature::Bool => (21, 12),
            Feature::IsDeleted => (23, 2),
        };
        self >= Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert_eq!(version("18.16.1"), Version { major: 18, minor: 16 });
        assert_eq!(version("26.7.3.1-stable\n").to_string(), "26.7");
        assert!(version("21.11.1") > version("21.9.2"));
        assert!(!version("18.16.1").has(Feature::DateTime64));
        assert!(version("20.1.2").has(Feature::DateTime64));
        for nonsense in ["", "x", "26", "26.x"] {
            assert_eq!(Version::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
