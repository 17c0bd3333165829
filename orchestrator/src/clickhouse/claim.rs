//! Our claim on a ClickHouse server that is not ours: a database with our mark, which is a table in
//! it that says whose it is.

use std::sync::Arc;

use walbench_consumer::clickhouse::client::Clients;
use walbench_consumer::clickhouse::ddl::{quote_name, quote_string};
use walbench_consumer::clickhouse::error::ClickhouseError;
use walbench_metrics::Failure;

/// The table that marks a database as ours.
const MARK: &str = "_walbench_run";

/// Our database on a server.
#[derive(Debug)]
pub(crate) struct Claim {
    clients: Arc<Clients>,
    database: String,
    cluster: Option<String>,
    run_id: String,
}

/// Whose a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) run_id: String,
    machine: String,
    pid: u32,
    pub(crate) kept: bool,
}

/// Whether a holder's run is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Dead,
    /// It runs, or ran, on another machine.
    Elsewhere,
}

impl Holder {
    fn here(run_id: &str) -> Self {
        let (machine, pid) = (machine(), std::process::id());
        Self { run_id: run_id.into(), machine, pid, kept: false }
    }

    pub(crate) fn life(&self) -> Life {
        if self.machine != machine() {
            return Life::Elsewhere;
        }
        match std::fs::read_to_string(format!("/proc/{}/comm", self.pid)) {
            Ok(name) if name.trim() == "walbench" => Life::Alive,
            _ => Life::Dead,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut next = || fields.next().map(str::to_owned);
        let (run_id, machine) = (next()?, next()?);
        let (pid, kept) = (next()?.parse().ok()?, next()? == "1");
        Some(Self { run_id, machine, pid, kept })
    }
}

/// Which machine this is, among those that a server is reached from.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let known = ["/etc/machine-id", "/proc/sys/kernel/hostname"].into_iter().find_map(read);
    // A name with a tab in it would not be read again as it was written.
    known.unwrap_or_default().replace(char::is_whitespace, "")
}

impl Claim {
    /// Makes our database, where nothing of somebody else's and no living run of ours is; what a
    /// killed run left there is removed before.
    pub(crate) async fn make(
        clients: &Arc<Clients>,
        database: &str,
        cluster: Option<&str>,
        run_id: &str,
    ) -> Result<Self, Failure> {
        let claim = Self {
            clients: clients.clone(),
            database: database.into(),
            cluster: cluster.map(str::to_owned),
            run_id: run_id.into(),
        };
        if exists(clients, database).await? {
            may_be_removed(clients, database).await?;
            claim.drop().await?;
        }
        let create = format!("CREATE DATABASE {}{}", quote_name(database), claim.on_cluster());
        claim.execute(&create, "make").await?;
        match claim.mark().await {
            Ok(()) => Ok(claim),
            Err(failure) => {
                // Ours for certain, because it was made a moment ago; without the mark nobody
                // would know it later.
                claim.drop().await?;
                Err(failure)
            }
        }
    }

    async fn mark(&self) -> Result<(), Failure> {
        let table = format!("{}.{}", quote_name(&self.database), quote_name(MARK));
        let columns = "run_id String, machine String, pid UInt32, kept UInt8";
        let create =
            format!("CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY tuple()");
        self.execute(&create, "mark").await?;
        self.hold(&Holder::here(&self.run_id)).await
    }

    async fn hold(&self, holder: &Holder) -> Result<(), Failure> {
        let insert = format!(
            "INSERT INTO {}.{} VALUES ({}, {}, {}, {})",
            quote_name(&self.database),
            quote_name(MARK),
            quote_string(&holder.run_id),
            quote_string(&holder.machine),
            holder.pid,
            u8::from(holder.kept)
        );
        self.execute(&insert, "mark").await
    }

    /// Removes the database; one that is kept is marked so.
    pub(crate) async fn release(self, keep: bool) -> Result<(), Failure> {
        if keep {
            return self.hold(&Holder { kept: true, ..Holder::here(&self.run_id) }).await;
        }
        self.drop().await
    }

