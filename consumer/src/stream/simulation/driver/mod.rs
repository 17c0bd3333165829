//! What happens, from a seed: every step is drawn, every cycle of a consumer's life ends with a
//! fault at a boundary that was drawn before it began, and what was promised is checked all along.

mod ends;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use walbench_metrics::Failure;

use super::boundary::{BOUNDARIES, Boundary, Counts, End};
use super::check::{Broken, Durable, Promise};
use super::database::Database;
use super::draw::Draw;
use super::plan::{Failing, Plan};
use super::server::{Options, Slot, Walsender};
use super::sink::Sink;
use super::trace::{readable, work};
use crate::sink::SinkError;
use crate::stream::fault::{Fault, is_planted};
use crate::stream::{Job, Machine, Work};

/// Cycles that one seed runs.
pub(super) const CYCLES: u64 = 40;

/// Steps in which a cycle has to reach its boundary; if it doesn't, it ends where it is.
const MOST_STEPS: u64 = 150;

/// Bytes that one message may add beyond the bound: two versions of a row.
const LARGEST_MESSAGE_BYTES: u64 = 200;

/// Bytes that it may add beside its rows: it may be cut, or be a truncation behind one that is cut.
const LARGEST_OVERHEAD_BYTES: u64 = 1_000;

/// Bytes that a job takes at least, whatever it is to do.
const LEAST_JOB_BYTES: u64 = 18;

/// Bytes that a transaction takes at least which has ended and is not durable.
const LEAST_TRANSACTION_BYTES: u64 = 16;

