//! What a person should hear while it happens: losses, and what became of them.

use std::io::{self, Write};
use std::pin::pin;

use tokio::sync::mpsc;

/// More than this that nobody has heard yet is not told.
const UNHEARD: usize = 100;

/// Tells what happens to whoever listens in [`saying`]. Never waits: who follows a stream must not
/// be held up by a terminal that nobody reads. By default nobody listens.
#[derive(Clone, Debug, Default)]
pub struct News(Option<mpsc::Sender<String>>);

impl News {
    /// One who tells, and what is told.
    fn told() -> (Self, mpsc::Receiver<String>) {
        let (teller, told) = mpsc::channel(UNHEARD);
        (Self(Some(teller)), told)
    }

    /// Tells a sentence.
    pub(crate) fn tell(&self, text: String) {
        if let Some(teller) = &self.0 {
            let _ = teller.try_send(text);
        }
    }
}

/// Does something, and says meanwhile on standard error what it tells.
pub async fn saying<F: Future>(work: impl FnOnce(News) -> F) -> F::Output {
    let (news, mut told) = News::told();
    let mut work = pin!(work(news));
    let ended = loop {
        tokio::select! {
            Some(text) = told.recv() => say(&text),
            ended = &mut work => break ended,
        }
    };
    while let Ok(text) = told.try_recv() {
        say(&text);
    }
    ended
}

/// Nobody listening must not end anything.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::reconnect::Reconnecting;
    use crate::replication::ReplicationError;

    fn all(told: &mut mpsc::Receiver<String>) -> Vec<String> {
        std::iter::from_fn(|| told.try_recv().ok()).collect()
    }

    #[test]
    fn nobody_is_waited_for() {
        News::default().tell("to nobody".into());
        let (news, mut told) = News::told();
        (0..=UNHEARD).for_each(|n| news.tell(n.to_string()));
        assert_eq!(all(&mut told).len(), UNHEARD);
        drop(told);
        news.tell("to nobody any more".into());
    }

    #[test]
    fn tries_that_fail_are_told_now_and_then() {
        let (news, mut told) = News::told();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(60);
        let lost = Reconnecting::new("it", patience, news, start).lost(ReplicationError::Closed);
        let mut reconnecting = lost;
        for seconds in [1, 2, 10, 11, 20] {
            assert!(reconnecting.failed(ReplicationError::Silent, at(seconds)));
        }
        let reconnecting = reconnecting.came_back();
        let closed =
            "PostgreSQL ended the replication stream: it stops, or the connection was lost";
        let silent = "PostgreSQL does not answer: the connection was lost, or the server hangs";
        let expected = [
            format!("lost it: {closed}"),
            format!("it is not back after 0.0 s (1 try): {silent}"),
            format!("it is not back after 0.0 s (4 tries): {silent}"),
            "it is back after 0.0 s (6 tries)".into(),
        ];
        assert_eq!(all(&mut told), expected);
        // One that is lost at once again, and again: no more often.
        let again = |reconnecting: Reconnecting, seconds| {
            reconnecting.again(ReplicationError::Closed, at(seconds)).unwrap().came_back()
        };
        let reconnecting = again(reconnecting, 20);
        assert_eq!(all(&mut told), Vec::<String>::new());
        let reconnecting = again(reconnecting, 21);
        assert_eq!(all(&mut told).len(), 2);
        // The last is said by the error that it ends with.
        assert!(reconnecting.again(ReplicationError::Closed, at(60)).is_err());
        assert_eq!(all(&mut told), Vec::<String>::new());
    }
}