    async fn drop(&self) -> Result<(), Failure> {
        let name = quote_name(&self.database);
        let sql = format!("DROP DATABASE IF EXISTS {name}{}", self.on_cluster());
        self.execute(&sql, "drop").await
    }

    fn on_cluster(&self) -> String {
        let on = |cluster: &String| format!(" ON CLUSTER {}", quote_name(cluster));
        self.cluster.as_ref().map(on).unwrap_or_default()
    }

    async fn execute(&self, sql: &str, what: &str) -> Result<(), Failure> {
        let done = self.clients.next().execute(sql).await;
        done.map_err(|e| refused(&e, &format!("{what} database \"{}\"", self.database)))
    }
}

/// Every database with our mark, and its holder.
pub(crate) async fn all(clients: &Clients) -> Result<Vec<(String, Holder)>, Failure> {
    let what = "list its databases";
    let sql = format!("SELECT database FROM system.tables WHERE name = {}", quote_string(MARK));
    let names = clients.next().text(&sql).await.map_err(|e| refused(&e, what))?;
    let mut found = Vec::new();
    for name in names.lines() {
        found.extend(holder(clients, name).await?.map(|holder| (name.to_owned(), holder)));
    }
    Ok(found)
}

/// Drops a database with our mark, on the server alone that is asked.
pub(crate) async fn drop_marked(clients: &Clients, database: &str) -> Result<(), Failure> {
    let sql = format!("DROP DATABASE IF EXISTS {}", quote_name(database));
    let what = format!("drop database \"{database}\"");
    clients.next().execute(&sql).await.map_err(|e| refused(&e, &what))
}

async fn exists(clients: &Clients, database: &str) -> Result<bool, Failure> {
    let name = quote_string(database);
    let sql = format!("SELECT count() FROM system.databases WHERE name = {name}");
    let count = clients.next().text(&sql).await;
    Ok(count.map_err(|e| refused(&e, "list its databases"))? != "0")
}

async fn holder(clients: &Clients, database: &str) -> Result<Option<Holder>, Failure> {
    let what = format!("say whose database \"{database}\" is");
    let count = format!(
        "SELECT count() FROM system.tables WHERE database = {} AND name = {}",
        quote_string(database),
        quote_string(MARK)
    );
    if clients.next().text(&count).await.map_err(|e| refused(&e, &what))? == "0" {
        return Ok(None);
    }
    let sql = format!(
        "SELECT run_id, machine, pid, kept FROM {}.{} ORDER BY kept DESC LIMIT 1",
        quote_name(database),
        quote_name(MARK)
    );
    let line = clients.next().text(&sql).await.map_err(|e| refused(&e, &what))?;
    // A run that was killed between the two statements of marking it.
    let nobody = Holder { run_id: "?".into(), machine: machine(), pid: 0, kept: false };
    Ok(Some(Holder::parse(&line).unwrap_or(nobody)))
}

async fn may_be_removed(clients: &Clients, database: &str) -> Result<(), Failure> {
    let elsewhere = "set another clickhouse.database";
    let Some(holder) = holder(clients, database).await? else {
        let text = format!("database \"{database}\" in ClickHouse was not made by walbench");
        return Err(Failure::new(text).hint(format!(
            "{elsewhere}; walbench makes it, and drops it after the run unless --keep is given"
        )));
    };
    let whose = format!("database \"{database}\" in ClickHouse");
    let drop = format!("drop this one when it is no longer needed: DROP DATABASE {database}");
    match holder.life() {
        _ if holder.kept => Err(Failure::new(format!("{whose} was kept by run {}", holder.run_id))
            .hint(format!("{elsewhere}, or {drop}"))),
        Life::Alive => Err(Failure::new(format!("{whose} is in use by run {}", holder.run_id))
            .hint(format!("wait for it, or {elsewhere}"))),
        Life::Elsewhere => {
            let text = format!("{whose} belongs to run {} on another machine", holder.run_id);
            Err(Failure::new(text).hint(format!("{elsewhere}, or {drop}")))
        }
        Life::Dead => Ok(()),
    }
}

fn refused(error: &ClickhouseError, what: &str) -> Failure {
    error.failure(&format!("ClickHouse did not {what}"))
}
