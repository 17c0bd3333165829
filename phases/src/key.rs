//! The way to a value in a plan.

use std::fmt;

use serde_json::Value;

/// One step of a [`KeyPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.into())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// The way from a plan's root to one of its values. Prints as `phases[1].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyPath(Vec<Step>);

impl KeyPath {
    pub(crate) fn root() -> Self {
        Self::default()
    }

    pub(crate) fn then(&self, step: impl Into<Step>) -> Self {
        let mut path = self.clone();
        path.0.push(step.into());
        path
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(crate) fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The path itself, its parent, and so on up to the root.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = Self> {
        (0..=self.0.len()).rev().map(|length| Self(self.0[..length].to_vec()))
    }

    pub(crate) fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(value, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    /// Puts `new` where the path leads, making the tables on the way that don't exist. Does nothing
    /// where something stands in the way: that is another problem, reported by itself.
    pub(crate) fn set(&self, value: &mut Value, new: Value) {
        let mut place = value;
        for step in &self.0 {
            let next = match (step, place) {
                (Step::Key(key), Value::Object(table)) => {
                    Some(table.entry(key.clone()).or_insert_with(|| Value::Object(<_>::default())))
                }
                (Step::Index(index), Value::Array(items)) => items.get_mut(*index),
                _ => None,
            };
            let Some(next) = next else { return };
            place = next;
        }
        *place = new;
    }

    /// Removes what the path leads to, if that is the value of a name.
    pub(crate) fn remove(&self, value: &mut Value) {
        let Some((Step::Key(name), way)) = self.0.split_last() else { return };
        let mut place = value;
        for step in way {
            let next = match step {
                Step::Key(key) => place.get_mut(key.as_str()),
                Step::Index(index) => place.get_mut(*index),
            };
            let Some(next) = next else { return };
            place = next;
        }
        if let Some(table) = place.as_object_mut() {
            table.remove(name);
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        for (depth, step) in self.0.iter().enumerate() {
            let dot = if depth == 0 { "" } else { "." };
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if !key.is_empty() && key.chars().all(is_bare) => {
                    write!(f, "{dot}{key}")?;
                }
                Step::Key(key) => write!(f, "{dot}{key:?}")?,
            }
        }
        Ok(())
    }
}

/// A path as a person writes it, cut at its dots and brackets: `phases.0.name`, `phases[0].name`,
/// `phases.*.name`, `thresholds."lag stays low"`. `None` if a quote or bracket isn't closed.
pub(crate) fn cut(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        let (word, after) = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => rest[1..].split_once(quote)?,
            Some('[') => rest[1..].split_once(']')?,
            _ => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        words.push(word.into());
        rest = match after.strip_prefix('.') {
            Some(rest) => rest,
            None if after.is_empty() => return Some(words),
            None if after.starts_with('[') => after,
            None => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_cut_into_words() {
        for (text, words) in [
            ("name", vec!["name"]),
            ("phases.0.name", vec!["phases", "0", "name"]),
            ("phases[0].name", vec!["phases", "0", "name"]),
            ("phases.*.name", vec!["phases", "*", "name"]),
            ("thresholds.\"a.b c\"", vec!["thresholds", "a.b c"]),
            ("", vec![""]),
            ("a.", vec!["a", ""]),
        ] {
            assert_eq!(cut(text).unwrap(), words, "{text}");
        }
        for text in ["a.\"b", "a[0", "a.\"b\"c"] {
            assert_eq!(cut(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_prints_as_it_is_written() {
        let path = KeyPath::root().then("phases").then(1).then("a b").then("c");
        assert_eq!(path.to_string(), "phases[1].\"a b\".c");
    }

    proptest! {
        #[test]
        fn any_text_can_be_cut(text in "[a-z0-9.*\\[\\]\"'é]*") {
            let _ = cut(&text);
        }
    }
}
