//! What must hold of a row that is asked for: conditions of the few forms that are needed here.

/// A condition on a row's values, as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A column is one of these.
    In {
        /// The column.
        column: String,
        /// What it may be.
        values: Vec<String>,
    },
    /// A column holds this somewhere.
    Holds {
        /// The column.
        column: String,
        /// What it holds.
        text: String,
    },
    /// One of these at least.
    Any(Vec<Self>),
}

impl Condition {
    /// The columns that it names.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::In { column, .. } | Self::Holds { column, .. } => vec![column],
            Self::Any(conditions) => conditions.iter().flat_map(Self::columns).collect(),
        }
    }

    /// Whether it holds, where a column's text is this.
    pub fn is_met(&self, text_of: &impl Fn(&str) -> Vec<u8>) -> bool {
        match self {
            Self::In { column, values } => {
                let text = text_of(column);
                values.iter().any(|value| value.as_bytes() == text)
            }
            Self::Holds { column, text } => {
                memchr::memmem::find(&text_of(column), text.as_bytes()).is_some()
            }
            Self::Any(conditions) => conditions.iter().any(|one| one.is_met(text_of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_met_by_texts() {
        let one_of = |column: &str, values: &[&str]| Condition::In {
            column: column.into(),
            values: values.iter().map(|value| (*value).into()).collect(),
        };
        let holds = |text: &str| Condition::Holds { column: "q".into(), text: text.into() };
        let row = |column: &str| if column == "q" { b"a query".to_vec() } else { b"7".to_vec() };
        assert!(one_of("n", &["6", "7"]).is_met(&row) && !one_of("n", &["6"]).is_met(&row));
        assert!(holds("quer").is_met(&row) && !holds("x").is_met(&row));
        let any = Condition::Any(vec![holds("x"), one_of("n", &["7"])]);
        assert!(any.is_met(&row));
        assert_eq!(any.columns(), ["q", "n"]);
        assert!(!Condition::Any(vec![holds("x")]).is_met(&row));
    }
}
