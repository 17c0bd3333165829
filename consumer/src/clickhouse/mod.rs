//! ClickHouse, from both sides of its HTTP interface.
//!
//! Of who writes:
//!
//! - [`destination`]: batches into tables that fit.
//! - [`ddl`], [`kind`] and [`fit`]: tables as SQL, what their columns hold, and what makes an older one
//!   fit; [`convert`]: rows for one that is wider.
//! - [`client`], [`error`], [`version`]: the way there, what a refusal means, what a server has.
//!
//! Of a server, as a private engine or a mock is served through it:
//!
//! - [`front`]: the HTTP server, over an [`front::Engine`].
//! - [`blocks`]: ClickHouse's compressed blocks, read.
//! - [`statement`]: where an INSERT's data begin.
//! - [`column_type`]: ClickHouse's types, by their names.
//! - [`exception`]: ClickHouse's errors.
//! - [`mock`]: a server that checks what it is sent, keeps it, and goes wrong when it is told to.

pub mod blocks;
pub mod column_type;
pub mod exception;
pub mod front;
pub mod mock;
pub mod statement;
mod token;

pub mod client;
pub mod convert;
pub mod ddl;
pub(crate) mod destination;
pub mod error;
pub mod fit;
mod halving;
pub mod kind;
mod marks;
mod rejects;
pub mod settings;
pub mod version;

pub use destination::Description;
pub use exception::Exception;
