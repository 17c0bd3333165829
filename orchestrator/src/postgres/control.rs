//! Connections of the orchestrator's own, for everything but rows.

use tokio_postgres::Client;
use walbench_metrics::Failure;
use walbench_metrics::clock::{ClockOffset, POSTGRES_EPOCH_US, Probe, wall_us};
use walbench_phases::address::PostgresAddress;
use walbench_producer::{connect, connection_failure};

/// What the orchestrator's sessions are called.
const APPLICATION_NAME: &str = "walbench";

const CLOCK_PROBES: usize = 8;

/// A session of the orchestrator.
#[derive(Debug)]
pub(crate) struct Control {
    /// The session.
    pub(crate) client: Client,
    /// Where it is.
    pub(crate) address: PostgresAddress,
}

impl Control {
    /// Opens a session.
    pub(crate) async fn open(address: &PostgresAddress) -> Result<Self, Failure> {
        let connected = connect(address, APPLICATION_NAME)
            .await
            .map_err(|e| connection_failure(address, &e))?;
        Ok(Self { client: connected.client, address: address.clone() })
    }

    /// Runs statements without parameters.
    pub(crate) async fn execute(&self, what: &str, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|e| refused(what, &e))
    }

    /// One value of one row of one column.
    pub(crate) async fn value<T>(&self, what: &str, sql: &str) -> Result<T, Failure>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let row = self.client.query_one(sql, &[]).await.map_err(|e| refused(what, &e))?;
        row.try_get(0).map_err(|e| refused(what, &e))
    }

    /// The server's clock against ours.
    pub(crate) async fn clock(&self) -> Result<ClockOffset, Failure> {
        let what = "read the server's clock";
        let sql = "SELECT (extract(epoch FROM clock_timestamp() - timestamptz '2000-01-01 00:00+00') \
                   * 1000000)::bigint";
        let statement = self.client.prepare(sql).await.map_err(|e| refused(what, &e))?;
        let mut probes = Vec::new();
        for _ in 0..CLOCK_PROBES {
            let sent_us = wall_us();
            let row =
                self.client.query_one(&statement, &[]).await.map_err(|e| refused(what, &e))?;
            let theirs: i64 = row.try_get(0).map_err(|e| refused(what, &e))?;
            let theirs_us = theirs + POSTGRES_EPOCH_US;
            probes.push(Probe { sent_us, theirs_us, received_us: wall_us() });
        }
        ClockOffset::from_probes(probes)
            .ok_or_else(|| Failure::new("the clock stepped back while it was compared"))
    }
}

/// A statement that did not work.
pub(crate) fn refused(what: &str, error: &tokio_postgres::Error) -> Failure {
    let failure = Failure::new(format!("PostgreSQL can't {what}"));
    match error.as_db_error() {
        Some(db) => {
            let text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
            let cause = Failure::new(match db.detail() {
                Some(detail) => format!("{text}: {detail}"),
                None => text,
            });
            let failure = failure.because(cause);
            match db.hint() {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        }
        None => failure.caused_by(error),
    }
}
