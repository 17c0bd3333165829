//! The process of a mock ClickHouse server.

use walbench_consumer::clickhouse::mock::{Counters, Mock, serve as serve_mock};
use walbench_metrics::Failure;
use walbench_metrics::link::{WorkerReader, WorkerWriter};
use walbench_metrics::message::{FromWorker, PhaseStart, ToWorker};

use super::mock::MockPrepare;
use crate::keeper;

type Out = FromWorker<Counters>;

/// Lives a mock's life, until it is told to stop or nobody is left to tell it.
pub(crate) async fn serve(
    mut reader: WorkerReader,
    mut writer: WorkerWriter,
) -> Result<(), Failure> {
    let prepare = keeper::greet::<MockPrepare>(&mut reader, &mut writer).await;
    let Some(MockPrepare { port, options, phases }) = prepare else { return Ok(()) };
    let mock = Mock::new(options);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let told = async {
        if is_ready.await.is_ok() {
            let _ = writer.send(&Out::Ready).await;
        }
        tokio::select! {
            () = until_stop(&mut reader, &mock, &phases) => {}
            Ok(()) = keeper::until_signal() => {}
        }
    };
    let ready = || _ = ready.send(());
    let ended = serve_mock(mock.clone(), port, ready, told).await;
    let last = match &ended {
        Ok(()) => Out::Done(mock.counters()),
        Err(failure) => Out::Failed(failure.clone()),
    };
    // The orchestrator may be gone.
    let _ = writer.send(&last).await;
    ended
}

/// Passes on when phases begin, until the word to stop or the link's end.
async fn until_stop(reader: &mut WorkerReader, mock: &Mock, phases: &[String]) {
    while let Ok(message) = reader.recv::<ToWorker<serde_json::Value>>().await {
        match message {
            ToWorker::Start(PhaseStart { phase, start_us }) => {
                if let Some(name) = phases.get(phase as usize) {
                    mock.begin(name, start_us);
                }
            }
            ToWorker::Stop => return,
            _ => {}
        }
    }
}
