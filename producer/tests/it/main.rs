//! A producer against a real PostgreSQL server.
#![allow(clippy::unwrap_used, reason = "a test that can't go on shall panic")]

mod cluster;
mod database;
mod logins;
mod session;
mod tables;
mod trouble;
mod worker;
