//! What PostgreSQL's processes wait for: the doctor asks ten times a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Row, Statement};
use walbench_metrics::Failure;
use walbench_metrics::vitals::Waits;
use walbench_phases::address::PostgresAddress;

use crate::postgres::control::{Control, refused};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// An answer that takes longer is of no moment that could be named.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A slot without a walsender.
const ABSENT: &str = "absent";

/// Names of wait events are written in large and small letters differently from version to version.
const SQL: &str = "
SELECT s.slot_name::text,
       lower(coalesce(a.wait_event_type || '/' || a.wait_event, 'running'))
FROM pg_stat_activity a LEFT JOIN pg_replication_slots s ON s.active_pid = a.pid
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND (s.slot_name::text = ANY($1)
       OR (a.backend_type = 'client backend' AND a.state = 'active'))";

/// A connection that is lost is made again after so long.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// What was seen, by kind of process.
type Seen = Arc<Mutex<BTreeMap<String, Waits>>>;

/// Looks for as long as it is kept.
#[derive(Debug)]
pub(super) struct WaitLooks {
    seen: Seen,
    looking: JoinHandle<()>,
}

impl WaitLooks {
    /// Begins to look at the slots' walsenders, and at all backends of the address's database.
    pub(super) async fn begin(
        address: &PostgresAddress,
        slots: Vec<String>,
    ) -> Result<Self, Failure> {
        let mut way = Way::open(address, &slots).await?;
        let (address, seen) = (address.clone(), Seen::default());
        let ours = seen.clone();
        let looking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match tokio::time::timeout(ANSWER_TIMEOUT, way.ask(&slots)).await {
                    Ok(Ok(rows)) => {
                        see(
                            &mut ours.lock().unwrap_or_else(PoisonError::into_inner),
                            &rows,
                            &slots,
                        );
                    }
                    // A server that was started again has another way.
                    Ok(Err(_)) if way.control.client.is_closed() => {
                        tokio::time::sleep(REOPEN_INTERVAL).await;
                        if let Ok(other) = Way::open(&address, &slots).await {
                            way = other;
                        }
                    }
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        });
        Ok(Self { seen, looking })
    }

    /// What was seen since the last time.
    pub(super) fn take(&self) -> BTreeMap<String, Waits> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A session, and what is asked there.
struct Way {
    control: Control,
    statement: Statement,
}

impl Way {
    async fn open(address: &PostgresAddress, slots: &[String]) -> Result<Self, Failure> {
        let control = Control::open(address).await?;
        let failed = |e| refused("say what its processes wait for", &e);
        let statement = control.client.prepare(SQL).await.map_err(failed)?;
        let way = Self { control, statement };
        way.ask(slots).await.map_err(failed)?;
        Ok(way)
    }

    async fn ask(&self, slots: &[String]) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.control.client.query(&self.statement, &[&slots]).await
    }
}

impl Drop for WaitLooks {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

fn see(seen: &mut BTreeMap<String, Waits>, rows: &[Row], slots: &[String]) {
    let rows = rows.iter().map(|row| (row.get(0), row.get(1)));
    see_all(seen, &rows.collect::<Vec<_>>(), slots);
}

/// Of each row the slot, if it is a walsender's, and what it waits for.
fn see_all(seen: &mut BTreeMap<String, Waits>, rows: &[(Option<&str>, &str)], slots: &[String]) {
    let mut add = |name: String, events: &mut dyn Iterator<Item = &str>| {
        let waits = seen.entry(name).or_default();
        waits.looks += 1;
        for event in events {
            *waits.events.entry(event.to_owned()).or_default() += 1;
        }
    };
    let of = |wanted: Option<&str>| {
        let of_it = rows.iter().filter(move |(slot, _)| *slot == wanted);
        of_it.map(|(_, event)| *event).collect::<Vec<_>>()
    };
    for (number, slot) in slots.iter().enumerate() {
        let mut events = of(Some(slot));
        if events.is_empty() {
            events.push(ABSENT);
        }
        add(format!("walsender-{number}"), &mut events.into_iter());
    }
    add("backends".into(), &mut of(None).into_iter());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_walsender_is_seen_by_itself_and_all_backends_together() {
        let slots = ["w_0".to_owned(), "w_1".to_owned()];
        let mut seen = BTreeMap::new();
        let waiting = (Some("w_1"), "client/walsenderwritedata");
        see_all(&mut seen, &[waiting, (None, "io/walsync"), (None, "running")], &slots);
        see_all(&mut seen, &[waiting, (None, "io/walsync")], &slots);
        let waits = |looks, events: &[(&str, u64)]| Waits {
            looks,
            events: events.iter().map(|(event, n)| ((*event).to_owned(), *n)).collect(),
        };
        assert_eq!(seen["walsender-0"], waits(2, &[(ABSENT, 2)]));
        assert_eq!(seen["walsender-1"], waits(2, &[("client/walsenderwritedata", 2)]));
        assert_eq!(seen["backends"], waits(2, &[("io/walsync", 2), ("running", 1)]));
    }
}
