//! Rows in: one producer process, which writes generated rows into PostgreSQL when they are due.
//!
//! - [`prepare`]: what the orchestrator tells a producer, and what the producer leaves behind.
//! - [`serve()`]: the process's whole life, from the first message to the last.
//! - [`connect()`]: a connection from an address; for the orchestrator's own connections too.
//! - [`workload`]: tables, and rows that are a function of their number.
//! - [`write`]: a transaction on the wire.
//!
//! ```text
//! serve ── phase start ──► pace ×connections ── batch ──► write ──► PostgreSQL
//!   ▲                       │  (an OS thread each)          │
//!   └── samples, ledger ────┴──── recorder ◄── outcome ─────┘
//! ```
//!
//! This crate knows nothing of replication or of the consumer.

pub mod connect;
pub mod prepare;
mod serve;
pub mod workload;
pub mod write;

pub use connect::{Connected, connect, connection_failure};
pub use prepare::{Done, Prepare};
pub use serve::serve;
