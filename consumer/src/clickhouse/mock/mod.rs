//! A mock ClickHouse server: it speaks enough of ClickHouse's HTTP interface for a sink and for a
//! curious user, checks every block byte for byte, keeps each key's newest version for the proof, and
//! goes wrong when and as it is told to.
//!
//! ```text
//! front ─► engine ─┬─► parse ─► databases ─► table ─► rows        what is kept
//!                  ├─► insert ─┬─► check                           what blocks are made of
//!                  │           └─► fate ◄─ faults of the plan      what goes wrong
//!                  └─► select                                      what is there
//! ```
//!
//! Pure: [`parse`], [`condition`], [`check`], [`fate`], and how values are converted and shown.

pub mod check;
pub mod condition;
pub mod fate;
pub mod parse;

mod convert;
mod counters;
mod databases;
mod engine;
mod insert;
mod pace;
mod rows;
mod running;
mod select;
mod server;
mod table;
mod text;

#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use engine::{Mock, MockEngine, Options, VERSION};
pub use server::{ReservedPort, serve};
