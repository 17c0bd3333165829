//! The receiving thread: reads the replication stream, hands it to the state machine, does what
//! that asks for. The only thread that touches the connection.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use walbench_metrics::Failure;
use walbench_metrics::sample::StreamPosition;

use crate::delivery::Delivered;
use crate::flusher::{FlushEnded, Flusher};
use crate::pace::Pace;
use crate::reconnect::{CONNECTION, Hearing, Next, Reconnecting, Silence};
use crate::recorder::Recorder;
use crate::replication::{Connection, ReplicationError, ServerError, StatusUpdate};
use crate::source::{Anew, Interruption, Source, Terms};
use crate::stream::{Account, Machine, Status};
use crate::vitals::Doing;

/// At the end the sink has this long for what it was given.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// At the end the server has this long to take in what it was told.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// While there is no connection, or no more is read, what else there is to do is looked after so
/// often.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The receiving thread's state.
pub(crate) struct Receiver {
    source: Source,
    terms: Terms,
    link: Link,
    /// Why the machine's catalogue wants the stream to begin anew.
    interruption: Interruption,
    machine: Machine,
    flusher: Arc<Flusher>,
    pace: Pace,
    eager: bool,
    patience: Duration,
    hearing: Hearing,
    /// How the connection came back, and where it went on: one that is lost before it brings
    /// anything is no new loss.
    before: Option<Reconnecting>,
    resumed_lsn: u64,
    until_lsn: u64,
    confirms: bool,
    read: Read,
}

/// The connection, or what is left of it.
enum Link {
    Up(Connection),
    Down(Reconnecting),
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    /// Bytes.
    pub bytes: u64,
    /// When the first of them came.
    pub first: Option<Instant>,
    /// When the last of them came.
    pub last: Option<Instant>,
    /// When all that was to be durable was.
    pub durable: Option<Instant>,
    /// Connections that took the place of a lost one.
    pub reconnects: u64,
}

/// Why a step can't be done.
enum Trouble {
    /// The connection is gone; another may do.
    Lost(ReplicationError),
    /// Nothing would help.
    Failed(Failure),
}

