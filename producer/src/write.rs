//! A transaction on the wire.
//!
//! ```text
//! BEGIN ─ stamp ─ insert ─ update ─ COMMIT      sent together, answered together: one round trip
//! ```
//!
//! - [`batch`]: the rows of a transaction, encoded.
//! - [`statements`]: the SQL of a table.
//! - [`session`]: a connection with its statements prepared, and a transaction over it.
//! - [`attempt`]: what the answers mean.

pub mod attempt;
pub mod batch;
mod encoded;
pub mod session;
pub mod statements;
