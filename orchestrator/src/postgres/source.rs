//! The source of a run: our database on a server, with tables, publications and slots; made before
//! the run and removed after it.

use std::path::Path;
use std::time::Duration;

use walbench_metrics::Failure;
use walbench_phases::Plan;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{Distribution, ReplicaIdentity};
use walbench_producer::workload::builtin_ddl;

use super::control::{Control, refused};
use super::mark::{self, Ownership};
use super::{copy_schema, preflight, quote, quote_identifier};

/// An open writing transaction anywhere on the server holds up the making of a slot; longer than
/// this is somebody who forgot one.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a slot's walsender may take to notice that its consumer is gone.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A prepared source.
#[derive(Debug)]
pub(crate) struct Source {
    /// On the server's own database: holds the lock on ours while the run lives.
    maintenance: Control,
    /// On our database.
    pub(crate) control: Control,
    /// Our database.
    pub(crate) address: PostgresAddress,
    /// One for each consumer.
    pub(crate) slots: Vec<String>,
    /// One for each consumer; the same for all that receive all tables.
    pub(crate) publications: Vec<String>,
    /// The server.
    pub(crate) facts: preflight::Facts,
    /// What a reader of the results must know.
    pub(crate) allowances: Vec<String>,
    database: String,
}

impl Source {
    /// Checks the server and makes everything. What was made before an error is removed again.
    pub(crate) async fn prepare(
        server: &PostgresAddress,
        plan: &Plan,
        run_id: &str,
        pg_bin: Option<&Path>,
    ) -> Result<Self, Failure> {
        let maintenance = Control::open(server).await?;
        let facts = preflight::check(&maintenance, plan).await?;
        let database = plan.postgres.database.clone();
        lock(&maintenance, &database).await?;
        remove_leftover(&maintenance, &database).await?;
        let slots = slot_names(plan);
        refuse_foreign_slots(&maintenance, &slots).await?;

        create_database(&maintenance, &database, run_id).await?;
        let address = server.with_database(&database);
        let prepared = Self::fill(&address, plan, &slots, pg_bin).await;
        match prepared {
            Ok((control, publications, allowances)) => Ok(Self {
                maintenance,
                control,
                address,
                slots,
                publications,
                facts,
                allowances,
                database,
            }),
            Err(failure) => {
                let _ = drop_database(&maintenance, &database).await;
                Err(failure)
            }
        }
    }

    async fn fill(
        address: &PostgresAddress,
        plan: &Plan,
        slots: &[String],
        pg_bin: Option<&Path>,
    ) -> Result<(Control, Vec<String>, Vec<String>), Failure> {
        let control = Control::open(address).await?;
        let mut allowances = Vec::new();
        if let Some(from) = &plan.postgres.schema_from {
            let from = PostgresAddress::parse(from)
                .map_err(|e| Failure::new("postgres.schema_from can't be used").caused_by(&e))?;
            copy_schema::copy(&from, address, pg_bin).await?;
            allowances.extend(drop_foreign_keys(&control).await?);
        }
        make_tables(&control, plan).await?;
        let publications = make_publications(&control, plan).await?;
        for slot in slots {
            make_slot(&control, slot).await?;
        }
        Ok((control, publications, allowances))
    }

    /// Rows that the tables hold together.
    pub(crate) async fn count_rows(&self, tables: &[String]) -> Result<u64, Failure> {
        let mut rows = 0;
        for table in tables {
            let sql = format!("SELECT count(*) FROM {}", quote_table(table));
            let what = format!("count the rows of {table}");
            let counted: i64 = self.control.value(&what, &sql).await?;
            rows += u64::try_from(counted).unwrap_or_default();
        }
        Ok(rows)
    }

    /// Removes the slots, and the database unless it shall be kept.
    pub(crate) async fn remove(self, keep_database: bool) -> Result<(), Failure> {
        for slot in &self.slots {
            drop_slot(&self.control, slot).await?;
        }
        let Self { maintenance, control, database, .. } = self;
        drop(control);
        if keep_database {
            return Ok(());
        }
        drop_database(&maintenance, &database).await
    }
}

fn slot_names(plan: &Plan) -> Vec<String> {
    (0..plan.consumer.processes).map(|n| format!("{}_{n}", plan.postgres.slot)).collect()
}

