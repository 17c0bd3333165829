//! `${NAME}` and `${NAME:-default}` in a plan's strings.

/// Why a string could not be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The variable is not set and no default is given.
    Unset(String),
    /// A `${` that is not followed by a name and a `}`.
    Malformed,
}

/// `text` with each variable replaced by its value and each `$${` by `${`. What a variable holds is
/// taken as it is: it is not searched for variables again. As in a shell, a default also takes the
/// place of an empty value.
pub(crate) fn interpolate(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<String, Vec<Fault>> {
    let mut filled = String::new();
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from_variable) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.extend([before, "${"]);
            rest = &from_variable[2..];
            continue;
        }
        filled.push_str(before);
        let (body, after) = from_variable[2..].split_once('}').unwrap_or(("", ""));
        match value_of(body, &lookup) {
            Ok(value) => filled.push_str(&value),
            Err(fault) => faults.push(fault),
        }
        rest = after;
    }
    filled.push_str(rest);
    if faults.is_empty() { Ok(filled) } else { Err(faults) }
}

fn value_of(body: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, Fault> {
    let (name, default) =
        body.split_once(":-").map_or((body, None), |(name, default)| (name, Some(default)));
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Fault::Malformed);
    }
    let value = lookup(name).filter(|value| default.is_none() || !value.is_empty());
    value.or_else(|| default.map(String::from)).ok_or_else(|| Fault::Unset(name.into()))
}

/// `text` such that [`interpolate`] gives it back.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(text: &str) -> Result<String, Vec<Fault>> {
        interpolate(text, |name| match name {
            "HOST" => Some("db".into()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".into()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, filled) in [
            ("postgres://${HOST}:5432/", "postgres://db:5432/"),
            ("${PORT:-5432}", "5432"),
            ("${HOST:-other}", "db"),
            ("${EMPTY:-other}", "other"),
            ("${EMPTY}", ""),
            ("${PORT:-}", ""),
            ("${TRICK}", "${HOST}"),
            ("$${HOST} costs $5 or $HOST", "${HOST} costs $5 or $HOST"),
        ] {
            assert_eq!(fill(text).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn every_fault_is_told() {
        let unset = |name: &str| Fault::Unset(name.into());
        assert_eq!(fill("${A}${HOST}${B}"), Err(vec![unset("A"), unset("B")]));
        for text in ["${", "${}", "${HOST", "${1}", "${a b}", "${:-x}"] {
            assert_eq!(fill(text), Err(vec![Fault::Malformed]), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(text in "[${}a:-]*") {
            prop_assert_eq!(fill(&escape(&text)), Ok(text));
        }
    }
}
