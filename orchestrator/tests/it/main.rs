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
mod stored;
mod turns;
#[allow(dead_code, reason = "why a value is refused is for the consumer's tests")]
#[path = "../../../consumer/tests/it/type_values.rs"]
mod type_values;

mod arrows;
mod bad_inserts;
mod bad_plans;
mod ceiling;
mod changes;
mod clean;
mod clickhouse;
mod columns;
mod doctor;
mod external;
mod first_run;
mod follow;
mod full_stack;
mod heaps;
mod initial_copy;
mod interrupts;
mod into_clickhouse;
mod kills;
mod load;
mod losses;
mod mock_clickhouse;
mod outages;
mod plans;
mod profiling;
mod refusals;
mod trouble;
mod variations;
mod verdicts;
mod verify;
