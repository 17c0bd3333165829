//! The drain: until everything the phase wrote is durable at the sink, by position.

use std::time::Duration;

use tokio::time::Instant;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_results::outcome::DrainVerdict;

use super::Run;
use super::events::Happening;
use crate::event::Stop;
use crate::postgres::control::refused;

/// How often the slots are asked how far they are.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A server that takes longer for a simple question is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// After an interrupt the drain has this long.
const INTERRUPTED_DRAIN_SEC: f64 = 10.0;

impl Run {
    /// Waits until every slot is confirmed behind the phase's last WAL. Consumers confirm only what
    /// their sink has acknowledged, so then every row of the phase is there.
    pub(super) async fn drain(&mut self) -> Result<(), Stop> {
        self.live.drain();
        let marking = self.mark_end();
        let what = "mark the end of the phase";
        let end_lsn = self.patience.wait(what, ANSWER_TIMEOUT, 2, marking).await?;
        let limit = match self.interrupts {
            0 => self.plan.limits.drain_sec,
            _ => self.plan.limits.drain_sec.min(INTERRUPTED_DRAIN_SEC),
        };
        let mut deadline = Self::after(limit);
        let verdict = loop {
            let asking = self.is_confirmed(end_lsn);
            if self.patience.wait("say how far the slots are", ANSWER_TIMEOUT, 2, asking).await? {
                break DrainVerdict::Drained;
            }
            if Instant::now() >= deadline {
                break match self.interrupts {
                    0 => DrainVerdict::TimedOut,
                    _ => DrainVerdict::Interrupted,
                };
            }
            if let Happening::Interrupted = self.next(Instant::now() + POLL_INTERVAL).await? {
                deadline = deadline.min(Self::after(INTERRUPTED_DRAIN_SEC));
            }
        };
        if let Some(outcome) = self.phases.last_mut() {
            outcome.wal_end_lsn = Some(end_lsn);
            outcome.drain = verdict;
            outcome.drained_us = (verdict == DrainVerdict::Drained).then(wall_us);
        }
        Ok(())
    }

    /// Ends the phase's WAL with a message of our own, flushed, so that there is a position to wait
    /// for that is behind every row and that PostgreSQL will send something for.
    async fn mark_end(&self) -> Result<u64, Failure> {
        let Some(source) = &self.source else { return Ok(0) };
        let what = "mark the end of the phase";
        let marker = "SET synchronous_commit = on; \
                      SELECT pg_logical_emit_message(true, 'walbench-end', '')";
        source.control.execute(what, marker).await?;
        let sql = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint";
        let lsn = source.control.value::<i64>(what, sql).await?;
        Ok(u64::try_from(lsn).unwrap_or_default())
    }

    async fn is_confirmed(&self, end_lsn: u64) -> Result<bool, Failure> {
        let Some(source) = &self.source else { return Ok(true) };
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name::text = ANY($1) \
                   AND confirmed_flush_lsn - '0/0'::pg_lsn >= $2::bigint";
        let end_lsn = i64::try_from(end_lsn).unwrap_or(i64::MAX);
        let row = source
            .control
            .client
            .query_one(sql, &[&source.slots, &end_lsn])
            .await
            .map_err(|e| refused("say how far the slots are", &e))?;
        Ok(row.get::<_, i64>(0) == source.slots.len() as i64)
    }
}
