//! The end of a run on a terminal.

use crate::metrics_json::Metrics;

/// The run in at most 30 lines of plain text.
#[must_use]
pub fn terminal(metrics: &Metrics) -> String {
    format!("{}\n", metrics.name)
}
