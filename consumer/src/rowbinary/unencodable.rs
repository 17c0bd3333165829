//! Why a value can't be written.

use thiserror::Error;

/// Why a value can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unencodable {
    /// It is not in its type's form.
    #[error("it is not in the form of its type")]
    Malformed,
    /// ClickHouse's type has no room for it.
    #[error("ClickHouse's type can't hold it")]
    OutOfRange,
    /// `NaN`, which no value of a Decimal is near to.
    #[error("a Decimal has nothing for NaN")]
    NotANumber,
    /// NULL, where the column was said to hold none.
    #[error("the column is not nullable")]
    Null,
    /// An array of more than one dimension.
    #[error("it is an array of more than one dimension")]
    Dimensions,
    /// The type's binary form is not read.
    #[error("it came in a binary form that is not read")]
    BinaryForm,
}
