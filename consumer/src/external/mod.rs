//! Any other program in the consumer's place: what it does is seen from outside.
//!
//! ```text
//! slot ──── where it is confirmed, 100 times a second ───┐
//!                                                        ▼
//! ledger ── the same changes by a second slot ─────► reckoning ─► samples, what was delivered
//!                                                        ▲
//! probe ─── which probe row is to be read in ClickHouse ─┘
//! ```
//!
//! The second slot is not read before the phase is over, so that it costs nothing while there is
//! something to be measured. Then every transaction is held against the moment from which on
//! PostgreSQL would not have sent it again.

mod command;
mod keeper;
mod ledger;
mod probe;
mod reckoning;
mod slot;

pub(crate) use keeper::converse;
pub use ledger::ledger_slot;
pub use probe::PROBE_TABLE;
