//! The types of PostgreSQL's columns.

use postgres_types::{Kind, Type};

use super::binary_form::BinaryForm;

/// A type, with domains resolved to what they are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceType {
    /// As PostgreSQL prints it, without a modifier.
    pub name: String,
    /// Its OID; that of the base type if it was a domain.
    pub oid: u32,
    /// The modifier that a domain gives it, whatever the column has.
    pub modifier: Option<i32>,
    /// How it comes in binary form, if it is written as its text.
    pub binary: BinaryForm,
    /// The elements' type, if it is an array.
    pub element: Option<Box<Self>>,
    /// What stands between elements of this type in an array's text.
    pub delimiter: u8,
}

impl SourceType {
    /// One of the types that PostgreSQL fixes OIDs for (`pg_type.dat`); any other is a type that is
    /// known by its OID alone, and goes as its text.
    #[must_use]
    pub fn of(oid: u32) -> Self {
        let known = Type::from_oid(oid);
        let name = known.as_ref().map_or_else(|| format!("type {oid}"), |t| t.name().to_owned());
        let element = match known.as_ref().map(Type::kind) {
            Some(Kind::Array(element)) if !is_vector(oid) => Some(Self::of(element.oid())),
            _ => None,
        };
        Self {
            binary: BinaryForm::of(&name),
            delimiter: if known == Some(Type::BOX) { b';' } else { b',' },
            name: element.as_ref().map_or(name, |element| format!("{}[]", element.name)),
            oid,
            modifier: None,
            element: element.map(Box::new),
        }
    }
}

/// `int2vector` and `oidvector` have elements, but neither the text nor the bounds of an array.
fn is_vector(oid: u32) -> bool {
    [Type::INT2_VECTOR, Type::OID_VECTOR].iter().any(|vector| vector.oid() == oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_with_fixed_oids_are_known_without_a_catalogue() {
        let array = SourceType::of(1187);
        let element = array.element.unwrap();
        assert_eq!((array.name.as_str(), element.name.as_str()), ("interval[]", "interval"));
        assert_eq!(element.binary, BinaryForm::Interval);
        assert_eq!(SourceType::of(1020).element.unwrap().delimiter, b';');
        assert_eq!(SourceType::of(22).element, None);
        assert_eq!(SourceType::of(99_999).name, "type 99999");
        assert_eq!(SourceType::of(99_999).binary, BinaryForm::Unreadable);
    }
}
