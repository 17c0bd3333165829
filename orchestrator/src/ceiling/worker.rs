//! The process that measures ceilings: by itself, so that its CPU time is nobody else's, and where the
//! consumers are.

use std::path::Path;
use std::time::Duration;

use walbench_consumer::{Measure, measure};
use walbench_metrics::Failure;
use walbench_metrics::ceiling::Ceilings;
use walbench_metrics::link::{WorkerReader, WorkerWriter};
use walbench_metrics::message::FromWorker;

use crate::clickhouse::alone::Alone;
use crate::keeper;
use crate::worker::{CEILING, Start};

type Out = FromWorker<Ceilings>;

/// Has it all measured in a process of its own, which ends when this is dropped.
pub(crate) async fn measured(
    what: &Measure,
    launcher: &[String],
    logs: &Path,
    limit: Duration,
) -> Result<Ceilings, Failure> {
    let start =
        Start { name: "ceiling", role: CEILING, launcher, logs: Some(logs), ..Start::default() };
    Alone::start(start, what).await?.left(limit).await
}

/// Lives its life: until all is measured, or nobody is left to tell.
pub(crate) async fn serve(
    mut reader: WorkerReader,
    mut writer: WorkerWriter,
) -> Result<(), Failure> {
    let Some(what) = keeper::greet::<Measure>(&mut reader, &mut writer).await else {
        return Ok(());
    };
    let _ = writer.send(&Out::Ready).await;
    let measured = tokio::select! {
        measured = measure(what) => measured.map_err(|error| error.failure),
        _ = keeper::until_stop(&mut reader) => return Ok(()),
        Ok(()) = keeper::until_signal() => return Ok(()),
    };
    // The orchestrator may be gone.
    match measured {
        Ok(ceilings) => {
            let _ = writer.send(&Out::Done(ceilings)).await;
            Ok(())
        }
        Err(failure) => {
            let _ = writer.send(&Out::Failed(failure.clone())).await;
            Err(failure)
        }
    }
}
