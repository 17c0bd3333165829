//! What a ClickHouse server did since the last time, by its own account.

use std::collections::BTreeMap;
use std::sync::Arc;

use walbench_consumer::clickhouse::client::Clients;
use walbench_consumer::clickhouse::ddl::quote_string;
use walbench_metrics::sample::ClickhouseUse;

const EVENTS_SQL: &str = "
SELECT event, value FROM system.events WHERE event IN
('OSCPUVirtualTimeMicroseconds', 'InsertQuery', 'InsertedRows', 'InsertedBytes', 'Merge',
 'MergedRows', 'DelayedInserts', 'RejectedInserts')";

/// Asks a server for its account, time after time.
#[derive(Debug)]
pub(crate) struct Account {
    clients: Arc<Clients>,
    parts_sql: String,
    before: Option<BTreeMap<String, u64>>,
}

impl Account {
    /// Of the server, and of a database's tables.
    pub(crate) fn new(clients: Arc<Clients>, database: &str) -> Self {
        let parts_sql = format!(
            "SELECT count(), sum(bytes_on_disk) FROM system.parts WHERE active AND database = {}",
            quote_string(database)
        );
        Self { clients, parts_sql, before: None }
    }

    /// What was done since the last time that it answered; the first time, nothing.
    pub(crate) async fn used(&mut self) -> Option<ClickhouseUse> {
        let events = self.clients.all().next()?.text(EVENTS_SQL).await.ok()?;
        let parts = self.clients.all().next()?.text(&self.parts_sql).await.ok()?;
        let now = counters(&events);
        let (active_parts, disk_bytes) = parts.split_once('\t')?;
        let before = self.before.replace(now.clone()).unwrap_or_else(|| now.clone());
        let since = |event: &str| since(&before, &now, event);
        Some(ClickhouseUse {
            cpu_us: now
                .contains_key("OSCPUVirtualTimeMicroseconds")
                .then(|| since("OSCPUVirtualTimeMicroseconds")),
            inserts: since("InsertQuery"),
            inserted_rows: since("InsertedRows"),
            inserted_bytes: since("InsertedBytes"),
            merges: since("Merge"),
            merged_rows: since("MergedRows"),
            delayed_inserts: since("DelayedInserts"),
            rejected_inserts: since("RejectedInserts"),
            active_parts: active_parts.parse().ok()?,
            disk_bytes: disk_bytes.parse().ok()?,
        })
    }
}

/// An event that never happened is not listed.
fn counters(text: &str) -> BTreeMap<String, u64> {
    let counter = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(counter).collect()
}

/// A server that was started again counts from nothing.
fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>, event: &str) -> u64 {
    let of = |counters: &BTreeMap<String, u64>| counters.get(event).copied().unwrap_or_default();
    of(now).checked_sub(of(before)).unwrap_or_else(|| of(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_differences_also_when_the_server_was_started_again() {
        let (before, now) = (counters("Merge\t7\nInsertQuery\t100\n"), counters("Merge\t9\n"));
        assert_eq!(since(&before, &now, "Merge"), 2);
        assert_eq!(since(&before, &now, "InsertQuery"), 0);
        assert_eq!(since(&now, &before, "Merge"), 7);
        assert_eq!(since(&now, &before, "InsertQuery"), 100);
    }
}
