//! Signals that ask walbench to end, and steps outside that must not outlast them.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use walbench_metrics::Failure;

use crate::event::{Event, Stop};

/// Knows how often the user has asked for the end, also while nobody looks at the events.
#[derive(Clone, Debug)]
pub(crate) struct Patience(watch::Receiver<u32>);

impl Patience {
    /// Waits for a step that PostgreSQL carries out: at most `limit`, and not beyond the signal of
    /// this number.
    pub(crate) async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        signals: u32,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Stop> {
        self.wait_for("PostgreSQL", what, limit, signals, step).await
    }

    /// The same of somebody else's step.
    pub(crate) async fn wait_for<T>(
        &self,
        who: &str,
        what: &str,
        limit: Duration,
        signals: u32,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Stop> {
        let mut asked = self.0.clone();
        tokio::select! {
            done = step => Ok(done?),
            Ok(_) = asked.wait_for(|n| *n >= signals) => Err(Stop::Interrupted),
            () = tokio::time::sleep(limit) => {
                let text = format!("{who} did not {what} within {} s", limit.as_secs());
                Err(Failure::new(text).into())
            }
        }
    }
}

/// Sends [`Event::Interrupt`] for each signal that asks for the end.
pub(crate) fn forward(events: &UnboundedSender<Event>) -> std::io::Result<Patience> {
    let (asked, patience) = watch::channel(0);
    let asked = std::sync::Arc::new(asked);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind)?;
        let (events, asked) = (events.clone(), asked.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                asked.send_modify(|n| *n += 1);
                if events.send(Event::Interrupt).is_err() {
                    break;
                }
            }
        });
    }
    Ok(Patience(patience))
}