impl From<ReplicationError> for Trouble {
    fn from(error: ReplicationError) -> Self {
        Self::Lost(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Receiver {
    /// Takes over a connection whose stream was started.
    pub(crate) fn new(
        source: Source,
        terms: Terms,
        connection: Connection,
        machine: Machine,
        flusher: Arc<Flusher>,
    ) -> Self {
        Self {
            source,
            terms,
            link: Link::Up(connection),
            interruption: Interruption::default(),
            machine,
            flusher,
            pace: Pace::default(),
            eager: false,
            patience: Duration::ZERO,
            hearing: Hearing::new(None, Instant::now()),
            before: None,
            resumed_lsn: 0,
            until_lsn: u64::MAX,
            confirms: true,
            read: Read::default(),
        }
    }

    /// How long a lost connection may take to come back.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How long the server may be silent.
    pub(crate) fn with_timeout(self, timeout: Option<Duration>) -> Self {
        Self { hearing: Hearing::new(timeout, Instant::now()), ..self }
    }

    /// Where the machine's catalogue says that the stream must begin anew.
    pub(crate) fn with_interruption(self, interruption: Interruption) -> Self {
        Self { interruption, ..self }
    }

    /// Reads as soon as there is anything, also while the stream is busy.
    pub(crate) fn with_eager_reads(self, eager: bool) -> Self {
        Self { eager, ..self }
    }

    /// Ends by itself once everything before this position was received.
    pub(crate) fn with_end(self, until_lsn: u64) -> Self {
        Self { until_lsn, ..self }
    }

    /// Whether PostgreSQL is told what is durable.
    pub(crate) fn with_confirmations(self, confirms: bool) -> Self {
        Self { confirms, ..self }
    }

    /// Receives until asked to stop, or to the end that was set.
    pub(crate) fn run(mut self) -> Result<(Delivered, Read), Failure> {
        let received = self.receive();
        #[cfg(feature = "planted")]
        crate::planted::end();
        self.flusher.looks.hide();
        // It counts also where the stream ends by a failure.
        self.tell_recorder(0);
        self.flusher.has_read(self.read);
        received?;
        self.finish()
    }

    fn receive(&mut self) -> Result<(), Failure> {
        self.show_connection();
        self.arrived_with_the_start();
        while !self.flusher.is_stopping() && self.machine.received_lsn() < self.until_lsn {
            self.step(true)?;
        }
        // What was to be received was: it ends once that is durable, however long that takes.
        while !self.flusher.is_stopping() && !self.machine.is_idle() {
            self.machine.cut();
            self.step(false)?;
        }
        Ok(())
    }

    /// Does what there is to do, and waits for more.
    fn step(&mut self, reading: bool) -> Result<(), Failure> {
        self.flush()?;
        // Nothing more would wake one that waited now.
        if !reading && self.machine.is_idle() {
            return Ok(());
        }
        match self.exchange(reading) {
            Ok(()) => Ok(()),
            Err(Trouble::Failed(failure)) => match self.interruption.take() {
                Some(Anew::Unanswered(error)) => self.lost(error),
                Some(Anew::AsText) => {
                    self.begin_anew_as_text(&failure);
                    Ok(())
                }
                None => Err(failure),
            },
            Err(Trouble::Lost(error)) => self.lost(error),
        }
    }

    /// Ends with what was received durable, if the sink is not too slow for that: what is not comes
    /// again after a restart, but would be missing from this run's account.
    fn finish(mut self) -> Result<(Delivered, Read), Failure> {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        while !self.machine.is_idle() && Instant::now() < deadline {
            self.machine.cut();
            if self.machine.wants_to_advance() {
                self.advance_at_end()?;
            }
            self.flush()?;
            if self.machine.is_idle() {
                break;
            }
            let failed = |e: io::Error| ReplicationError::Io(e).into_failure();
            self.wait(false, Instant::now() + LOOK_INTERVAL, Doing::Waiting).map_err(failed)?;
        }
        self.flush()?;
        self.tell_recorder(0);
        self.read.durable = Some(Instant::now());
        let status = self.machine.status_now(Instant::now()).that_confirms(self.confirms);
        if let Link::Up(mut connection) = self.link {
            // A connection that is lost now has nothing more to bring.
            let _ = send(&mut connection, status, self.flusher.now_us(), false);
            connection.end_stream(FAREWELL_TIMEOUT);
        }
        Ok((self.machine.into_delivered(), self.read))
    }

    /// What the catalogue can't be asked at the end comes again after a restart.
    fn advance_at_end(&mut self) -> Result<(), Failure> {
        if let Err(failure) = self.machine.advance() {
            self.interruption.take().ok_or(failure)?;
            self.machine.disconnected();
        }
        self.tell_recorder(0);
        Ok(())
    }

    /// Takes what the sink has done and gives it what there is to do.
    fn flush(&mut self) -> Result<(), Failure> {
        for FlushEnded { job, result } in self.flusher.take_ended() {
            self.machine.flush_ended(job, result, Instant::now())?;
        }
        if self.flusher.take_cut() {
            self.machine.cut();
        }
        let now = Instant::now();
        self.machine.cut_if_due(now);
        while let Some(job) = self.machine.start_flush(now) {
            self.flusher.start(job);
        }
        self.flusher.vitals.queued(self.machine.queue());
        self.flusher.stands_at(StreamPosition {
            message_lsn: self.machine.message_lsn(),
            received_lsn: self.machine.received_lsn(),
            confirmed_lsn: self.machine.confirmed_lsn(),
            in_flight_bytes: self.machine.in_flight_bytes(),
        });
        Ok(())
    }

    /// Tells PostgreSQL what it is to know, and takes what it has; waits when there is nothing.
    fn exchange(&mut self, reading: bool) -> Result<(), Trouble> {
        let connection = match &mut self.link {
            Link::Up(connection) => connection,
            Link::Down(_) => return Ok(self.reconnect()?),
        };
        let has_room = self.machine.wants_data();
        let is_blocked = reading && !has_room;
        let reading = reading && has_room;
        let now = Instant::now();
        if !reading {
            self.hearing.heard(now);
        }
        let silence = self.hearing.silence(now);
        match self.machine.status(now) {
            _ if silence == Silence::TooLong => return Err(ReplicationError::Silent.into()),
            None if silence == Silence::Short => {}
            status => {
                let status = status.unwrap_or_else(|| self.machine.status_now(now));
                let status = status.that_confirms(self.confirms);
                send(connection, status, self.flusher.now_us(), silence == Silence::Long)?;
            }
        }
        if self.machine.wants_to_advance() {
            self.machine.advance()?;
            self.tell_recorder(0);
            return Ok(());
        }
        if reading && connection.input.has_message() {
            return self.take_messages();
        }
        let deadline = self.machine.deadline();
        let meanwhile = if is_blocked { Doing::Blocked } else { Doing::Waiting };
        if self.wait(reading, deadline, meanwhile)? { self.read() } else { Ok(()) }
    }

    /// Waits until there is something to read (if `reading`) or to do, which is counted as what it
    /// does `meanwhile`; says whether to read.
    fn wait(&mut self, reading: bool, deadline: Instant, meanwhile: Doing) -> io::Result<bool> {
        let waker = PollFd::new(self.flusher.waker.as_fd(), PollFlags::POLLIN);
        let stream = match &mut self.link {
            Link::Up(connection) if reading => {
                if connection.transport.has_buffered() {
                    return Ok(true);
                }
                Some(PollFd::new(connection.transport.as_fd(), PollFlags::POLLIN))
            }
            _ => None,
        };
        let polls_stream = stream.is_some();
        // Where there is no stream to read, the waker stands in its place and is not looked at.
        let mut fds = [waker.clone(), stream.unwrap_or(waker)];
        let timeout = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a poll that ends before the deadline would be for nothing.
        let timeout_ms = timeout.as_micros().div_ceil(1_000).min(1_000) as u16;
        self.flusher.vitals.does(meanwhile);
        let polled = poll(&mut fds[..1 + usize::from(polls_stream)], PollTimeout::from(timeout_ms));
        self.flusher.vitals.does(Doing::Working);
        match polled {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Anything but silence is read: an error shows when reading.
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (woken, readable) = (ready(&fds[0]), polls_stream && ready(&fds[1]));
        if woken {
            self.flusher.waker.clear();
        }
        Ok(readable)
    }

    /// Reads once and handles every whole message.
    fn read(&mut self) -> Result<(), Trouble> {
        let Link::Up(connection) = &mut self.link else { return Ok(()) };
        let bytes = match connection.input.fill(&mut connection.transport) {
            Ok(0) => return Err(ReplicationError::Closed.into()),
            Ok(bytes) => bytes,
            // Half a TLS record has arrived, or a signal.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        self.arrived(bytes);
        self.take_messages()?;
        if !self.eager
            && let Some(wait) = self.pace.after_read(bytes)
        {
            self.flusher.vitals.does(Doing::Pacing);
            std::thread::sleep(wait);
            self.flusher.vitals.does(Doing::Working);
        }
        Ok(())
    }

    /// Bytes arrived now.
    fn arrived(&mut self, bytes: usize) {
        self.machine.arrived(self.flusher.now_us());
        let now = Instant::now();
        self.hearing.heard(now);
        self.read.first.get_or_insert(now);
        self.read.last = Some(now);
        self.read.bytes += bytes as u64;
        self.flusher.vitals.has_read();
        self.tell_recorder(bytes as u64);
    }

    /// The first bytes of a stream may have come with the answer that starts it.
    fn arrived_with_the_start(&mut self) {
        if let Link::Up(connection) = &self.link
            && let bytes @ 1.. = connection.input.unread_bytes()
        {
            self.arrived(bytes);
        }
    }

    /// Handles what was read, as far as there is room for it.
    fn take_messages(&mut self) -> Result<(), Trouble> {
        let taken = self.take_each_message();
        self.tell_recorder(0);
        taken
    }

    fn take_each_message(&mut self) -> Result<(), Trouble> {
        let Link::Up(connection) = &mut self.link else { return Ok(()) };
        let broken = |e: io::Error| ReplicationError::Protocol(e.to_string()).into_failure();
        while self.machine.wants_data() {
            let Some((tag, body)) = connection.input.next_message().map_err(broken)? else {
                break;
            };
            match tag {
                b'd' => {
                    #[cfg(feature = "planted")]
                    crate::planted::at_message();
                    self.machine.copy_data(body)?;
                }
                b'E' => {
                    let Source { slot, publication, .. } = &self.source;
                    let error = ServerError::from_body(body);
                    return Err(ReplicationError::ended(slot, publication, error).into());
                }
                b'N' | b'S' => {}
                // The server stops: CopyDone or CommandComplete.
                b'c' | b'C' => return Err(ReplicationError::Closed.into()),
                other => {
                    let text = format!("unexpected message {:?}", char::from(other));
                    return Err(ReplicationError::Protocol(text).into_failure().into());
                }
            }
        }
        Ok(())
    }

    /// Lets the doctor look at the connection.
    fn show_connection(&self) {
        if let Link::Up(connection) = &self.link {
            self.flusher.looks.show(&connection.transport);
        }
    }

    fn tell_recorder(&mut self, bytes: u64) {
        let account: &mut Account = self.machine.account();
        self.flusher.record(|recorder| recorder.read(bytes, account));
    }

    /// The connection is gone: what it left half is forgotten, and comes again with another.
    fn lost(&mut self, error: ReplicationError) -> Result<(), Failure> {
        if !error.is_transient() || self.patience.is_zero() {
            return Err(error.into_failure());
        }
        let now = Instant::now();
        let before = self.before.take().filter(|_| self.machine.received_lsn() <= self.resumed_lsn);
        self.machine.disconnected();
        self.flusher.looks.hide();
        self.link = Link::Down(match before {
            Some(reconnecting) => reconnecting.again(error, now)?,
            None => {
                let news = self.flusher.news.clone();
                Reconnecting::new(CONNECTION, self.patience, news, now).lost(error)
            }
        });
        Ok(())
    }

    /// The stream comes again from where it is whole, as text.
    fn begin_anew_as_text(&mut self, reason: &Failure) {
        self.terms.binary = false;
        self.machine.disconnected();
        self.before = None;
        let news = self.flusher.news.clone();
        news.tell(format!("the stream begins anew, with values as text: {}", reason.line()));
        self.flusher.looks.hide();
        let renewed = Link::Down(Reconnecting::renew(self.patience, news, Instant::now()));
        if let Link::Up(connection) = std::mem::replace(&mut self.link, renewed) {
            connection.terminate();
        }
    }

    /// Does what is next for a connection that was lost.
    fn reconnect(&mut self) -> Result<(), Failure> {
        let Link::Down(reconnecting) = &mut self.link else { return Ok(()) };
        match reconnecting.next(Instant::now()) {
            Next::Wait => {
                let failed = |e: io::Error| ReplicationError::Io(e).into_failure();
                let deadline = Instant::now() + LOOK_INTERVAL;
                self.wait(false, deadline, Doing::Disconnected).map(drop).map_err(failed)
            }
            Next::Try => {
                let (source, terms, flusher) =
                    (self.source.clone(), self.terms.clone(), self.flusher.clone());
                self.resumed_lsn = self.machine.resume_lsn();
                let (confirmed_lsn, resume_lsn) = (self.machine.confirmed_lsn(), self.resumed_lsn);
                let seen_lsn = self.machine.seen_lsn();
                let connect = move || source.resume(&terms, confirmed_lsn, resume_lsn, seen_lsn);
                reconnecting.try_now(connect, move || flusher.waker.wake())
            }
            Next::Back(connection) => {
                self.back(connection);
                Ok(())
            }
            Next::GiveUp(failure) => Err(failure),
        }
    }

    fn back(&mut self, connection: Connection) {
        if let Link::Down(before) = std::mem::replace(&mut self.link, Link::Up(connection)) {
            self.before = Some(before.came_back());
        }
        self.show_connection();
        self.hearing.heard(Instant::now());
        self.arrived_with_the_start();
        self.read.reconnects += 1;
        self.flusher.record(Recorder::reconnected);
    }
}

fn send(
    connection: &mut Connection,
    status: Status,
    now_us: i64,
    asks_reply: bool,
) -> io::Result<()> {
    let Status { written_lsn, flushed_lsn } = status;
    #[cfg(feature = "planted")]
    let flushed_lsn = crate::planted::confirmed(flushed_lsn);
    let update = StatusUpdate { written_lsn, flushed_lsn, now_us, asks_reply };
    connection.transport.write_all(&update.encode())?;
    connection.transport.flush()
}
