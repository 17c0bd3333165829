//! Our claim on a server: a database with our mark, held by a lock while the run lives.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use walbench_metrics::Failure;
use walbench_producer::workload::quote as quote_identifier;

use super::control::{Control, refused};
use super::mark::{self, Ownership};
use super::quote;

/// How long a session that has just been closed may be seen still, or a slot be held.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that went away in mid-run has this long to come back before we leave without cleaning
/// up.
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

/// Our database on a server.
#[derive(Debug)]
pub(crate) struct Claim {
    /// On the server's own database: its session holds the lock.
    maintenance: Control,
    database: String,
    run_id: String,
}

/// Checks that nothing of somebody else's, and no living run of ours, stands where we want to be;
/// removes what a killed run left there.
pub(crate) async fn clear_the_way(
    maintenance: &Control,
    database: &str,
    slots: &[String],
) -> Result<(), Failure> {
    lock(maintenance, database).await?;
    remove_leftover(maintenance, database).await?;
    refuse_foreign_slots(maintenance, slots).await
}

impl Claim {
    /// Makes our database, and marks it.
    pub(crate) async fn make(
        maintenance: Control,
        database: &str,
        run_id: &str,
    ) -> Result<Self, Failure> {
        let quoted = quote_identifier(database);
        let sql = format!("CREATE DATABASE {quoted} TEMPLATE template0 ENCODING 'UTF8'");
        maintenance.execute(&format!("create database \"{database}\""), &sql).await?;
        let comment = mark::comment(database, run_id, false);
        if let Err(failure) = maintenance.execute("mark the database", &comment).await {
            // Ours for certain, because it was made a moment ago; without the mark nobody would
            // know it later.
            let sql = format!("DROP DATABASE {quoted}");
            maintenance.execute("drop the database again", &sql).await?;
            return Err(failure);
        }
        Ok(Self { maintenance, database: database.into(), run_id: run_id.into() })
    }

    /// Removes the database with its slots; of one that is kept, only the slots.
    ///
    /// The server may have been restarted, or have ended our idle session: then this is done over
    /// a new one, when it is back.
    pub(crate) async fn release(self, keep: bool) -> Result<(), Failure> {
        let Err(mut failure) = self.try_release(&self.maintenance, keep).await else {
            return Ok(());
        };
        let deadline = Instant::now() + RETURN_TIMEOUT;
        while self.maintenance.client.is_closed() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(200)).await;
            match self.release_anew(keep).await {
                Ok(()) => return Ok(()),
                Err(again) => failure = again,
            }
        }
        Err(failure)
    }

    async fn release_anew(&self, keep: bool) -> Result<(), Failure> {
        let maintenance = Control::open(&self.maintenance.address).await?;
        match mark::of_database(&maintenance.client, &self.database).await? {
            Ownership::Ours(mark) if mark.run_id == self.run_id => {
                lock(&maintenance, &self.database).await?;
                self.try_release(&maintenance, keep).await
            }
            _ => Ok(()),
        }
    }

    async fn try_release(&self, maintenance: &Control, keep: bool) -> Result<(), Failure> {
        // Whoever looks at the database holds up its end, but never that of the slots, which would
        // keep WAL for nobody.
        drop_slots(maintenance, &self.database).await?;
        if !keep {
            return drop_database(maintenance, &self.database).await;
        }
        let comment = mark::comment(&self.database, &self.run_id, true);
        maintenance.execute("mark the database as kept", &comment).await
    }
}

/// One run a database: the lock lives as long as the session that took it.
///
/// Locks are seen only by sessions in the same database, and URLs may name others: before anything
/// is dropped, [`wait_until_unused`] looks at all sessions.
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
        Ownership::Ours(mark) if mark.kept => {
            let text = format!("database \"{database}\" was kept by run {}", mark.run_id);
            let drop = format!("DROP DATABASE {}", quote_identifier(database));
            Err(Failure::new(text).hint(format!(
                "set another postgres.database, or drop this one when it is no longer needed: {drop}"
            )))
        }
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

/// Drops one of our databases with its slots. Nobody who is connected to it is ended, and nothing is
/// touched while somebody is.
pub(crate) async fn drop_database(maintenance: &Control, database: &str) -> Result<(), Failure> {
    wait_until_unused(maintenance, database).await?;
    drop_slots(maintenance, database).await?;
    let what = format!("drop database \"{database}\"");
    let sql = format!("DROP DATABASE IF EXISTS {}", quote_identifier(database));
    maintenance.execute(&what, &sql).await
}

/// A run that lives has a session in its database, and so has whoever looks at it.
async fn wait_until_unused(maintenance: &Control, database: &str) -> Result<(), Failure> {
    let sql = "SELECT pid, application_name FROM pg_stat_activity \
               WHERE datname = $1 AND backend_type IN ('client backend', 'walsender')";
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let sessions = maintenance.client.query(sql, &[&database]).await;
        let sessions = sessions.map_err(|e| refused("list its sessions", &e))?;
        let Some(session) = sessions.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            let (pid, name): (i32, &str) = (session.get(0), session.get(1));
            let text = format!("database \"{database}\" is in use by process {pid} (\"{name}\")");
            return Err(Failure::new(text).hint("close the sessions that are connected to it"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn drop_slots(maintenance: &Control, database: &str) -> Result<(), Failure> {
    let sql = "SELECT slot_name::text FROM pg_replication_slots WHERE database = $1";
    let slots = maintenance.client.query(sql, &[&database]).await;
    for slot in slots.map_err(|e| refused("list the slots", &e))? {
        drop_slot(maintenance, slot.get(0)).await?;
    }
    Ok(())
}

/// Drops a slot of ours, giving its walsender time to end.
async fn drop_slot(control: &Control, slot: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let dropped = control.client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await;
        match dropped {
            Ok(_) => return Ok(()),
            Err(e) => match e.code().map(SqlState::code) {
                Some("42704") => return Ok(()),
                Some("55006") if Instant::now() < deadline => {
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
               WHERE slot_name::text = ANY($1) ORDER BY slot_name LIMIT 1";
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
