//! Rows out: follows PostgreSQL's logical replication into a sink.
//!
//! ```text
//! replication ─► stream (pgoutput ─► rowbinary ─► batch) ─► flusher ─► sink
//!      ▲            │                                          │
//!      └─ confirmed ┘◄──────────── acknowledged ◄──────────────┘
//! ```
//!
//! One thread reads, decodes and encodes ([`replication`], [`pgoutput`], [`rowbinary`]); flushes run
//! beside it. Rows are decoded in the read buffer and encoded straight into the batch's, so a row
//! costs no allocation and one copy. What is done with what arrives is decided by the state machine
//! in `stream`, which knows no sockets; `receiver` is the thread around it, `source` the way to a
//! running stream, `flusher` the way to the sink, `news` what of all that is said. [`copy`] brings the rows that were there before the
//! stream. [`verify`] proves that everything arrived. `ceiling` is how fast each part can be. `external` is
//! what there is instead of all that where another program takes the consumer's place.

pub mod catalogue;
pub mod clickhouse;
pub mod copy;
pub mod pgoutput;
pub mod replication;
pub mod rowbinary;
pub mod verify;

mod backoff;
mod ceiling;
mod delivery;
mod external;
mod flusher;
mod follow;
mod looks;
mod news;
mod outage;
mod pace;
#[cfg(feature = "planted")]
mod planted;
mod receiver;
mod reconnect;
mod recorder;
mod serve;
mod sink;
mod source;
mod stream;
mod thread;
mod vitals;
mod waker;

pub use ceiling::{BareRead, Measure, Reading, cpu_us, measure, read_bare};
pub use delivery::Delivered;
pub use external::{PROBE_TABLE, ledger_slot};
pub use follow::{Follow, Following, Recent, Total};
pub use news::{News, saying};
pub use serve::{Prepare, serve};
pub use thread::{SlotTrouble, StartError};
