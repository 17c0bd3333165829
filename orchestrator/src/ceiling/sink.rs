//! Where a sink's ceiling is measured: beside what others have there.

use std::sync::Arc;

use walbench_consumer::clickhouse::client::Clients;
use walbench_metrics::Failure;
use walbench_phases::Plan;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::plan::Clickhouse;

use crate::address::given_clickhouse;
use crate::clickhouse::claim::Claim;
use crate::clickhouse::mock::MockClickHouse;

/// A database or a mock server of our own.
pub(crate) struct CeilingSink {
    /// What it is, for a sentence.
    pub(crate) name: &'static str,
    /// How to reach it and write into it.
    pub(crate) place: (ClickhouseAddress, Clickhouse),
    ours: Ours,
}

/// What of it is to be removed.
enum Ours {
    Database(Claim),
    Mock(Box<MockClickHouse>),
}

impl CeilingSink {
    /// A database beside the one that an address or a plan names, with our mark.
    pub(crate) async fn clickhouse(
        mut address: ClickhouseAddress,
        plan: &Clickhouse,
        run_id: &str,
    ) -> Result<Self, Failure> {
        let beside = address.database.as_ref().unwrap_or(&plan.database);
        let database = format!("{beside}_ceiling");
        let clients = Arc::new(Clients::new(&address)?);
        let refused = format!("ClickHouse at {address} can't be used");
        clients.version().await.map_err(|e| e.failure(&refused))?;
        let claim = Claim::make(&clients, &database, plan.cluster.as_deref(), run_id).await?;
        address.database = Some(database);
        // Bad rows are told of by whoever follows.
        let plan = Clickhouse { bad_rows_file: None, ..plan.clone() };
        Ok(Self { name: "ClickHouse", place: (address, plan), ours: Ours::Database(claim) })
    }

    /// A mock server as the plan has it, to which nothing happens.
    pub(crate) async fn mock(plan: &Plan) -> Result<Self, Failure> {
        let mut plan = plan.clone();
        plan.clickhouse.mock.faults.clear();
        let mock = MockClickHouse::start(&plan, 0).await?;
        let address = given_clickhouse("the mock's URL", &mock.place.url)?;
        let place = (address, plan.clickhouse);
        Ok(Self {
            name: "a mock ClickHouse without faults",
            place,
            ours: Ours::Mock(Box::new(mock)),
        })
    }

    /// Removes what of it is ours.
    pub(crate) async fn remove(self) -> Result<(), Failure> {
        match self.ours {
            Ours::Database(claim) => claim.release(false).await,
            Ours::Mock(mock) => mock.stop().await.map(drop),
        }
    }
}