/// One run a database: the lock lives as long as the session that took it.
async fn lock(maintenance: &Control, database: &str) -> Result<(), Failure> {
    let sql = lock_sql(database);
    if maintenance.value::<bool>("take walbench's lock", &sql).await? {
        return Ok(());
    }
    Err(Failure::new(format!("another run of walbench is using database \"{database}\""))
        .hint("wait for it, or set another postgres.database and postgres.slot"))
}

pub(crate) fn lock_sql(database: &str) -> String {
    format!("SELECT pg_try_advisory_lock(hashtext('walbench'), hashtext({}))", quote(database))
}

/// What a killed run left of our database is removed; somebody else's is refused.
async fn remove_leftover(maintenance: &Control, database: &str) -> Result<(), Failure> {
    match mark::of_database(&maintenance.client, database).await? {
        Ownership::Absent => Ok(()),
        Ownership::Ours(_) => drop_database(maintenance, database).await,
        Ownership::Foreign => {
            let text = format!(
                "database \"{database}\" at {} was not made by walbench",
                maintenance.address
            );
            Err(Failure::new(text).hint(
                "set postgres.database to a name that is free; to test with your own schema, \
                 name your database in postgres.schema_from",
            ))
        }
    }
}

/// Drops one of our databases with its slots. Nobody who is connected to it is ended.
pub(crate) async fn drop_database(maintenance: &Control, database: &str) -> Result<(), Failure> {
    let sql = "SELECT slot_name::text, active_pid FROM pg_replication_slots WHERE database = $1";
    let slots = maintenance
        .client
        .query(sql, &[&database])
        .await
        .map_err(|e| refused("list the slots", &e))?;
    for slot in slots {
        let name: String = slot.get(0);
        drop_slot(maintenance, &name).await?;
    }
    let sql = format!("DROP DATABASE IF EXISTS {}", quote_identifier(database));
    let deadline = tokio::time::Instant::now() + RELEASE_TIMEOUT;
    loop {
        let dropped = maintenance.client.batch_execute(&sql).await;
        match dropped {
            Ok(()) => return Ok(()),
            // A session of ours that has just been closed may be seen for a moment.
            Err(e) if e.code().is_some_and(|c| c.code() == "55006") => {
                if tokio::time::Instant::now() >= deadline {
                    return Err(refused(&format!("drop database \"{database}\""), &e)
                        .hint("close the sessions that are connected to it"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => return Err(refused(&format!("drop database \"{database}\""), &e)),
        }
    }
}

/// Drops a slot of ours, giving its walsender time to end.
async fn drop_slot(control: &Control, slot: &str) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + RELEASE_TIMEOUT;
    loop {
        let dropped = control.client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await;
        match dropped {
            Ok(_) => return Ok(()),
            Err(e) => match e.code().map(tokio_postgres::error::SqlState::code) {
                Some("42704") => return Ok(()),
                Some("55006") if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => return Err(refused(&format!("drop slot \"{slot}\""), &e)),
            },
        }
    }
}

/// By now every slot of ours went with its database: one of our names that exists is not ours.
async fn refuse_foreign_slots(maintenance: &Control, slots: &[String]) -> Result<(), Failure> {
    let sql = "SELECT slot_name::text, database::text, active_pid FROM pg_replication_slots \
               WHERE slot_name::text = ANY($1)";
    let found = maintenance
        .client
        .query_opt(sql, &[&slots])
        .await
        .map_err(|e| refused("look up the slots", &e))?;
    let Some(slot) = found else { return Ok(()) };
    let (name, database, pid): (String, Option<String>, Option<i32>) =
        (slot.get(0), slot.get(1), slot.get(2));
    let of =
        database.map_or("a physical slot".into(), |d| format!("it belongs to database \"{d}\""));
    let held = pid.map_or(String::new(), |pid| format!(" and is in use by process {pid}"));
    Err(Failure::new(format!("replication slot \"{name}\" was not made by walbench"))
        .because(Failure::new(format!("{of}{held}")))
        .hint("set postgres.slot to another stem; walbench neither takes nor drops this one"))
}

async fn create_database(
    maintenance: &Control,
    database: &str,
    run_id: &str,
) -> Result<(), Failure> {
    let what = format!("create database \"{database}\"");
    let sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'",
        quote_identifier(database)
    );
    maintenance.execute(&what, &sql).await?;
    maintenance.execute("mark the database", &mark::comment(database, run_id)).await
}

/// Generated rows can't satisfy foreign keys of tables that are not filled.
async fn drop_foreign_keys(control: &Control) -> Result<Vec<String>, Failure> {
    let sql = "SELECT conrelid::regclass::text, quote_ident(conname) FROM pg_constraint \
               WHERE contype = 'f' AND conparentid = 0";
    let keys =
        control.client.query(sql, &[]).await.map_err(|e| refused("list the foreign keys", &e))?;
    for key in &keys {
        let (table, name): (&str, &str) = (key.get(0), key.get(1));
        let sql = format!("ALTER TABLE {table} DROP CONSTRAINT {name}");
        control.execute("drop a foreign key of the copied schema", &sql).await?;
    }
    let said = format!("{} foreign keys of the copied schema were left out", keys.len());
    Ok((!keys.is_empty()).then_some(said).into_iter().collect())
}

async fn make_tables(control: &Control, plan: &Plan) -> Result<(), Failure> {
    for table in &plan.producer.tables {
        let exists = exists(control, table).await?;
        if !exists {
            let ddl = builtin_ddl(table).ok_or_else(|| no_such_table(table, plan))?;
            control.execute(&format!("make table {table}"), ddl).await?;
        }
        let identity = match plan.postgres.replica_identity {
            ReplicaIdentity::Default => "DEFAULT",
            ReplicaIdentity::Full => "FULL",
            ReplicaIdentity::Nothing => "NOTHING",
        };
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY {identity}", quote_table(table));
        control.execute(&format!("set the replica identity of {table}"), &sql).await?;
    }
    Ok(())
}

async fn exists(control: &Control, table: &str) -> Result<bool, Failure> {
    let sql = format!("SELECT to_regclass({}) IS NOT NULL", quote(&quote_table(table)));
    control.value("look up a table", &sql).await
}

fn no_such_table(table: &str, plan: &Plan) -> Failure {
    let failure = Failure::new(format!("producer.tables names \"{table}\", which does not exist"));
    failure.hint(match plan.postgres.schema_from {
        Some(_) => "name a table of the copied schema, with its schema unless that is public",
        None => "built-in tables are task_run and event; for your own, set postgres.schema_from",
    })
}

/// `schema.table`, or a table in `public`.
fn quote_table(table: &str) -> String {
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    format!("{}.{}", quote_identifier(schema), quote_identifier(name))
}

/// One publication of all tables, or one for each consumer with its share of them.
async fn make_publications(control: &Control, plan: &Plan) -> Result<Vec<String>, Failure> {
    let consumers = plan.consumer.processes as usize;
    let stem = &plan.postgres.publication;
    let tables: Vec<String> = plan.producer.tables.iter().map(|t| quote_table(t)).collect();
    let publications: Vec<(String, Vec<String>)> = match plan.consumer.distribution {
        Distribution::All => vec![(stem.clone(), tables)],
        Distribution::Divided => (0..consumers)
            .map(|n| {
                let share = tables.iter().skip(n).step_by(consumers).cloned().collect();
                (format!("{stem}_{n}"), share)
            })
            .collect(),
    };
    for (name, tables) in &publications {
        let sql = format!(
            "CREATE PUBLICATION {} FOR TABLE {}",
            quote_identifier(name),
            tables.join(", ")
        );
        control.execute(&format!("make publication \"{name}\""), &sql).await?;
    }
    let names = publications.into_iter().map(|(name, _)| name);
    Ok(names.cycle().take(consumers).collect())
}

async fn make_slot(control: &Control, slot: &str) -> Result<(), Failure> {
    let what = format!("make slot \"{slot}\"");
    let timeout = format!("SET statement_timeout = {}", SLOT_TIMEOUT.as_millis());
    control.execute(&what, &timeout).await?;
    let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    let made = control.client.execute(sql, &[&slot]).await;
    control.execute(&what, "RESET statement_timeout").await?;
    made.map(drop).map_err(|e| match e.code().map(tokio_postgres::error::SqlState::code) {
        Some("57014") => Failure::new(format!("slot \"{slot}\" could not be made in time")).hint(
            "an open transaction that has written holds it up: look for one in pg_stat_activity \
             (state 'idle in transaction')",
        ),
        _ => refused(&what, &e),
    })
}
