//! A private ClickHouse as the rest of walbench sees it: started, reached by its URL, stopped.

use std::time::Duration;

use walbench_metrics::Failure;

use super::alone::Alone;
use super::binaries::{self, Named, Program};
use super::private::PrivateClickHouse;
use crate::cli::ClickHouseProgramArgs;
use crate::worker::{CLICKHOUSE_KEEPER, Start};

/// A stop in order, with a folder that takes a while to remove.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// A private ClickHouse that runs. If it is dropped, or we are ended, it ends as well.
pub(crate) struct Managed {
    /// How to reach it, user and password included.
    pub(crate) url: String,
    /// What it is, for a report: `ClickHouse 18.16.1, private (/usr/bin/clickhouse-server)`.
    pub(crate) description: String,
    keeper: Alone,
}

impl Managed {
    /// Starts one, and waits until it answers. Its keeper says what it says where we do.
    pub(crate) async fn start(program: Program, keep: bool) -> Result<Self, Failure> {
        let server = PrivateClickHouse::new(program, keep);
        let start = Start { name: "clickhouse", role: CLICKHOUSE_KEEPER, ..Start::default() };
        let keeper = Alone::start(start, &server).await?;
        let found = server.found().await;
        let found = found.map_err(|e| keeper.worker.failed("does not answer").caused_by(&e))?;
        let description = format!("ClickHouse {}, {}", found.version, server.program);
        Ok(Self { url: found.url, description, keeper })
    }

    /// Waits until it fails by itself.
    pub(crate) async fn failed(&mut self) -> Failure {
        self.keeper.failed().await
    }

    /// Lets running queries end, stops it and removes its folder.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.keeper.stop("the private ClickHouse", STOP_TIMEOUT).await
    }
}

/// What is named or here, else the embedded engine, got as `walbench setup` gets it.
pub(crate) fn program(args: &ClickHouseProgramArgs) -> Result<Program, Failure> {
    let named = Named { server: args.clickhouse_bin.as_deref(), library: args.chdb_lib.as_deref() };
    match binaries::find(named)? {
        Some(program) => Ok(program),
        None => super::setup::get_library().map(Program::Library),
    }
}
