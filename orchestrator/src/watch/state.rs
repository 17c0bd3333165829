//! What the source server says of itself, once a second.

use tokio_postgres::Row;
use walbench_metrics::Failure;
use walbench_metrics::sample::{PostgresState, SlotState};

use super::connections::address;
use crate::event::Walsender;
use crate::postgres::control::{Control, refused};

/// Since PostgreSQL 17 checkpoints have a view of their own.
const CHECKPOINTS_FROM_17: &str = "SELECT num_timed + num_requested FROM pg_stat_checkpointer";
const CHECKPOINTS_BEFORE: &str = "SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter";

const COLUMNS_SQL: &str = "
SELECT s.slot_name::text,
       s.active_pid,
       (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS wal_lsn,
       greatest(pg_current_wal_flush_lsn() - s.confirmed_flush_lsn, 0)::bigint AS lag_bytes,
       greatest(pg_current_wal_flush_lsn() - s.restart_lsn, 0)::bigint AS retained_bytes,
       coalesce(t.spill_bytes, 0)::bigint AS spill_bytes,
       coalesce(t.stream_bytes, 0)::bigint AS stream_bytes,
       (r.sent_lsn - '0/0'::pg_lsn)::bigint AS sent_lsn,
       (s.confirmed_flush_lsn - '0/0'::pg_lsn)::bigint AS confirmed_lsn,
       host(r.client_addr) AS client_addr,
       r.client_port,
       s.wal_status,
       s.safe_wal_size";

const TABLES_SQL: &str = "
FROM pg_replication_slots s
LEFT JOIN pg_stat_replication_slots t USING (slot_name)
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
WHERE s.slot_name::text = ANY($1) ORDER BY s.slot_name";

/// The question for a server of this version.
pub(super) fn sql(version_num: i32) -> String {
    let checkpoints = if version_num >= 170_000 { CHECKPOINTS_FROM_17 } else { CHECKPOINTS_BEFORE };
    format!("{COLUMNS_SQL},\n       ({checkpoints})::bigint AS checkpoints{TABLES_SQL}")
}

/// Asks it of the run's slots.
pub(super) async fn ask(
    control: &Control,
    sql: &str,
    slots: &[String],
) -> Result<Vec<Row>, Failure> {
    let rows = control.client.query(sql, &[&slots]).await;
    rows.map_err(|e| refused("describe the run's slots", &e))
}

/// A number that can't be negative; nothing is 0.
fn positive(row: &Row, column: &str) -> u64 {
    let value = row.get::<_, Option<i64>>(column).unwrap_or_default();
    u64::try_from(value).unwrap_or_default()
}

/// What the answer says of the server.
pub(super) fn of_server(rows: &[Row]) -> Option<PostgresState> {
    let slots = rows.iter().map(|row| SlotState {
        name: row.get("slot_name"),
        lag_bytes: positive(row, "lag_bytes"),
        retained_bytes: positive(row, "retained_bytes"),
        spill_bytes: positive(row, "spill_bytes"),
        stream_bytes: positive(row, "stream_bytes"),
        sent_lsn: row.get::<_, Option<i64>>("sent_lsn").map(i64::unsigned_abs),
        confirmed_lsn: positive(row, "confirmed_lsn"),
        wal_status: row.get("wal_status"),
        safe_wal_bytes: row.get("safe_wal_size"),
    });
    let first = rows.first()?;
    Some(PostgresState {
        wal_lsn: positive(first, "wal_lsn"),
        checkpoints: positive(first, "checkpoints"),
        slots: slots.collect(),
    })
}

/// And of the slots' walsenders.
pub(super) fn walsenders(rows: &[Row], slots: &[String]) -> Vec<Walsender> {
    let walsender = |row: &Row| {
        let name: &str = row.get("slot_name");
        let slot = slots.iter().position(|slot| slot == name)?;
        let pid = u32::try_from(row.get::<_, Option<i32>>("active_pid")?).ok()?;
        let client = address(row.get("client_addr"), row.get("client_port"));
        Some(Walsender { slot, pid, client })
    };
    rows.iter().filter_map(walsender).collect()
}
