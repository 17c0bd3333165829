//! A server's process that is ours outside of a run: started, watched and stopped by itself.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use walbench_metrics::Failure;

use crate::event::{Event, FromAny, ToAny};
use crate::worker::{Start, Worker};

/// A process that serves somebody. If this is dropped, or we are ended, it ends as well.
pub(crate) struct Alone {
    pub(crate) worker: Worker,
    events: UnboundedReceiver<Event>,
}

impl Alone {
    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(start: Start<'_>, prepare: &impl Serialize) -> Result<Self, Failure> {
        let (sender, events) = mpsc::unbounded_channel();
        let worker = Worker::start(start, 0, &sender).await?;
        let mut alone = Self { worker, events };
        alone.worker.prepare(prepare).await?;
        match alone.events.recv().await {
            Some(Event::Said(_, said)) => match *said {
                FromAny::Ready => Ok(alone),
                FromAny::Failed(failure) => Err(alone.worker.told(failure)),
                _ => Err(alone.worker.failed("speaks nonsense")),
            },
            _ => Err(alone.worker.failed("ended while starting")),
        }
    }

    /// Waits until it fails by itself.
    pub(crate) async fn failed(&mut self) -> Failure {
        loop {
            match self.events.recv().await {
                Some(Event::Said(_, said)) => {
                    if let FromAny::Failed(failure) = *said {
                        return self.worker.told(failure);
                    }
                }
                Some(Event::Broke(_, error)) => {
                    return self.worker.failed("ended").caused_by(&error);
                }
                Some(_) => {}
                None => return self.worker.failed("ended"),
            }
        }
    }

    /// Lets what is under way end, stops it, and returns what it leaves.
    pub(crate) async fn stop<T: DeserializeOwned>(
        mut self,
        what: &str,
        limit: Duration,
    ) -> Result<T, Failure> {
        let _ = self.worker.send(&ToAny::Stop).await;
        self.left(limit).await.map_err(|failure| {
            Failure::new(format!("{what} did not stop in order")).because(failure)
        })
    }

    /// Waits until it has done what it is for, and returns what it leaves.
    pub(crate) async fn left<T: DeserializeOwned>(mut self, limit: Duration) -> Result<T, Failure> {
        let said = async {
            while let Some(Event::Said(_, said)) = self.events.recv().await {
                match *said {
                    FromAny::Done(left) => {
                        return serde_json::from_value(left)
                            .map_err(|e| Failure::new("it leaves nonsense").caused_by(&e));
                    }
                    FromAny::Failed(failure) => return Err(failure),
                    _ => {}
                }
            }
            Err(Failure::new("it ended without a word"))
        };
        let stopped = tokio::time::timeout(limit, said).await;
        self.worker.end().await;
        let late = || Err(Failure::new(format!("it took longer than {} s", limit.as_secs())));
        stopped.unwrap_or_else(|_| late())
    }
}
