//! `SUMMARY.md`: the document for a reader.

use crate::metrics_json::Metrics;

/// The content of `SUMMARY.md`.
#[must_use]
pub fn summary(metrics: &Metrics) -> String {
    format!("# {}\n", metrics.name)
}
