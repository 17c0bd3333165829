//! A lost connection comes back: when it is tried again, and when no more. Tries are made in a
//! thread of their own, so that nothing waits for a server that does not answer.

use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};

use walbench_metrics::Failure;

use crate::backoff::Backoff;
use crate::news::News;
use crate::replication::{Connection, ReplicationError};

/// Longest wait before the first try to connect again; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The last try begins within the patience, and may take this long beyond it.
const LAST_TRY: Duration = Duration::from_secs(5);

/// Of tries that fail, the first is told, and then no more than one in this time.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What the stream comes over.
pub(crate) const CONNECTION: &str = "the replication connection";

/// When to try again after a loss, and when no more.
#[derive(Debug)]
pub(crate) struct Reconnecting {
    what: &'static str,
    patience: Duration,
    backoff: Backoff,
    news: News,
    /// When it was last told that a try failed.
    told_at: Option<Instant>,
    /// The last that was told is not that it is back.
    is_told: bool,
    lost_at: Instant,
    tries: u32,
    /// When the next try is due.
    pub next_try: Instant,
    /// Why the last try, or the connection itself, failed.
    pub error: ReplicationError,
    trying: Option<mpsc::Receiver<Tried>>,
}

type Tried = Result<Connection, ReplicationError>;

/// What is to be done now.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing, for a while.
    Wait,
    /// Another try.
    Try,
    /// To go on with a connection.
    Back(Connection),
    /// To end: it does not come back.
    GiveUp(Failure),
}

impl Reconnecting {
    /// There is no connection from now on.
    pub(crate) fn new(what: &'static str, patience: Duration, news: News, now: Instant) -> Self {
        let mut backoff = Backoff::of_now();
        let next_try = now + backoff.wait(FIRST_WAIT, 1);
        Self {
            what,
            patience,
            backoff,
            news,
            told_at: None,
            is_told: false,
            lost_at: now,
            tries: 0,
            next_try,
            error: ReplicationError::Closed,
            trying: None,
        }
    }

    /// A connection was ended by us, to be followed by another at once.
    pub(crate) fn renew(patience: Duration, news: News, now: Instant) -> Self {
        let patience = patience.max(LAST_TRY);
        Self { next_try: now, ..Self::new(CONNECTION, patience, news, now) }
    }

    /// There was one, and this is how it ended.
    pub(crate) fn lost(mut self, error: ReplicationError) -> Self {
        self.tell(format!("lost {}: {}", self.what, error.line()), true);
        self.error = error;
        self
    }

    /// There is one again.
    pub(crate) fn came_back(mut self) -> Self {
        if self.is_told {
            let after = self.after(self.tries + 1);
            self.tell(format!("{} is back {after}", self.what), false);
        }
        self
    }

    fn tell(&mut self, text: String, is_told: bool) {
        self.news.tell(text);
        self.is_told = is_told;
    }

    fn tell_failed(&mut self, now: Instant) {
        if self.told_at.is_none_or(|told_at| now - told_at >= TELL_INTERVAL) {
            self.told_at = Some(now);
            let after = self.after(self.tries);
            let text = format!("{} is not back {after}: {}", self.what, self.error.line());
            self.tell(text, true);
        }
    }

    fn after(&self, tries: u32) -> String {
        let plural = if tries == 1 { "try" } else { "tries" };
        format!("after {:.1} s ({tries} {plural})", self.lost_at.elapsed().as_secs_f64())
    }

    /// Tells what to do.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let Some(trying) = &self.trying else {
            return if now < self.next_try { Next::Wait } else { Next::Try };
        };
        let error = match trying.try_recv() {
            Ok(Ok(connection)) => {
                self.trying = None;
                return Next::Back(connection);
            }
            Ok(Err(error)) => error,
            Err(TryRecvError::Empty) if now < self.end() + LAST_TRY => return Next::Wait,
            Err(_) => ReplicationError::Silent,
        };
        self.trying = None;
        if self.failed(error, now) { Next::Wait } else { Next::GiveUp(self.give_up()) }
    }

    /// Begins a try; `ended` is called when it has ended. One that is given up goes on by itself, and
    /// what comes of it is closed.
    pub(crate) fn try_now(
        &mut self,
        connect: impl FnOnce() -> Tried + Send + 'static,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(), Failure> {
        let (tried, trying) = mpsc::channel();
        let attempt = move || {
            // In vain if nobody waits any more.
            let _ = tried.send(connect());
            ended();
        };
        std::thread::Builder::new()
            .name("reconnect".into())
            .spawn(attempt)
            .map_err(|e| Failure::new("a thread can't be started").caused_by(&e))?;
        self.trying = Some(trying);
        Ok(())
    }

    fn end(&self) -> Instant {
        self.lost_at + self.patience
    }

    /// A try failed: says whether there is another.
    pub(crate) fn failed(&mut self, error: ReplicationError, now: Instant) -> bool {
        let may_pass = error.is_transient() || error.is_slot_active();
        self.error = error;
        self.tries += 1;
        let wait = self.backoff.wait(FIRST_WAIT, self.tries + 1);
        // The last try is at the end of the patience, and not before.
        self.next_try = (now + wait).min(self.end().max(now));
        let is_another = may_pass && now < self.end();
        // What ends it is said by the error that it ends with.
        if is_another {
            self.tell_failed(now);
        }
        is_another
    }

    /// The connection that had come back was lost again before it brought anything.
    pub(crate) fn again(mut self, error: ReplicationError, now: Instant) -> Result<Self, Failure> {
        if self.failed(error, now) { Ok(self) } else { Err(self.give_up()) }
    }

    /// No more tries.
    pub(crate) fn give_up(&mut self) -> Failure {
        let error = std::mem::replace(&mut self.error, ReplicationError::Closed);
        let failure = error.into_failure();
        if self.tries == 0 {
            return failure;
        }
        let seconds = self.lost_at.elapsed().as_secs_f64();
        let tries = self.tries;
        Failure::new(format!(
            "the replication connection was lost and did not come back in {seconds:.1} s ({tries} tries)"
        ))
        .because(failure)
    }
}

