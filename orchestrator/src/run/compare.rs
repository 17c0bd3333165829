//! What ClickHouse's tables hold in the end, against PostgreSQL's.

use std::collections::BTreeSet;
use std::time::Duration;

use walbench_consumer::verify::{Options, TableVerified, verify};
use walbench_results::destination::{Destination, DestinationTable};
use walbench_results::outcome::DrainVerdict;

use super::Run;
use crate::event::Stop;
use crate::verify::in_a_line;

/// Comparing reads all tables on both sides.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Run {
    /// Compares every table, row by row, if that is asked for; `None` where there is no ClickHouse.
    pub(super) async fn compare(&self) -> Option<Destination> {
        self.destination.as_ref()?;
        let set_aside = self.rows_put_aside();
        let mut compared = Destination { set_aside, ..Destination::default() };
        // The tables of another program are what it makes them.
        if self.plan.clickhouse.verify && !self.plan.consumer.is_external() {
            match self.compare_tables().await {
                Ok(tables) => compared.tables = tables,
                Err(problem) => compared.problem = Some(problem),
            }
        }
        Some(compared)
    }

    async fn compare_tables(&self) -> Result<Vec<DestinationTable>, String> {
        let (Some(source), Some(destination)) = (&self.source, &self.destination) else {
            return Err("there is nothing to compare".into());
        };
        let is_on_its_way =
            |drain| matches!(drain, DrainVerdict::Interrupted | DrainVerdict::TimedOut);
        if self.phases.iter().any(|phase| is_on_its_way(phase.drain)) {
            return Err("rows were still on their way when the run was ended".into());
        }
        self.live.step("comparing ClickHouse with PostgreSQL");
        let options = Options { consumer: self.plan.consumer.clone(), ..Options::default() };
        let publications: BTreeSet<&String> = source.publications.iter().collect();
        let mut tables = Vec::new();
        for publication in publications {
            let comparing = async {
                let (address, database) = (&destination.address, destination.database());
                let verified = verify(&source.address, publication, address, database, &options);
                verified.await.map_err(|error| error.failure)
            };
            let signals = self.interrupts + 1;
            let (who, what) = ("ClickHouse", "let its rows be compared");
            let compared =
                self.patience.wait_for(who, what, COMPARE_TIMEOUT, signals, comparing).await;
            tables.extend(compared.map_err(|stop| because(&stop))?.tables.iter().map(table));
        }
        Ok(tables)
    }

    /// Rows that ClickHouse did not take, over all phases and windows.
    fn rows_put_aside(&self) -> u64 {
        let phases = (0..).map_while(|phase| self.tally.phase(phase));
        phases.flat_map(|phase| phase.consumers.values()).map(|c| c.counts.rejected_rows).sum()
    }
}

fn because(stop: &Stop) -> String {
    match stop {
        Stop::Failed(failure) => failure.line(),
        Stop::Interrupted => "the run was ended".into(),
    }
}

fn table(verified: &TableVerified) -> DestinationTable {
    let counts = verified.counts;
    let problem = verified.problem.iter().cloned();
    let columns = verified.columns.iter().map(|c| format!("column {}: {}", c.column, c.problem));
    let findings = verified.findings.iter().map(in_a_line);
    DestinationTable {
        table: verified.table.clone(),
        source_rows: counts.postgres_rows,
        rows: counts.clickhouse_rows,
        final_rows: verified.final_rows,
        stored_versions: counts.stored_versions,
        missing: counts.missing,
        extra: counts.extra,
        stale: counts.stale,
        wrong: counts.wrong,
        conflicting: counts.conflicting,
        duplicated: counts.duplicated,
        columns_not_compared: verified.columns.len() as u64,
        findings: problem.chain(columns).chain(findings).collect(),
    }
}
