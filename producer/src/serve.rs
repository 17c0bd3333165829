//! The process's whole life, from the first message to the last.

use walbench_metrics::Failure;
use walbench_metrics::link::{WorkerReader, WorkerWriter};

/// Serves the orchestrator until it says `Stop` or the link closes.
///
/// Returns at once when the link closes, whatever the connections are doing: the caller ends the
/// process.
///
/// # Errors
///
/// What kept the producer from doing its work; it was told to the orchestrator if the link allowed.
pub async fn serve(_reader: WorkerReader, _writer: WorkerWriter) -> Result<(), Failure> {
    unimplemented!("being written")
}
