//! The source of a run: what is made inside our database before it. It all goes with the database.

use std::path::Path;
use std::time::Duration;

use walbench_consumer::{PROBE_TABLE, ledger_slot};
use walbench_metrics::Failure;
use walbench_phases::Plan;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{Distribution, ReplicaIdentity};
use walbench_producer::workload::{builtin_ddl, quote as quote_identifier};

use super::control::{Control, refused};
use super::{copy_schema, preflight, quote};
use crate::address::given_address;

/// An open writing transaction anywhere on the server holds up the making of a slot; longer than
/// this is somebody who forgot one.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A prepared source.
#[derive(Debug)]
pub(crate) struct Source {
    /// On our database.
    pub(crate) control: Control,
    /// Our database.
    pub(crate) address: PostgresAddress,
    /// One for each consumer.
    pub(crate) slots: Vec<String>,
    /// Their doubles, which nobody reads before the last phase is over; none where no ceilings are
    /// measured.
    pub(crate) ceiling_slots: Vec<String>,
    /// One for each consumer; the same for all that receive all tables.
    pub(crate) publications: Vec<String>,
    /// The server.
    pub(crate) facts: preflight::Facts,
    /// What a reader of the results must know.
    pub(crate) allowances: Vec<String>,
}

impl Source {
    /// Makes everything in our database.
    pub(crate) async fn fill(
        server: &PostgresAddress,
        facts: preflight::Facts,
        plan: &Plan,
        pg_bin: Option<&Path>,
    ) -> Result<Self, Failure> {
        let address = server.with_database(&plan.postgres.database);
        let control = Control::open(&address).await?;
        let mut allowances = Vec::new();
        if let Some(from) = &plan.postgres.schema_from {
            let from = given_address("postgres.schema_from", from)?;
            copy_schema::copy(&from, &address, pg_bin).await?;
            allowances.extend(drop_foreign_keys(&control).await?);
        }
        make_tables(&control, plan).await?;
        if plan.consumer.visible_sql.is_some() {
            make_probe_table(&control).await?;
        }
        let publications = make_publications(&control, plan).await?;
        // Those that hold all the WAL first: they have whatever another one has.
        let slots = slot_names(plan);
        let ceiling_slots = ceiling_slot_names(plan);
        for slot in ledger_slot_names(plan).iter().chain(&slots).chain(&ceiling_slots) {
            make_slot(&control, slot).await?;
        }
        Ok(Self { control, address, slots, ceiling_slots, publications, facts, allowances })
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
}

/// One for each consumer.
pub(crate) fn slot_names(plan: &Plan) -> Vec<String> {
    (0..plan.consumer.processes).map(|n| format!("{}_{n}", plan.postgres.slot)).collect()
}

/// All slots of a plan.
pub(crate) fn all_slot_names(plan: &Plan) -> Vec<String> {
    [slot_names(plan), ceiling_slot_names(plan), ledger_slot_names(plan)].concat()
}

/// One more for each, where ceilings are measured.
fn ceiling_slot_names(plan: &Plan) -> Vec<String> {
    let names = slot_names(plan).into_iter().filter(|_| plan.profiling.ceiling);
    names.map(|slot| format!("{slot}_ceiling")).collect()
}

/// One beside each of them, where they are followed by another program.
fn ledger_slot_names(plan: &Plan) -> Vec<String> {
    match plan.consumer.is_external() {
        true => slot_names(plan).iter().map(|slot| ledger_slot(slot)).collect(),
        false => Vec::new(),
    }
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

/// For rows that tell when they are to be read at the destination.
async fn make_probe_table(control: &Control) -> Result<(), Failure> {
    let sql = format!(
        "CREATE TABLE public.{PROBE_TABLE} \
         (id bigint PRIMARY KEY, written_at timestamptz NOT NULL)"
    );
    control.execute("make the table of probe rows", &sql).await
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
    for (index, (name, mut tables)) in publications.iter().cloned().enumerate() {
        // The first consumer's; where all have the same, everyone's.
        if index == 0 && plan.consumer.visible_sql.is_some() {
            tables.push(format!("public.{PROBE_TABLE}"));
        }
        let sql = format!(
            "CREATE PUBLICATION {} FOR TABLE {}",
            quote_identifier(&name),
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
