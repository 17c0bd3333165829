//! What a person is told of a row that differs.

use serde::Serialize;

use super::alignment::Alignment;
use super::compare::{Class, Differing};
use crate::replication::lsn_text;
use crate::rowbinary::{Column, Table};

/// A value is cut behind so many characters.
const SHOWN_CHARACTERS: usize = 80;

/// Of what two long values have in common, so many characters are shown before what they have not.
const SHOWN_BEFORE: usize = 20;

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How.
    pub class: Class,
    /// The key's columns with their values; all columns where the table has no key. None where the
    /// row has changed since it was found.
    pub key: Vec<(String, String)>,
    /// What there is to say of its versions.
    pub reason: String,
    /// The values that differ.
    pub columns: Vec<Difference>,
    /// How many rows; more than one only where there is no key.
    pub rows: u64,
}

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The column.
    pub column: String,
    /// Its value in PostgreSQL.
    pub postgres: String,
    /// Its value in ClickHouse.
    pub clickhouse: String,
}

/// The keys that are shown of a table: the first ones of each class, by the keys' hashes.
#[derive(Debug)]
pub(super) struct Chosen {
    most: usize,
    by_class: [Vec<Differing>; Class::ALL.len()],
}

impl Chosen {
    /// At most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, by_class: Default::default() }
    }

    pub(super) fn offer(&mut self, differing: Differing) {
        let class = &mut self.by_class[differing.class as usize];
        if class.len() < self.most {
            class.push(differing);
        }
    }

    /// As many as are shown; no class is hidden by another one.
    pub(super) fn choose(self) -> Vec<Differing> {
        let rounds = (0..self.most).flat_map(|round| {
            self.by_class.iter().filter_map(move |class| class.get(round).copied())
        });
        let mut chosen: Vec<_> = rounds.take(self.most).collect();
        chosen.sort_by_key(|differing| differing.class);
        chosen
    }
}

impl Finding {
    /// What is said of a key by PostgreSQL's row and ClickHouse's newest version, as far as they were
    /// met again.
    pub(super) fn new(
        differing: &Differing,
        alignment: &Alignment,
        here: Option<&Vec<u8>>,
        there: Option<&Vec<u8>>,
    ) -> Self {
        let here = here.and_then(|row| alignment.here.values(row).ok());
        let there = there.and_then(|row| alignment.there.values(row).ok());
        let key = match (&here, &there) {
            (Some(values), _) => key(&alignment.here, values),
            (None, Some(values)) => key(&alignment.there, values),
            (None, None) => Vec::new(),
        };
        let Differing { class, rows, .. } = *differing;
        let columns = match (&here, &there) {
            (Some(here), Some(there)) if class != Class::Missing => {
                differences(alignment, here, there)
            }
            _ => Vec::new(),
        };
        Self { class, key, reason: reason(differing, alignment.here.has_key()), columns, rows }
    }

    /// By classes, and in each by keys; numbers are in their order, below zero aside.
    pub(super) fn order(&self) -> (Class, Vec<(usize, String)>) {
        (self.class, self.key.iter().map(|(_, value)| (value.len(), value.clone())).collect())
    }
}

fn key(table: &Table, values: &[&[u8]]) -> Vec<(String, String)> {
    let has_key = table.has_key();
    let columns = table.columns.iter().zip(values).filter(|(column, _)| column.key || !has_key);
    columns.map(|(column, value)| (column.name.clone(), cut(&readable(column, value), 0))).collect()
}

fn differences(alignment: &Alignment, here: &[&[u8]], there: &[&[u8]]) -> Vec<Difference> {
    let compared = alignment.here.columns.iter().zip(here).zip(&alignment.compared);
    let compared = compared.filter(|(_, compared)| **compared).map(|(here, _)| here);
    let differing = compared.zip(there).filter(|((_, here), there)| here != there);
    let difference = |((column, here), there): ((&Column, &&[u8]), &&[u8])| {
        let (here, there) = (readable(column, here), readable(column, there));
        let alike = here.chars().zip(there.chars()).take_while(|(a, b)| a == b).count();
        let column = column.name.clone();
        Difference { column, postgres: cut(&here, alike), clickhouse: cut(&there, alike) }
    };
    differing.map(difference).collect()
}

fn readable(column: &Column, value: &[u8]) -> String {
    column.readable(value).unwrap_or_else(|error| error.to_string())
}

/// What of a text is shown where it differs from another behind so many characters.
fn cut(text: &str, alike: usize) -> String {
    let length = text.chars().count();
    if length <= SHOWN_CHARACTERS {
        return text.to_owned();
    }
    let first = if alike < SHOWN_CHARACTERS { 0 } else { alike - SHOWN_BEFORE };
    let shown: String = text.chars().skip(first).take(SHOWN_CHARACTERS).collect();
    let before = if first > 0 { "…" } else { "" };
    let behind = if first + SHOWN_CHARACTERS < length { "…" } else { "" };
    format!("{before}{shown}{behind} ({length} characters)")
}

fn reason(differing: &Differing, has_key: bool) -> String {
    let Differing { class, there, same_below, rows, .. } = *differing;
    let at = there.map_or_else(String::new, |there| lsn_text(there.version));
    let below = same_below.map(lsn_text);
    match (class, there, below) {
        (Class::Missing, _, _) if !has_key && rows > 1 => {
            format!("{rows} of these rows are not there")
        }
        (Class::Missing, Some(_), Some(below)) if has_key => {
            format!("deleted there at {at}; the row is stored at {below}, a lower version")
        }
        (Class::Missing, Some(_), _) if has_key => format!("deleted there at {at}"),
        (Class::Missing, ..) => "not there".into(),
        (Class::Extra, _, below) if !has_key => {
            let deleted = below.map_or_else(String::new, |below| {
                format!("; deleted at {below}, which a table without a key does not show")
            });
            format!("{rows} more there than in PostgreSQL, the newest at {at}{deleted}")
        }
        (Class::Extra, _, Some(below)) => {
            format!("there at {at}; its deletion is stored at {below}, a lower version")
        }
        (Class::Extra, ..) => {
            format!("there at {at}: its deletion did not come, or it was never committed")
        }
        (Class::Stale, _, Some(below)) => {
            format!("there at {at}; its last state is stored at {below}, a lower version")
        }
        (Class::Stale, ..) => format!("there at {at}, with timestamps that are older"),
        (Class::Wrong, ..) => format!("there at {at}"),
        (Class::Conflicting, ..) => format!("stored at {at} with different values"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_values_the_part_is_shown_where_they_differ() {
        let long = |end: &str| format!("'{}{end}", "x".repeat(200));
        assert_eq!(cut("'short'", 3), "'short'");
        assert_eq!(cut(&long("a"), 0), format!("'{}… (202 characters)", "x".repeat(79)));
        assert_eq!(cut(&long("a"), 201), format!("…{}a (202 characters)", "x".repeat(20)));
    }

    #[test]
    fn no_class_is_hidden_by_another() {
        let mut chosen = Chosen::new(4);
        let differing =
            |class| Differing { class, here: None, there: None, same_below: None, rows: 1 };
        for class in [Class::Missing, Class::Missing, Class::Missing, Class::Missing, Class::Wrong]
        {
            chosen.offer(differing(class));
        }
        let classes: Vec<_> = chosen.choose().iter().map(|differing| differing.class).collect();
        assert_eq!(classes, [Class::Missing, Class::Missing, Class::Missing, Class::Wrong]);
    }
}
