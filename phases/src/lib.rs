//! What shall happen: the plan, its validation and the open-loop schedule.
//!
//! - [`plan`]: every section and key of a plan file, with its default and its bounds.
//! - [`load()`]: from TOML text, variables and overrides to a valid [`Plan`], or to every problem.
//! - [`builtin`]: the plans that come with walbench.
//! - [`schedule`]: when each transaction is due.
//! - [`threshold`]: expressions that must hold in every phase.
//! - [`command`]: what a command in the consumer's place may ask for.
//! - [`address`] and [`tls`]: where PostgreSQL is and how the way there is encrypted; [`clickhouse`]:
//!   the same of ClickHouse.
//!
//! This crate starts nothing and connects to nothing.

pub mod address;
pub mod builtin;
pub mod clickhouse;
pub mod command;
mod draft;
mod env;
pub mod faults;
mod hint;
mod interpolate;
mod key;
mod load;
mod overrides;
mod password_file;
pub mod plan;
mod problem;
pub mod schedule;
mod schema;
mod structure;
pub mod threshold;
pub mod tls;
mod url;
mod validate;
mod write;

pub use env::Env;
pub use load::{Override, Source, find, load, load_file};
pub use plan::Plan;
pub use problem::{Place, PlanError, Problem};
pub use schema::schema;