/// Why a step ends early.
enum Stop {
    /// Its boundary was reached.
    Boundary(Boundary),
    /// The catalogue could not be asked.
    Unanswered,
    Broken(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

type Step = Result<(), Stop>;

/// What a seed did.
pub(super) struct Ran {
    pub counts: Counts,
    pub result: Result<(), Broken>,
    pub trace: Vec<String>,
}

/// A job at the sink.
struct Running {
    job: Job,
    /// The sink has done it, and has not said so.
    is_applied: bool,
}

/// A server, a sink, and a consumer between them.
struct World {
    draw: Draw,
    plan: Plan,
    database: Database,
    slot: Slot,
    walsender: Option<Walsender>,
    /// As server and slot were at an earlier time of this consumer's life.
    earlier: Option<(Database, Slot)>,
    catalogue: Failing,
    /// Consumers so far.
    machines: u32,
    /// Read from the connection and not decoded.
    received: VecDeque<Vec<u8>>,
    /// Confirmed positions on their way to the server.
    statuses: VecDeque<u64>,
    machine: Machine,
    /// Where the machine began, and how far it has confirmed.
    machine_start_lsn: u64,
    machine_confirmed_lsn: u64,
    running: Vec<Running>,
    failures: BTreeMap<u64, u32>,
    /// When each of the jobs that failed did so first.
    failed_at: BTreeMap<u64, Instant>,
    next_number: u64,
    sink: Sink,
    durable: Durable,
    /// Nothing has gone wrong so far: nothing may come twice.
    is_smooth: bool,
    start: Instant,
    now: Instant,
    /// Where this cycle ends, and how often it passes there before.
    target: Option<(Boundary, u64)>,
    counts: Counts,
    trace: Option<Vec<String>>,
}

/// Runs one seed.
pub(super) fn run(seed: u64, is_traced: bool) -> Ran {
    let mut world = World::new(seed, is_traced);
    let result = world.run();
    world.counts.transactions = world.database.model.order.len() as u64;
    Ran { counts: world.counts, result, trace: world.trace.unwrap_or_default() }
}

/// The machine refuses something that it must not.
fn refused(failure: impl fmt::Display) -> Stop {
    Broken::new(Promise::StreamIsUnderstood, failure.to_string()).into()
}

fn broken<T>(promise: Promise, how: impl Into<String>) -> Result<T, Stop> {
    Err(Broken::new(promise, how).into())
}

/// What a sink did that it can't have done.
fn mangled(how: String) -> Broken {
    Broken::new(Promise::StatesAreEqual, how)
}

impl World {
    fn new(seed: u64, is_traced: bool) -> Self {
        let mut draw = Draw::new(seed);
        let plan = Plan::new(&mut draw);
        let start = Instant::now();
        let confirmed_lsn = 1_000;
        let catalogue = Failing::default();
        let settings = plan.settings(confirmed_lsn);
        let mut world = Self {
            database: Database::new(plan.habits),
            slot: Slot { confirmed_lsn, persisted_lsn: confirmed_lsn, two_phase_at: None },
            walsender: None,
            earlier: None,
            machines: 1,
            received: VecDeque::new(),
            statuses: VecDeque::new(),
            machine: Machine::new(settings, Box::new(catalogue.clone()), start),
            catalogue,
            machine_start_lsn: confirmed_lsn,
            machine_confirmed_lsn: confirmed_lsn,
            running: Vec::new(),
            failures: BTreeMap::new(),
            failed_at: BTreeMap::new(),
            next_number: 0,
            sink: Sink::default(),
            durable: Durable::default(),
            is_smooth: true,
            start,
            now: start,
            target: None,
            counts: Counts::default(),
            trace: is_traced.then(Vec::new),
            draw,
            plan,
        };
        note!(world, "{plan:?}");
        world
    }

    fn run(&mut self) -> Result<(), Broken> {
        for _ in 0..CYCLES {
            self.cycle()?;
        }
        self.finish_cycle(End::Quiet)
    }

    fn cycle(&mut self) -> Result<(), Broken> {
        let boundary = BOUNDARIES[self.draw.index(BOUNDARIES.len())];
        let times = self.draw.below(self.plan.patience);
        self.target = Some((boundary, times));
        self.draw_outage();
        self.draw_earlier();
        let stop = self.steps_to_boundary()?;
        self.target = None;
        self.catalogue.fail_after(None);
        let end = match stop {
            Some(Stop::Unanswered) => End::Unanswered,
            _ => self.choose_end(),
        };
        note!(self, "*** {end:?}");
        if let Some(Stop::Boundary(boundary)) = stop {
            note!(self, "*** {boundary:?}");
            self.counts.at[boundary as usize] += 1;
        }
        self.finish_cycle(end)
    }

    /// The catalogue can't be asked at some time to come, or always can.
    fn draw_outage(&mut self) {
        let one_in = self.plan.outage_one_in;
        let fails = one_in > 0 && self.draw.one_in(one_in);
        self.catalogue.fail_after(fails.then(|| self.draw.below(5)));
    }

    /// The server as it is now, if it may be so again.
    fn draw_earlier(&mut self) {
        if self.draw.one_in(5) {
            let slot = Slot { confirmed_lsn: self.slot.persisted_lsn, ..self.slot };
            self.earlier = Some((self.database.clone(), slot));
        }
    }

    /// Says why it ends, unless that is after many steps.
    fn steps_to_boundary(&mut self) -> Result<Option<Stop>, Broken> {
        for _ in 0..MOST_STEPS {
            match self.step().and_then(|()| self.check().map_err(Stop::Broken)) {
                Ok(()) => {}
                Err(Stop::Broken(broken)) => return Err(broken),
                Err(stop) => return Ok(Some(stop)),
            }
        }
        Ok(None)
    }

    fn choose_end(&mut self) -> End {
        if self.plan.sink_dies_one_in > 0 && self.draw.one_in(self.plan.sink_dies_one_in) {
            return End::Dead;
        }
        self.draw.weighted(&[
            (5, End::Cut),
            (2, End::Crash),
            (5, End::Kill),
            (4, End::Overtake),
            (1, End::CrashAndKill),
            (2, End::Stop),
            (3, End::Quiet),
            (2, End::GiveUp),
            (1, End::Until),
            (if self.earlier.is_some() { 4 } else { 0 }, End::Rewind),
        ])
    }

    /// Passes a boundary, or ends there.
    fn at(&mut self, boundary: Boundary) -> Step {
        match &mut self.target {
            Some((target, times)) if *target == boundary => match times.checked_sub(1) {
                Some(left) => *times = left,
                None => return Err(Stop::Boundary(boundary)),
            },
            _ => {}
        }
        Ok(())
    }

    /// What holds at any time.
    fn check(&mut self) -> Result<(), Broken> {
        let confirmed_lsn = self.machine.confirmed_lsn();
        if confirmed_lsn < self.machine_confirmed_lsn {
            let how = format!("{} fell to {confirmed_lsn}", self.machine_confirmed_lsn);
            return Err(Broken::new(Promise::ConfirmedRises, how));
        }
        self.machine_confirmed_lsn = confirmed_lsn;
        let bound = self.plan.max_in_flight_bytes + LARGEST_MESSAGE_BYTES;
        let bytes = (self.machine.in_flight_bytes(), self.machine.memory_bytes());
        if bytes.0 > bound || bytes.1 > bound + LARGEST_OVERHEAD_BYTES {
            let how = format!("{bytes:?} bytes in flight and in all, bounded by {bound}");
            return Err(Broken::new(Promise::MemoryIsBounded, how));
        }
        let (jobs, transactions) = self.machine.remembered();
        let least = jobs * LEAST_JOB_BYTES + transactions * LEAST_TRANSACTION_BYTES;
        if least > bound {
            let how = format!("{jobs} jobs and {transactions} transactions wait, {bound} bytes");
            return Err(Broken::new(Promise::MemoryIsBounded, how));
        }
        Ok(())
    }

    fn check_durable(&mut self) -> Step {
        Ok(self.durable.check(&self.slot, &self.database, &self.sink)?)
    }
}

/// What happens in a cycle.
impl World {
    fn step(&mut self) -> Step {
        match self.draw.below(20) {
            0..4 => self.write(),
            4..7 => self.send(),
            7..9 => self.receive(),
            9..12 => self.decode(),
            12 => self.replay(),
            13 => self.cut(),
            14..16 => self.start_flush(),
            16..18 => self.end_flush(),
            18 => self.tell_status(),
            _ => self.wait(),
        }
    }

    fn write(&mut self) -> Step {
        for _ in 0..self.draw.between(1, 6) {
            self.database.step(&mut self.draw);
        }
        if self.draw.one_in(10) {
            self.slot.persisted_lsn = self.slot.confirmed_lsn;
        }
        Ok(())
    }

    fn connect(&mut self) -> Step {
        if self.slot.confirmed_lsn > self.machine.confirmed_lsn() {
            return broken(Promise::StreamIsUnderstood, "the slot was moved by somebody else");
        }
        if self.has_lost_wal() {
            return broken(Promise::StreamIsUnderstood, "a server that lost nothing is refused");
        }
        let two_phase = self.machines > self.plan.two_phase_from;
        let options = Options { two_phase, ..self.plan.options };
        let start_lsn = self.machine.resume_lsn();
        note!(self, "connect at {start_lsn}, {:?}", self.slot);
        let (slot, database) = (&mut self.slot, &self.database);
        let walsender = Walsender::start(slot, database, options, start_lsn, &mut self.draw);
        self.walsender = Some(walsender);
        Ok(())
    }

    /// Whether the server lacks something that was received; then it is not followed.
    fn has_lost_wal(&mut self) -> bool {
        self.machine.seen_lsn() > self.database.end_lsn() && !is_planted(Fault::FollowOlderServer)
    }

    /// The server sends something.
    fn send(&mut self) -> Step {
        let Some(walsender) = &mut self.walsender else { return self.connect() };
        for _ in 0..self.draw.between(1, 6) {
            walsender.decode_next(&self.database, &mut self.draw);
        }
        Ok(())
    }

    /// What the server has sent arrives.
    fn receive(&mut self) -> Step {
        if self.walsender.as_ref().is_none_or(|walsender| walsender.out.is_empty()) {
            return self.send();
        }
        self.at(Boundary::BeforeReceive)?;
        let Some(walsender) = &mut self.walsender else { return Ok(()) };
        let some = 1 + self.draw.index(walsender.out.len());
        self.received.extend(walsender.out.drain(..some));
        self.machine.arrived((self.now - self.start).as_micros() as i64);
        self.at(Boundary::AfterReceive)
    }

    fn decode(&mut self) -> Step {
        if self.received.is_empty() {
            return self.receive();
        }
        for _ in 0..self.draw.between(1, 10) {
            if !self.machine.wants_data() || self.received.is_empty() {
                break;
            }
            self.at(Boundary::BeforeDecode)?;
            self.take_message()?;
            self.at(Boundary::AfterDecode)?;
        }
        Ok(())
    }

    fn take_message(&mut self) -> Step {
        let Some(body) = self.received.pop_front() else { return Ok(()) };
        note!(self, "{}", readable(&body));
        self.counts.messages += 1;
        let read = self.machine.copy_data(&body);
        self.was_read(read)?;
        Ok(self.check()?)
    }

    /// The machine has read something; what it has to know of it may not be known now.
    fn was_read(&mut self, read: Result<(), Failure>) -> Step {
        let is_unanswered = self.catalogue.take_unanswered();
        match read {
            Err(_) if is_unanswered => Err(Stop::Unanswered),
            read => read.map_err(refused),
        }
    }

    fn replay(&mut self) -> Step {
        if !self.machine.wants_to_advance() {
            return self.decode();
        }
        self.at(Boundary::BeforeReplay)?;
        self.advance()?;
        self.at(Boundary::AfterReplay)
    }

    fn advance(&mut self) -> Step {
        note!(self, "advance");
        let read = self.machine.advance();
        self.was_read(read)
    }

    fn cut(&mut self) -> Step {
        if self.machine.open_rows() == 0 {
            return self.decode();
        }
        self.at(Boundary::BeforeBatch)?;
        let is_asked = self.draw.one_in(4);
        if is_asked {
            self.machine.cut();
        } else {
            self.machine.cut_if_due(self.now);
        }
        note!(self, "cut, {} rows are left", self.machine.open_rows());
        if self.machine.open_rows() == 0 { self.at(Boundary::AfterBatch) } else { Ok(()) }
    }

    fn start_flush(&mut self) -> Step {
        self.at(Boundary::BeforeSend)?;
        let Some(job) = self.machine.start_flush(self.now) else { return self.cut() };
        self.begin_job(job)?;
        self.at(Boundary::AfterSend)
    }

    fn begin_job(&mut self, job: Job) -> Step {
        note!(self, "start job {} ({} failures): {}", job.number, job.failures, work(&job.work));
        self.check_job(&job)?;
        if matches!(job.work, Work::Truncate(_)) {
            self.end_late_writes()?;
        }
        self.running.push(Running { job, is_applied: false });
        Ok(())
    }

    /// Jobs come in order, again as often as they failed, and no more of them than may.
    fn check_job(&mut self, job: &Job) -> Step {
        let failures = self.failures.get(&job.number).copied();
        let is_next = failures.is_none() && job.number == self.next_number && job.failures == 0;
        if !is_next && failures != Some(job.failures) {
            return broken(Promise::RetriesEnd, format!("job {} is none to start", job.number));
        }
        if self.running.len() >= self.plan.flush_concurrency {
            return broken(Promise::RetriesEnd, "more jobs run at once than may");
        }
        self.next_number += u64::from(is_next);
        self.failures.insert(job.number, job.failures);
        Ok(())
    }

    /// What a truncation needs of the sink: no write that was begun before it comes after it.
    fn end_late_writes(&mut self) -> Step {
        while self.sink.late() > 0 && self.draw.chance(50) {
            self.apply_late()?;
        }
        self.sink.forget_late();
        Ok(())
    }

    fn apply_late(&mut self) -> Step {
        note!(self, "a late write is carried out");
        let index = self.draw.index(self.sink.late());
        Ok(self.sink.apply_late(index).map_err(mangled)?)
    }

    /// A job ends, well or not.
    fn end_flush(&mut self) -> Step {
        if self.sink.late() > 0 && self.draw.one_in(4) {
            return self.apply_late();
        }
        if self.running.is_empty() {
            return self.start_flush();
        }
        self.end_job()
    }

    fn end_job(&mut self) -> Step {
        let at = self.draw.index(self.running.len());
        let may_fail = !self.is_last_failure(self.running[at].job.number);
        let fails = may_fail && self.draw.chance(self.plan.failures);
        if fails {
            self.is_smooth = false;
            match self.draw.below(3) {
                0 => self.apply(at)?,
                1 => self.sink.keep(&self.running[at].job.work).map_err(mangled)?,
                _ => {}
            }
        } else {
            self.apply(at)?;
        }
        self.at(Boundary::BeforeAcknowledge)?;
        self.report(at, !fails)?;
        self.at(Boundary::AfterAcknowledge)
    }

    /// Whether a job that fails now has failed for as long as it may.
    fn is_last_failure(&self, number: u64) -> bool {
        let failed_at = self.failed_at.get(&number).copied().unwrap_or(self.now);
        self.now - failed_at >= self.plan.flush_patience
    }

    /// A job fails now; whether it has failed for as long as it may.
    fn fail(&mut self, number: u64) -> bool {
        *self.failures.entry(number).or_default() += 1;
        self.failed_at.entry(number).or_insert(self.now);
        self.is_last_failure(number)
    }

    fn apply(&mut self, at: usize) -> Step {
        let Running { job, is_applied } = &mut self.running[at];
        if std::mem::replace(is_applied, true) {
            return Ok(());
        }
        self.sink.apply(&job.work).map_err(mangled)?;
        note!(self, "job {} is carried out", self.running[at].job.number);
        self.check_durable()
    }

    /// The machine hears of a job's end.
    fn report(&mut self, at: usize, acknowledged: bool) -> Step {
        let Running { job, .. } = self.running.swap_remove(at);
        note!(self, "job {} acknowledged: {acknowledged}", job.number);
        let result = if acknowledged {
            self.failures.insert(job.number, u32::MAX);
            Ok(())
        } else {
            self.fail(job.number);
            Err(SinkError { failure: Failure::new("simulated"), transient: true })
        };
        self.machine.flush_ended(job, result, self.now).map_err(refused)
    }

    fn tell_status(&mut self) -> Step {
        if self.walsender.is_some()
            && let Some(status) = self.machine.status(self.now)
        {
            self.at(Boundary::BeforeConfirm)?;
            note!(self, "{status:?}");
            self.statuses.push_back(status.flushed_lsn);
        }
        if self.statuses.is_empty() || self.draw.chance(20) {
            return Ok(());
        }
        self.confirm()?;
        self.at(Boundary::AfterConfirm)
    }

    /// The server hears of what is durable.
    fn confirm(&mut self) -> Step {
        let Some(confirmed_lsn) = self.statuses.pop_front() else { return Ok(()) };
        let (before, end_lsn) = (self.slot.confirmed_lsn, self.database.end_lsn());
        if !(before..=end_lsn).contains(&confirmed_lsn) {
            let how = format!("{confirmed_lsn} behind {before}, at most {end_lsn}");
            return broken(Promise::ConfirmedRises, how);
        }
        note!(self, "the slot is confirmed at {confirmed_lsn}");
        self.slot.confirmed_lsn = confirmed_lsn;
        self.check_durable()
    }

    fn wait(&mut self) -> Step {
        let deadline = self.machine.deadline().max(self.now);
        self.now = match self.draw.below(3) {
            0 => deadline,
            1 => self.now + Duration::from_micros(self.draw.between(1, 40_000)),
            _ => self.now + Duration::from_micros(self.draw.between(1, 900)),
        };
        Ok(())
    }
}
