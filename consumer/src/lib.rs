//! Rows out: follows PostgreSQL's logical replication into a sink.
//!
//! ```text
//! replication ─► pgoutput ─► rowbinary ─► batch ─► flusher ─► sink
//!      ▲                                              │
//!      └──────────── confirmations ◄──────────────────┘
//! ```
//!
//! One thread reads, decodes and encodes ([`replication`], [`pgoutput`], [`rowbinary`]); flushes run
//! beside it. Rows are decoded in the read buffer and encoded straight into the batch's, so a row
//! costs no allocation and one copy.

pub mod catalogue;
pub mod pgoutput;
pub mod replication;
pub mod rowbinary;

mod batch;
mod confirmations;
mod delivery;
mod flusher;
mod pace;
mod receiver;
mod recorder;
mod serve;
mod sink;
mod waker;

pub use delivery::Delivered;
pub use serve::{Prepare, serve};
