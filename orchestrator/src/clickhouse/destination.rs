//! The ClickHouse that a run writes into.

use std::sync::Arc;

use walbench_consumer::clickhouse::client::Clients;
use walbench_consumer::clickhouse::settings::insert_settings;
use walbench_metrics::Failure;
use walbench_phases::Plan;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_results::environment::Server;

use super::claim::Claim;

/// A ClickHouse that is reached, and what of it is ours.
#[derive(Debug)]
pub(crate) struct Destination {
    /// How to reach it, the database of the run included.
    pub(crate) address: ClickhouseAddress,
    pub(crate) clients: Arc<Clients>,
    /// What it is, for `environment.json`.
    pub(crate) server: Server,
    /// Absent for a private one, which is ours as a whole.
    claim: Option<Claim>,
}

impl Destination {
    /// Finds out what answers there.
    ///
    /// # Errors
    /// Nothing does, or no ClickHouse.
    pub(crate) async fn reach(
        mut address: ClickhouseAddress,
        plan: &Plan,
        private: Option<String>,
    ) -> Result<Self, Failure> {
        address.database.get_or_insert_with(|| plan.clickhouse.database.clone());
        let clients = Arc::new(Clients::new(&address)?);
        let refused = format!("ClickHouse at {address} can't be used");
        let (known, version) = clients.version().await.map_err(|e| e.failure(&refused))?;
        let managed = private.is_some();
        let mut settings = address.settings.clone();
        settings.extend(insert_settings(known, &plan.clickhouse.settings));
        let (name, description) = ("ClickHouse".into(), private);
        let server = Server { name, version, settings, managed, description };
        Ok(Self { address, clients, server, claim: None })
    }

    /// Makes the run's database on a server that is not ours.
    pub(crate) async fn claim(&mut self, plan: &Plan, run_id: &str) -> Result<(), Failure> {
        let cluster = plan.clickhouse.cluster.as_deref();
        let claim = Claim::make(&self.clients, self.database(), cluster, run_id).await?;
        self.claim = Some(claim);
        Ok(())
    }

    /// The database of the run.
    pub(crate) fn database(&self) -> &str {
        self.address.database.as_deref().unwrap_or("default")
    }

    /// Removes what of it is ours.
    pub(crate) async fn release(self, keep: bool) -> Result<(), Failure> {
        match self.claim {
            Some(claim) => claim.release(keep).await,
            None => Ok(()),
        }
    }
}
