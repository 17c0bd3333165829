//! Why a value can't be written.

use thiserror::Error;

/// Why a value can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unencodable {
    /// It is not in its type's text form.
    #[error("it is not in the text form of its type")]
    Malformed,
    /// ClickHouse's type has no room for it.
    #[error("ClickHouse's type can't hold it")]
    OutOfRange,
    /// An array of more than one dimension.
    #[error("it is an array of more than one dimension")]
    Dimensions,
}
