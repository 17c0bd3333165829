//! Signals that ask walbench to end, as events.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use crate::run::Event;

/// Sends [`Event::Interrupt`] for each signal that asks for the end.
pub(crate) fn forward(events: &UnboundedSender<Event>) -> std::io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind)?;
        let events = events.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if events.send(Event::Interrupt).is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}
