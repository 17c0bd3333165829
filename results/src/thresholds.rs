//! Thresholds against the figures of a phase.

use walbench_phases::Plan;
use walbench_phases::threshold::{LagStage, Metric, Statistic, Threshold, Timing, Unit};

use crate::human;
use crate::metrics_json::{PhaseFigures, ThresholdResult, TimingFigures};
use crate::verification::Verification;

/// Every threshold of the plan for one phase, in the order of their names.
pub(crate) fn judge(
    plan: &Plan,
    index: u32,
    figures: &PhaseFigures,
    verification: &Verification,
) -> Vec<ThresholdResult> {
    let results = plan.thresholds.iter().map(|(name, expression)| {
        // A plan that was checked when it was read has no expression that can't be read.
        let threshold = Threshold::parse(expression).ok();
        let value = threshold.as_ref().and_then(|t| value(t.metric, index, figures, verification));
        ThresholdResult {
            name: name.clone(),
            expression: expression.clone(),
            phase: figures.name.clone(),
            value,
            met: threshold.zip(value).map(|(threshold, value)| threshold.holds(value)),
        }
    });
    results.collect()
}

/// The figure of a result as a person reads it.
pub(crate) fn shown(result: &ThresholdResult) -> String {
    let unit = Threshold::parse(&result.expression).map(|threshold| threshold.metric.unit());
    match unit {
        Ok(Unit::Microseconds) => human::us(result.value),
        Ok(Unit::MicrosecondsPerRow) => human::us_per_row(result.value),
        Ok(Unit::Bytes) => human::bytes(result.value.map(|bytes| bytes as u64)),
        Ok(Unit::RowsPerSecond) => format!("{} rows/s", human::rate(result.value)),
        Ok(Unit::Count) | Err(_) => human::rate(result.value),
    }
}

/// The figure in the threshold's unit: times in µs. `None` when there is no data.
fn value(
    metric: Metric,
    index: u32,
    figures: &PhaseFigures,
    verification: &Verification,
) -> Option<f64> {
    let producer = figures.producer.as_ref();
    let consumer = &figures.consumer;
    match metric {
        Metric::Throughput => producer?.achieved_throughput,
        Metric::Errors => Some(producer?.errors as f64),
        Metric::FailedRows => Some(producer?.failed_rows as f64),
        Metric::LateRows => Some(producer?.late_rows as f64),
        Metric::Timing(which, statistic) => self::statistic(timing(which, figures)?, statistic),
        Metric::ConsumerThroughput => consumer.throughput,
        Metric::ConsumerErrors => consumer.errors.map(|count| count as f64),
        Metric::ConsumerRetries => consumer.retries.map(|count| count as f64),
        Metric::ConsumerCpuUsPerRow => consumer.cpu_us_per_row,
        Metric::ProducerCpuUsPerRow => producer?.cpu_us_per_row,
        Metric::Drain => figures.drain_sec.map(|sec| sec * 1e6),
        Metric::SlotLagBytes => figures.postgres.slot_lag_bytes_max.map(|bytes| bytes as f64),
        Metric::Lost => lost(index, verification).map(|rows| rows as f64),
        // Which phase a repeated row belongs to is not kept: the run's count stands in each.
        Metric::Duplicated => verification.duplicated.map(|rows| rows as f64),
    }
}

fn lost(index: u32, verification: &Verification) -> Option<u64> {
    verification.lost?;
    verification.phases.iter().find(|p| p.phase == index).map(|p| p.missing_rows)
}

fn timing(which: Timing, figures: &PhaseFigures) -> Option<&TimingFigures> {
    let lag = &figures.consumer.lag_us;
    Some(match which {
        Timing::Lateness => &figures.producer.as_ref()?.lateness_us,
        Timing::Service => &figures.producer.as_ref()?.service_us,
        Timing::Response => &figures.producer.as_ref()?.response_us,
        Timing::Flush => &figures.consumer.flush_us,
        Timing::Lag(LagStage::CommitToReceived) => &lag.commit_to_received,
        Timing::Lag(LagStage::ReceivedToFlushed) => &lag.received_to_flushed,
        Timing::Lag(LagStage::CommitToFlushed) => &lag.commit_to_flushed,
        Timing::Lag(LagStage::DueToFlushed) => &lag.due_to_flushed,
        Timing::Lag(LagStage::CommitToVisible) => lag.commit_to_visible.as_ref()?,
    })
}

fn statistic(timing: &TimingFigures, statistic: Statistic) -> Option<f64> {
    let us = match statistic {
        Statistic::P50 => timing.p50,
        Statistic::P90 => timing.p90,
        Statistic::P95 => timing.p95,
        Statistic::P99 => timing.p99,
        Statistic::P999 => timing.p999,
        Statistic::Max => timing.max,
        Statistic::Mean => return timing.mean,
    };
    us.map(|us| us as f64)
}