/// Whether the server still says something. TCP finds a machine that is gone; a server that hangs
/// keeps its connections. PostgreSQL's own receivers ask for a sign of life after half of
/// `wal_receiver_timeout`, and end the connection after all of it.
#[derive(Debug)]
pub(crate) struct Hearing {
    timeout: Option<Duration>,
    heard: Instant,
    asked: bool,
}

/// What follows from how long it was silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nothing.
    Short,
    /// The server is to be asked.
    Long,
    /// It is gone.
    TooLong,
}

impl Hearing {
    /// `None` listens for ever.
    pub(crate) fn new(timeout: Option<Duration>, now: Instant) -> Self {
        Self { timeout, heard: now, asked: false }
    }

    /// Something was heard, or nobody listened.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = false;
    }

    /// Judges the silence up to now; a question is asked once.
    pub(crate) fn silence(&mut self, now: Instant) -> Silence {
        let Some(timeout) = self.timeout else { return Silence::Short };
        let silent = now.saturating_duration_since(self.heard);
        if self.asked && silent >= timeout {
            return Silence::TooLong;
        }
        if !self.asked && silent >= timeout / 2 {
            self.asked = true;
            return Silence::Long;
        }
        Silence::Short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn lost(now: Instant) -> Reconnecting {
        Reconnecting::new(CONNECTION, PATIENCE, News::default(), now)
    }

    #[test]
    fn it_is_tried_until_patience_ends() {
        let mut now = Instant::now();
        let (start, mut reconnecting, mut tries) = (now, lost(now), 0);
        loop {
            assert!(matches!(reconnecting.next(now), Next::Wait));
            now = reconnecting.next_try;
            assert!(matches!(reconnecting.next(now), Next::Try));
            tries += 1;
            if !reconnecting.failed(ReplicationError::Closed, now) {
                break;
            }
        }
        assert_eq!(now - start, PATIENCE);
        // Waits of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 and 5 s, or down to half of each.
        assert!((7..=9).contains(&tries), "{tries}");
    }

    #[test]
    fn a_try_that_does_not_end_is_given_up() {
        let now = Instant::now();
        let mut reconnecting = lost(now);
        let (hold, held) = mpsc::channel::<()>();
        let connect = move || {
            let _ = held.recv();
            Err(ReplicationError::Closed)
        };
        reconnecting.try_now(connect, || ()).unwrap();
        assert!(matches!(reconnecting.next(now + PATIENCE), Next::Wait));
        let Next::GiveUp(failure) = reconnecting.next(now + PATIENCE + LAST_TRY) else {
            panic!("it waits on")
        };
        assert!(failure.to_string().contains("does not answer"), "{failure}");
        drop(hold);
    }

    #[test]
    fn what_would_not_pass_is_not_tried_again() {
        let now = Instant::now();
        let mut reconnecting = lost(now);
        let (ended, end) = mpsc::channel();
        let connect = || Err(ReplicationError::Standby);
        reconnecting.try_now(connect, move || ended.send(()).unwrap()).unwrap();
        end.recv().unwrap();
        let Next::GiveUp(failure) = reconnecting.next(now) else { panic!("it goes on") };
        assert!(failure.to_string().contains("standby"), "{failure}");
    }

    #[test]
    fn a_silent_server_is_asked_once_and_then_gone() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hearing = Hearing::new(Some(Duration::from_secs(60)), start);
        assert_eq!(hearing.silence(at(29)), Silence::Short);
        assert_eq!(hearing.silence(at(30)), Silence::Long);
        assert_eq!(hearing.silence(at(59)), Silence::Short);
        assert_eq!(hearing.silence(at(60)), Silence::TooLong);
        hearing.heard(at(61));
        assert_eq!(hearing.silence(at(90)), Silence::Short);
        // Nobody looked in between: it is asked before it is given up.
        assert_eq!(hearing.silence(at(200)), Silence::Long);
        assert_eq!(Hearing::new(None, start).silence(at(9_999)), Silence::Short);
    }
}
