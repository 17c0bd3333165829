//! The binary as its users meet it: real runs against real PostgreSQL servers.
//!
//! These tests need PostgreSQL's programs (initdb, postgres, pg_recvlogical) and fail without them.
//! They are run in release (`cargo test --release`), because they drive real rates.
#![allow(clippy::unwrap_used, reason = "a test that can't go on shall panic")]

#[path = "../../../producer/tests/it/cluster.rs"]
mod cluster;
#[path = "../../../consumer/tests/it/database.rs"]
mod database;
mod folder;
mod followed;
mod home;
mod processes;
#[path = "../../../consumer/tests/it/reader.rs"]
mod reader;
mod server;
mod turns;

mod arrows;
mod bad_plans;
mod changes;
mod clean;
mod columns;
mod first_run;
mod follow;
mod initial_copy;
mod interrupts;
mod kills;
mod load;
mod losses;
mod plans;
mod refusals;
mod trouble;
mod variations;
mod verdicts;
