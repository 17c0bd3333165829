//! Rows in: one producer process, which writes generated rows into PostgreSQL when they are due.
//!
//! - [`prepare`]: what the orchestrator tells a producer, and what the producer leaves behind.
//! - [`serve()`]: the process's whole life, from the first message to the last.
//! - [`connect()`]: a connection from an address; for the orchestrator's own connections too.
//! - [`workload`]: tables, and rows that are a function of their number.
//! - [`mod@write`]: a transaction on the wire.
//!
//! ```text
//! serve ── phase ──► connection ×N, an OS thread each ── batch ──► write ──► PostgreSQL
//!   ▲                     │                                          │
//!   └─ samples, ledger ── crew, recorder ◄──────── outcome ──────────┘
//! ```
//!
//! This crate knows nothing of replication or of the consumer.

mod backoff;
pub mod connect;
mod connection;
mod crew;
#[cfg(feature = "planted")]
mod planted;
pub mod prepare;
mod recorder;
mod serve;
mod start;
pub mod workload;
pub mod write;

pub use connect::{Connected, connect, connection_failure};
pub use prepare::{Done, Prepare};
pub use serve::serve;
