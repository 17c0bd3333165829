//! The consumer against a real PostgreSQL server. Without one these tests fail.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../../../producer/tests/it/cluster.rs"]
mod cluster;
mod database;
mod initial_copy;
mod logins;
mod protocol;
mod reader;
mod rows;
mod session;
mod slots;
mod type_values;
mod types;
mod worker;
