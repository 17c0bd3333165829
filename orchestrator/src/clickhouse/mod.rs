//! A private ClickHouse: found, started, kept and removed by walbench. Either a server binary, or
//! the engine as a library behind walbench's own HTTP front. Or a mock of one.

pub(crate) mod account;
pub(crate) mod alone;
pub(crate) mod binaries;
pub(crate) mod claim;
pub(crate) mod destination;
pub(crate) mod keeper;
pub(crate) mod managed;
pub(crate) mod mock;
pub(crate) mod mock_worker;
pub(crate) mod private;

mod config;
mod embedded;
mod serve;
mod setup;

pub(crate) use serve::serve;
pub(crate) use setup::setup;
