//! The rules. Each looks at one phase's signals and says what it finds, or nothing.

use super::finding::{Cause, Confidence, Figure, Finding, Unit};
use super::signals::{
    Busy, ConnectionShares, Growth, Lane, LooksShares, MachineShares, MemoryGrowth, ProcessShares,
    ReceiverShares, Signals, WaitShares,
};
use super::thresholds::THRESHOLDS as T;

/// All that the rules find, the weightiest first: what limited the phase, or that nothing did, then
/// what did no harm yet. There is always one.
#[must_use]
pub fn findings(signals: &Signals) -> Vec<Finding> {
    if !signals.measured {
        return vec![Finding::new(Cause::NoData, "nothing was measured").limits_if(false)];
    }
    let mut found: Vec<Finding> = RULES.iter().filter_map(|rule| rule(signals)).collect();
    let of_lanes = LANE_RULES.iter().filter_map(|rule| {
        let by_lane = signals.lanes.iter().filter_map(|lane| rule(signals, lane));
        by_lane.min_by_key(|finding| (!finding.is_limit, finding.confidence))
    });
    found.extend(of_lanes);
    if let Some(contradiction) = signals.lanes.iter().find_map(|lane| contradiction(signals, lane))
    {
        // What one of them says the other denies.
        found.retain(|finding| !finding.cause.explains_behind() || !finding.is_limit);
        found.push(contradiction);
    }
    found.extend(unexplained(signals, &found));
    if !signals.is_limited() {
        found.iter_mut().for_each(|finding| finding.is_limit = false);
        found.push(healthy(signals));
    }
    if signals.is_external {
        found.iter_mut().for_each(leave_own_keys_out);
    }
    found.sort_by_key(|f| (!f.is_limit && f.cause != Cause::Healthy, f.confidence, f.cause));
    found
}

const RULES: [fn(&Signals) -> Option<Finding>; 9] =
    [write_errors, host_cpu, disk_wal, harness, producer, sink, spill, confirm_stall, memory];

/// Of each consumer and its walsender; the worst is told.
const LANE_RULES: [fn(&Signals, &Lane) -> Option<Finding>; 6] =
    [disconnected, starved_runtime, decode_cpu, network, walsender, silent_consumer];

/// Keys of the plan's `[consumer]` that mean something to any program in its place.
const ANY_CONSUMERS_KEYS: [&str; 2] = ["consumer.processes", "consumer.distribution"];

/// What walbench's own consumer alone could be told.
fn leave_own_keys_out(finding: &mut Finding) {
    finding.advice.retain(|advice| {
        let key = advice.key.as_deref().unwrap_or_default();
        !key.starts_with("consumer.") || ANY_CONSUMERS_KEYS.contains(&key)
    });
}

impl Signals {
    /// The phase did not get what it asked for.
    fn is_limited(&self) -> bool {
        self.short.is_some() || self.behind.is_some()
    }

    /// Share of the time for which a walsender waited so: the one that did most.
    fn walsender_waits(&self, event: &str) -> Option<f64> {
        self.lanes.iter().filter_map(|lane| lane.walsender_waits(event)).max_by(f64::total_cmp)
    }

    /// For how long a consumer's end of its connection had no room, if that is long: the longest.
    fn window_limited(&self) -> Option<f64> {
        self.lanes.iter().filter_map(Lane::window_limited).max_by(f64::total_cmp)
    }

    /// The worker that waited most for a core.
    fn most_delayed(&self) -> Option<(&str, f64)> {
        let consumers = self.lanes.iter().filter_map(|lane| lane.process.as_ref());
        let workers = self.producers.iter().chain(consumers);
        let delayed = workers.filter_map(|it| Some((it.name.as_str(), it.run_delay_cores?)));
        delayed.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Cores of the machine that were busy: of all programs, or at least of ours.
    fn busy_cores(&self) -> Option<f64> {
        self.machine.map(|machine| machine.busy_cores).or(self.used_cores)
    }

    /// PostgreSQL runs on this machine.
    fn is_postgres_here(&self) -> bool {
        let mut walsenders = self.lanes.iter().filter_map(|lane| lane.walsender.as_ref());
        walsenders.any(|walsender| walsender.cores.is_some())
    }
}

impl Lane {
    /// Share of the time for which the walsender waited so.
    fn walsender_waits(&self, event: &str) -> Option<f64> {
        Some(self.walsender.as_ref()?.waits.as_ref()?.of(event))
    }

    /// The same, if it is so much.
    fn walsender_waits_long(&self, event: &str, threshold: f64) -> Option<f64> {
        self.walsender_waits(event).filter(|share| *share >= threshold)
    }

    /// Cores that the walsender used.
    fn walsender_cores(&self) -> Option<f64> {
        self.walsender.as_ref()?.cores
    }

    fn looks(&self) -> Option<LooksShares> {
        self.receiver.as_ref()?.looks
    }

    /// What the receiving thread does for so much of the time.
    fn receiver_long(&self, of: fn(&ReceiverShares) -> f64, threshold: f64) -> Option<f64> {
        self.receiver.as_ref().map(of).filter(|share| *share >= threshold)
    }

    /// For how long the consumer has no room for more, if that is long.
    fn blocked(&self) -> Option<f64> {
        self.receiver_long(|it| it.blocked, T.receiver_blocked)
    }

    /// For how long it has no connection, if that is long. Of one that tells nothing of itself, for
    /// how long its slot has no walsender.
    fn disconnected(&self) -> Option<f64> {
        match self.receiver {
            Some(_) => self.receiver_long(|it| it.disconnected, T.disconnected),
            None => self.walsender_waits_long("absent", T.disconnected),
        }
    }

    /// For how long it waits for data, if that is long.
    fn receiver_waits(&self) -> Option<Figure> {
        let waits = self.receiver_long(|it| it.waits, T.receiver_waits)?;
        let figure = Figure::share(format!("{} waits for data", self.consumer), waits);
        Some(figure.against(T.receiver_waits))
    }

    /// For how long its end of the connection has no room for more, if that is long.
    fn window_limited(&self) -> Option<f64> {
        let share = self.connection?.window_limited;
        Some(share).filter(|share| *share >= T.window_limited)
    }

    /// The connection, if it loses much of what is sent, and nobody else holds it up.
    fn lossy_connection(&self) -> Option<ConnectionShares> {
        self.connection.filter(|it| {
            it.busy >= T.busy_connection
                && it.window_limited < T.window_limited
                && it.retransmitted > T.retransmitted
        })
    }

    /// Cores that its threads waited for.
    fn run_delay_cores(&self) -> f64 {
        self.process.as_ref().and_then(|it| it.run_delay_cores).unwrap_or_default()
    }
}

/// That the walsender waits for its consumer.
fn writes(share: f64) -> Figure {
    Figure::share("the walsender waits for its consumer", share).against(T.walsender_writes)
}

/// The same, as the kernel counts it.
fn has_no_room(share: f64) -> Figure {
    Figure::share("the walsender's connection has no room at its other end", share)
        .against(T.window_limited)
}

fn busiest(processes: &[ProcessShares]) -> Option<&ProcessShares> {
    processes.iter().max_by(|a, b| a.cores.total_cmp(&b.cores))
}

/// A figure of a process's CPU, and of its busiest thread.
fn cpu(process: &ProcessShares) -> impl Iterator<Item = Figure> {
    let thread = process.busiest_thread.iter().map(|(thread, cores)| {
        Figure::new(format!("CPU of its thread {thread}"), *cores, Unit::Cores)
            .against(T.busy_thread)
    });
    let cores = Figure::new(format!("CPU of {}", process.name), process.cores, Unit::Cores);
    std::iter::once(cores).chain(thread)
}

fn write_errors(signals: &Signals) -> Option<Finding> {
    signals.short.as_ref()?;
    let errors = signals.errors.as_ref()?;
    let failed =
        Figure::new("rows that failed after all attempts", errors.rows as f64, Unit::Count);
    let finding = Finding::new(Cause::WriteErrors, errors.said.clone())
        .sure(Confidence::High)
        .because([failed.against(1.0)]);
    Some(finding.advise("see PostgreSQL's log and the errors by SQLSTATE in metrics.json"))
}

fn host_cpu(signals: &Signals) -> Option<Finding> {
    let busy = signals.busy_cores()?;
    let is_full = busy >= T.busy_machine * signals.cores;
    let delay = signals.most_delayed().filter(|(_, cores)| *cores >= T.run_delay_cores);
    let pressure = signals.machine.and_then(|machine| machine.cpu_pressure);
    let waits = delay.is_some() && pressure.is_none_or(|share| share >= T.cpu_pressure);
    if !is_full && !waits {
        return None;
    }
    let said = match is_full {
        true => "the machine has no CPU left",
        false => "processes of the run wait for a core",
    };
    let busy = Figure::new(format!("busy of {} cores", signals.cores), busy, Unit::Cores)
        .against(T.busy_machine * signals.cores);
    let pressure = pressure
        .map(|share| Figure::share("some process waits for a core", share).against(T.cpu_pressure));
    let delay = delay.map(|(name, cores)| {
        let name = format!("{name} waits for cores");
        Figure::new(name, cores, Unit::Cores).against(T.run_delay_cores)
    });
    let (others, stolen) = match signals.machine {
        Some(MachineShares { others_cores, stolen_cores, .. }) => (others_cores, stolen_cores),
        None => (None, 0.0),
    };
    let others = others.filter(|cores| *cores >= T.others_cores);
    let of_others = others.map(|cores| {
        Figure::new("CPU of programs that are not of the run", cores, Unit::Cores)
            .against(T.others_cores)
    });
    let stolen = (stolen >= T.stolen_cores).then(|| {
        Figure::new("CPU taken by other machines on the same hardware", stolen, Unit::Cores)
    });
    let sure = match (is_full, waits) {
        (true, true) => Confidence::High,
        _ => Confidence::Medium,
    };
    let finding = Finding::new(Cause::HostCpu, said)
        .limits_if(is_full)
        .sure(sure)
        .because([busy])
        .because(pressure.into_iter().chain(delay).chain(of_others).chain(stolen));
    Some(match others {
        Some(_) => finding.advise(
            "end what else runs on this machine: figures of this run are not comparable with others",
        ),
        None => finding
            .set("producer.launcher", "[\"ssh\", \"…\", \"walbench\"]", "producers on another machine")
            .set("postgres.url", "…", "a server on another machine"),
    })
}

fn disk_wal(signals: &Signals) -> Option<Finding> {
    signals.short.as_ref()?;
    let connections = signals.connections.filter(|it| it.share >= T.used_connections)?;
    let waits = signals.backends.as_ref()?;
    let share = waits.of("walsync") + waits.of("walwrite");
    // Another machine's disk is none of this one's.
    let here = signals.machine.filter(|_| signals.is_postgres_here());
    let pressure = here.and_then(|machine| machine.io_pressure);
    if share < T.wal_waits {
        return None;
    }
    let pressed = pressure.filter(|share| *share >= T.io_pressure);
    let figures = [
        Figure::share("backends wait for WAL to be written", share).against(T.wal_waits),
        waiting_connections(connections),
    ];
    let finding = Finding::new(Cause::DiskWal, "commits wait for the WAL's disk")
        .sure(if pressed.is_some() { Confidence::High } else { Confidence::Medium })
        .because(figures)
        .because(pressed.map(|share| {
            Figure::share("some process waits for a disk", share).against(T.io_pressure)
        }));
    Some(
        finding
            .raise("producer.batch_size", "fewer commits for as many rows")
            .raise("producer.connections", "commits share a write")
            .set(
                "postgres.settings",
                "{ wal_compression = \"on\" }",
                "less WAL; or a faster disk for it",
            ),
    )
}

fn waiting_connections(connections: Busy) -> Figure {
    let name = format!("{} connections wait for PostgreSQL's answers", connections.of);
    Figure::share(name, connections.share.min(1.0)).against(T.busy_connections)
}

fn harness(signals: &Signals) -> Option<Finding> {
    signals.short.as_ref()?;
    if signals.errors.is_some() {
        return None;
    }
    let process = busiest(&signals.producers)?;
    if signals.connections.is_some_and(|it| it.share >= T.busy_connections) {
        return None;
    }
    let thread = process.busiest_thread.as_ref();
    let is_busy = thread.is_some_and(|(_, cores)| *cores >= T.busy_thread);
    let free = signals.connections.filter(|it| it.share < T.used_connections);
    if !is_busy && free.is_none() {
        return None;
    }
    let (said, sure) = match is_busy {
        true => ("the generator's own CPU is the limit", Confidence::High),
        false => ("the generator sent late though its connections were free", Confidence::Low),
    };
    let finding = Finding::new(Cause::HarnessBound, said)
        .sure(sure)
        .because(cpu(process))
        .because(signals.connections.map(waiting_connections));
    Some(finding.raise("producer.processes", "more processes write"))
}

fn producer(signals: &Signals) -> Option<Finding> {
    signals.short.as_ref()?;
    let connections = signals.connections.filter(|it| it.share >= T.busy_connections)?;
    let idle = signals.walsender_waits("walsenderwaitforwal");
    let is_idle = idle.is_some_and(|share| share >= T.walsender_idle);
    let most = signals.backends.as_ref().and_then(WaitShares::most);
    let finding = Finding::new(Cause::ProducerBound, "PostgreSQL's answers are the limit")
        .sure(if is_idle { Confidence::High } else { Confidence::Medium })
        .because([waiting_connections(connections)])
        .because(idle.map(|share| {
            Figure::share("the walsender waits for new WAL", share).against(T.walsender_idle)
        }))
        .because(most.map(|(event, share)| {
            let name = match event {
                "running" => "backends run, and wait for nothing".to_owned(),
                event => format!("backends wait: {event}"),
            };
            Figure::share(name, share)
        }));
    Some(
        finding
            .raise("producer.connections", "more transactions at once")
            .raise("producer.batch_size", "more rows in each transaction"),
    )
}

fn sink(signals: &Signals) -> Option<Finding> {
    let sink = &signals.sink;
    let flushes = sink.flushes.filter(|it| it.share >= T.busy_flushes);
    let stalled = signals.durable_stall_sec.filter(|sec| *sec >= T.stall_sec);
    let refused = sink.retries + sink.delayed_inserts + sink.rejected_inserts > 0;
    // What waits for a flush that nobody begins waits for somebody else.
    if flushes.is_none() && stalled.is_none() && !refused {
        return None;
    }
    let queued = sink.queued.filter(|share| *share >= T.queued);
    let blocked = signals.lanes.iter().filter_map(|lane| Some((lane, lane.blocked()?)));
    let blocked = blocked.max_by(|a, b| a.1.total_cmp(&b.1));
    let waits = signals.walsender_waits("walsenderwritedata");
    let waits = waits.filter(|share| *share >= T.walsender_writes);
    let window = signals.window_limited();
    let agreeing = [
        flushes.is_some(),
        queued.is_some(),
        blocked.is_some(),
        stalled.is_some(),
        waits.is_some() || window.is_some(),
    ];
    let agreeing = agreeing.into_iter().filter(|agrees| *agrees).count();
    let harms = signals.behind.is_some() && agreeing > 0;
    if !harms && stalled.is_none() {
        return None;
    }
    let finding = Finding::new(Cause::SinkBound, "the sink takes rows more slowly than they come")
        .limits_if(signals.behind.is_some())
        .sure(if agreeing > 1 { Confidence::High } else { Confidence::Medium })
        .because(flushes.map(|busy| {
            let name = format!("flushes under way, of the {} allowed at once", busy.of);
            Figure::share(name, busy.share.min(1.0)).against(T.busy_flushes)
        }))
        .because(queued.map(|share| {
            Figure::share("a batch waits for a place among the flushes", share).against(T.queued)
        }))
        .because(blocked.map(|(lane, share)| {
            let name = format!("{} reads nothing, for want of room", lane.consumer);
            Figure::share(name, share).against(T.receiver_blocked)
        }))
        .because(stalled.map(|sec| {
            Figure::new("longest time in which rows came and none became durable", sec, Unit::Sec)
                .against(T.stall_sec)
        }))
        .because(waits.map(writes))
        .because(window.map(has_no_room))
        .because(sink.flush_p99_us.map(|us| Figure::new("flush p99", us as f64, Unit::Us)));
    Some(advise_on_the_sink(signals, finding))
}

fn advise_on_the_sink(signals: &Signals, finding: Finding) -> Finding {
    let sink = &signals.sink;
    let counted = [
        ("flushes tried again", sink.retries),
        ("inserts that ClickHouse held up", sink.delayed_inserts),
        ("inserts that ClickHouse refused", sink.rejected_inserts),
    ];
    let counted = counted.into_iter().filter(|(_, count)| *count > 0);
    let finding = finding
        .because(counted.map(|(name, count)| Figure::new(name, count as f64, Unit::Count)))
        .because(sink.active_parts.map(|n| Figure::new("active parts", n as f64, Unit::Count)))
        .because(
            sink.batch_fill
                .map(|share| Figure::share("how full batches are", share).against(T.full_batches)),
        );
    // It is not always their size that ends them.
    let is_small = sink.batch_fill.is_some_and(|share| share < T.full_batches);
    let has_no_room = signals.lanes.iter().any(|lane| lane.blocked().is_some());
    let finding = match (is_small, has_no_room) {
        (true, true) => {
            finding.raise("consumer.max_in_flight_bytes", "there is no room for full batches")
        }
        (true, false) => {
            finding.raise("consumer.flush_interval_ms", "batches end by their age, and are small")
        }
        _ => finding.raise("consumer.flush_batch_size", "fewer and larger inserts"),
    };
    match sink.delayed_inserts + sink.rejected_inserts {
        0 => finding.raise("consumer.max_flush_concurrency", "more inserts at once"),
        _ => finding.lower("consumer.max_flush_concurrency", "ClickHouse has too many parts"),
    }
}

fn disconnected(signals: &Signals, lane: &Lane) -> Option<Finding> {
    let share = lane.disconnected()?;
    let figure = Figure::share("without a connection", share).against(T.disconnected);
    let said = format!("{} had no connection to PostgreSQL", lane.consumer);
    let finding = Finding::new(Cause::Disconnected, said)
        .limits_if(signals.behind.is_some())
        .sure(Confidence::High)
        .because([figure]);
    Some(finding.advise("see the consumer's log for why it was lost"))
}

fn starved_runtime(signals: &Signals, lane: &Lane) -> Option<Finding> {
    let looks = lane.looks()?;
    // A thread that gets no core looks the same.
    if lane.run_delay_cores() >= T.run_delay_cores {
        return None;
    }
    let blocked = (looks.blocked_runtime >= T.blocked_runtime).then_some(looks.blocked_runtime);
    let late = looks.heartbeat_p99_us.filter(|us| *us >= T.late_heartbeat_us);
    if blocked.is_none() && late.is_none() {
        return None;
    }
    let both = blocked.is_some() && late.is_some();
    let said = format!("the runtime of {} is held up by one of its own tasks", lane.consumer);
    let finding = Finding::new(Cause::StarvedRuntime, said)
        .limits_if(signals.behind.is_some() && looks.blocked_runtime >= T.starved_runtime)
        .sure(if both { Confidence::High } else { Confidence::Medium })
        .because(blocked.map(|share| {
            let name = "threads of it that do not come back from a task for 0.1 s or more";
            Figure::share(name, share).against(T.blocked_runtime)
        }))
        .because(looks.heartbeat_p99_us.map(|us| {
            Figure::new("p99 of how late a task runs that waited", us as f64, Unit::Us)
                .against(T.late_heartbeat_us as f64)
        }));
    Some(finding.advise(
        "find the task in the flamegraph (--profile both); such work belongs on a thread of its own \
         (spawn_blocking), or yields",
    ))
}

fn decode_cpu(signals: &Signals, lane: &Lane) -> Option<Finding> {
    signals.behind.as_ref()?;
    let receiver = lane.receiver.as_ref().filter(|it| it.works >= T.receiver_works)?;
    // It may work without a core: waiting for a disk, for PostgreSQL's catalogue, or for the core.
    if receiver.cores.is_some_and(|cores| cores < T.receiver_works) {
        return None;
    }
    let sink_is_free = signals.sink.flushes.is_none_or(|it| it.share < T.busy_flushes);
    let waits = lane.walsender_waits_long("walsenderwritedata", T.walsender_writes);
    let window = lane.window_limited();
    let agrees = (waits.is_some() || window.is_some()) && sink_is_free;
    let said = format!("{} reads, decodes and encodes without a pause", lane.consumer);
    let works = Figure::share("its receiving thread works", receiver.works);
    let finding = Finding::new(Cause::DecodeCpu, said)
        .sure(if agrees { Confidence::High } else { Confidence::Medium })
        .because([works.against(T.receiver_works)])
        .because(receiver.cores.map(|cores| {
            Figure::new("CPU of that thread", cores, Unit::Cores).against(T.receiver_works)
        }))
        .because(waits.map(writes))
        .because(window.map(has_no_room));
    Some(
        finding
            .set(
                "consumer.distribution",
                "\"divided\"",
                "with more consumer.processes, each has a part",
            )
            .advise("see the areas of code and the flamegraph (--profile both)"),
    )
}

/// What a connection that loses data says.
fn losses(connection: ConnectionShares) -> impl Iterator<Item = Figure> {
    let ConnectionShares { busy, retransmitted, round_trip_us, .. } = connection;
    let figures = [
        Figure::share("segments sent again", retransmitted).against(T.retransmitted),
        Figure::share("the walsender's connection has data on their way", busy)
            .against(T.busy_connection),
    ];
    let round_trip = round_trip_us.map(|us| Figure::new("mean round trip", us, Unit::Us));
    figures.into_iter().chain(round_trip)
}

fn network(signals: &Signals, lane: &Lane) -> Option<Finding> {
    signals.behind.as_ref()?;
    let receiver_waits = lane.receiver_waits()?;
    let waits = lane.walsender_waits_long("walsenderwritedata", T.walsender_writes);
    let socket = lane.looks().and_then(|looks| looks.socket_bytes);
    let is_empty = socket.is_none_or(|bytes| bytes < T.empty_socket_bytes);
    // What it says to have sent it may still decode.
    let is_busy = lane.walsender_cores().is_some_and(|cores| cores >= T.busy_thread)
        || lane.walsender_waits_long("running", T.walsender_runs).is_some()
        || lane.walsender_waits_long("reorderbuffer", T.walsender_spills).is_some();
    let in_transit = lane.in_transit_bytes.map(|bytes| bytes as f64);
    let in_transit = in_transit.filter(|bytes| *bytes >= T.in_transit_bytes && !is_busy);
    let (lossy, window) = (lane.lossy_connection(), lane.window_limited());
    let is_held_up = waits.is_some() || window.is_some() || lossy.is_some();
    let is_slow = is_held_up || in_transit.is_some();
    if signals.is_local || !is_empty || !is_slow {
        return None;
    }
    let both_wait = socket.is_some() && is_held_up;
    let finding = Finding::new(Cause::Network, "the way from PostgreSQL to the consumer is slow")
        .sure(if both_wait { Confidence::High } else { Confidence::Medium })
        .because([receiver_waits])
        .because(lossy.into_iter().flat_map(losses))
        .because(in_transit.map(|bytes| {
            Figure::new("WAL sent and not received", bytes, Unit::Bytes).against(T.in_transit_bytes)
        }))
        .because(waits.map(|share| {
            Figure::share("the walsender waits to send more", share).against(T.walsender_writes)
        }))
        .because(window.map(has_no_room))
        .because(socket.map(|bytes| {
            Figure::new("mean bytes waiting in its socket", bytes, Unit::Bytes)
                .against(T.empty_socket_bytes)
        }));
    Some(
        finding
            .advise("put the consumer nearer to PostgreSQL, or use a faster way")
            .advise("publish fewer columns and tables: less to be sent"),
    )
}

fn walsender(signals: &Signals, lane: &Lane) -> Option<Finding> {
    let backlog = signals.backlog?;
    let grew = backlog.growth.is_some() || signals.behind.is_some();
    let walsender = lane.walsender.as_ref()?;
    let runs = lane.walsender_waits_long("running", T.walsender_runs);
    let waits = lane.receiver_waits();
    let is_full = match walsender.cores {
        Some(cores) => cores >= T.busy_thread,
        // On another machine its CPU is not known.
        None => runs.is_some() && waits.is_some(),
    };
    if !is_full || !grew || backlog.last_bytes <= backlog.first_bytes {
        return None;
    }
    let agrees = walsender.cores.is_some() && (runs.is_some() || waits.is_some());
    let said = format!("{} decodes on one core, and that is full", walsender.name);
    let cores = walsender.cores.map(|cores| Figure::new("its CPU", cores, Unit::Cores));
    let finding = Finding::new(Cause::WalsenderBound, said)
        .limits_if(signals.behind.is_some())
        .sure(if agrees { Confidence::High } else { Confidence::Medium })
        .because(cores.map(|figure| figure.against(T.busy_thread)))
        .because(runs.map(|share| Figure::share("it runs", share).against(T.walsender_runs)))
        .because(waits)
        .because([
            Figure::new("slot's lag at first", backlog.first_bytes as f64, Unit::Bytes),
            Figure::new("and at last", backlog.last_bytes as f64, Unit::Bytes),
        ]);
    Some(
        finding
            .set(
                "consumer.distribution",
                "\"divided\"",
                "with more consumer.processes, each has a walsender",
            )
            .advise("publish fewer columns and tables"),
    )
}

/// Of a consumer that tells nothing of itself PostgreSQL's side says whether it is slow.
fn silent_consumer(signals: &Signals, lane: &Lane) -> Option<Finding> {
    signals.behind.as_ref()?;
    if !signals.is_external || lane.disconnected().is_some() {
        return None;
    }
    let waits = lane.walsender_waits_long("walsenderwritedata", T.walsender_writes);
    let idle = lane.walsender_waits_long("walsenderwaitforwal", T.walsender_idle);
    let unconfirmed = lane.unconfirmed_bytes.filter(|bytes| *bytes > 0);
    let said = match (waits, idle, unconfirmed) {
        (Some(_), ..) => format!("{} takes what it is sent too slowly", lane.consumer),
        (None, Some(_), Some(_)) => {
            format!("{} was sent everything, and is late to confirm it", lane.consumer)
        }
        _ => return None,
    };
    let process = lane.process.as_ref();
    let thread = process.and_then(|it| it.busiest_thread.as_ref());
    let is_busy = thread.is_some_and(|(_, cores)| *cores >= T.busy_thread);
    let finding = Finding::new(Cause::ConsumerBound, said)
        .sure(if is_busy { Confidence::High } else { Confidence::Medium })
        .because(waits.map(writes))
        .because(idle.map(|share| {
            Figure::share("the walsender waits for new WAL", share).against(T.walsender_idle)
        }))
        .because(
            unconfirmed
                .map(|bytes| Figure::new("WAL sent and not confirmed", bytes as f64, Unit::Bytes)),
        )
        .because(process.into_iter().flat_map(cpu));
    Some(finding.advise("see its log, and its flamegraph (--profile both)"))
}

fn spill(signals: &Signals) -> Option<Finding> {
    let bytes = signals.spilled_bytes.filter(|bytes| *bytes > 0)?;
    let waits = signals.walsender_waits("reorderbuffer");
    let felt = waits.is_some_and(|share| share >= T.walsender_spills);
    let finding = Finding::new(Cause::WalsenderSpill, "the walsender spills transactions to disk")
        .limits_if(signals.behind.is_some() && felt)
        .sure(if felt { Confidence::High } else { Confidence::Medium })
        .because([Figure::new("spilled by decoding", bytes as f64, Unit::Bytes)])
        .because(waits.map(|share| {
            Figure::share("the walsender reads or writes what it spilled", share)
                .against(T.walsender_spills)
        }));
    Some(
        finding
            .set(
                "postgres.settings",
                "{ logical_decoding_work_mem = \"256MB\" }",
                "more fits into memory",
            )
            .set("consumer.streaming", "\"on\"", "large transactions come before their commit")
            .lower("producer.batch_size", "smaller transactions"),
    )
}

fn confirm_stall(signals: &Signals) -> Option<Finding> {
    let stalled = signals.confirm_stall_sec.filter(|sec| *sec >= T.stall_sec);
    // Nobody is there to confirm it.
    let is_lost = signals.lanes.iter().any(|lane| lane.disconnected().is_some());
    let stalled = stalled.filter(|_| !is_lost);
    let slot = signals.endangered_slot.as_ref();
    if stalled.is_none() && slot.is_none() {
        return None;
    }
    let said = match (stalled, slot) {
        (Some(_), _) => "rows became durable and the slot was not confirmed".to_owned(),
        (None, slot) => format!(
            "PostgreSQL calls the WAL kept for the slot {}",
            slot.map_or("lost", String::as_str)
        ),
    };
    let finding = Finding::new(Cause::ConfirmStall, said)
        .limits_if(signals.behind.is_some() && slot.is_some())
        .sure(Confidence::High)
        .because(stalled.map(|sec| {
            Figure::new("longest time without a confirmation", sec, Unit::Sec).against(T.stall_sec)
        }))
        .because(signals.backlog.map(|backlog| {
            Figure::new("slot's lag at last", backlog.last_bytes as f64, Unit::Bytes)
        }));
    Some(
        finding
            .advise("look at the consumer's status updates: PostgreSQL keeps all WAL until then"),
    )
}

fn memory(signals: &Signals) -> Option<Finding> {
    if signals.window_sec < T.memory_window_sec {
        return None;
    }
    let relative = |growth: &Growth| 60.0 * growth.bytes_per_sec / growth.mean_bytes.max(1.0);
    let is_much = |growth: &Growth| {
        growth.bytes_per_sec * signals.window_sec >= T.memory_growth_bytes
            && relative(growth) >= T.memory_growth
    };
    let much = signals.memory.iter().map(|it| MemoryGrowth {
        resident: it.resident.filter(is_much),
        allocated: it.allocated.filter(is_much),
        ..it.clone()
    });
    let most = |it: &MemoryGrowth| {
        it.resident.iter().chain(&it.allocated).map(relative).max_by(f64::total_cmp)
    };
    let grown = much.filter_map(|it| Some((most(&it)?, it)));
    let (_, grown) = grown.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    let figures = |what: &str, growth: Growth| {
        [
            Figure::new(
                format!("growth of {what} memory"),
                growth.bytes_per_sec,
                Unit::BytesPerSec,
            ),
            Figure::share("of it in a minute", relative(&growth)).against(T.memory_growth),
            Figure::new("its mean", growth.mean_bytes, Unit::Bytes),
        ]
    };
    let agree = grown.resident.is_some() && grown.allocated.is_some();
    let said = format!("memory of {} grows", grown.process);
    let finding = Finding::new(Cause::MemoryGrowth, said)
        .limits_if(false)
        .sure(if agree { Confidence::High } else { Confidence::Medium })
        .because(grown.allocated.into_iter().flat_map(|it| figures("allocated", it)))
        .because(grown.resident.into_iter().flat_map(|it| figures("resident", it)));
    let finding = match &grown.heap {
        Some(file) => finding.advise(&format!("see what grew: {file}")),
        None => finding.set("profiling.heap", "true", "it tells which functions hold it"),
    };
    Some(
        finding
            .advise("run longer: a cache that fills grows as well")
            .lower("consumer.max_in_flight_bytes", "if it is the consumer's"),
    )
}

/// Signals that can't be true together.
fn contradiction(signals: &Signals, lane: &Lane) -> Option<Finding> {
    signals.behind.as_ref()?;
    let waits = lane.walsender_waits_long("walsenderwritedata", T.walsender_writes);
    let idle = lane.walsender_waits("walsenderwaitforwal").unwrap_or_default();
    let all_waits = waits.unwrap_or_default() + idle;
    let cores = lane.walsender_cores().filter(|cores| *cores >= T.busy_thread);
    let figures = match (waits, lane.receiver_waits(), cores) {
        (Some(waits), Some(receiver_waits), _) if signals.is_local => {
            vec![writes(waits), receiver_waits]
        }
        (_, _, Some(cores)) if all_waits >= T.walsender_writes => vec![
            Figure::new("CPU of the walsender", cores, Unit::Cores).against(T.busy_thread),
            Figure::share("which waits all the same", all_waits).against(T.walsender_writes),
        ],
        _ => return None,
    };
    let said = "signals contradict each other";
    Some(Finding::new(Cause::Unknown, said).sure(Confidence::Low).because(figures))
}

/// What went wrong, and no rule says why.
fn unexplained(signals: &Signals, found: &[Finding]) -> Option<Finding> {
    let limits = || found.iter().filter(|finding| finding.is_limit).map(|finding| finding.cause);
    let is_known = |cause: Cause| cause == Cause::Unknown;
    let short = signals.short.is_some() && !limits().any(|it| it.explains_short() || is_known(it));
    let behind =
        signals.behind.is_some() && !limits().any(|it| it.explains_behind() || is_known(it));
    let waits = signals.walsender_waits("walsenderwritedata");
    let waits = waits.filter(|share| *share >= T.walsender_writes);
    let window = signals.window_limited();
    let sure = match (waits, window) {
        (Some(_), Some(_)) => Some(Confidence::Medium),
        (None, None) => None,
        _ => Some(Confidence::Low),
    };
    match sure {
        Some(sure) if behind => Some(
            Finding::new(Cause::ConsumerBound, "the consumer takes too little")
                .sure(sure)
                .because(waits.map(writes).into_iter().chain(window.map(has_no_room)))
                .advise("see the areas of code and the flamegraph (--profile both)"),
        ),
        _ if short || behind => {
            let finding = Finding::new(Cause::Unknown, "no rule explains it");
            let uses = top_uses(signals).into_iter();
            let most = signals
                .lanes
                .iter()
                .filter_map(|lane| lane.walsender.as_ref()?.waits.as_ref()?.most());
            let most = most.max_by(|a, b| a.1.total_cmp(&b.1));
            Some(
                finding
                    .sure(Confidence::Low)
                    .because(uses.map(|(name, share)| Figure::share(name, share)))
                    .because(most.map(|(event, share)| {
                        Figure::share(format!("the walsender mostly: {event}"), share)
                    })),
            )
        }
        _ => None,
    }
}

/// What can be full, and how full it was, the fullest first.
fn top_uses(signals: &Signals) -> Vec<(String, f64)> {
    let mut uses: Vec<(String, f64)> = Vec::new();
    for lane in &signals.lanes {
        if let Some((walsender, cores)) = lane.walsender.as_ref().zip(lane.walsender_cores()) {
            uses.push((format!("CPU of {}", walsender.name), cores));
        }
        if let Some(receiver) = &lane.receiver {
            let name = format!("work of {}'s receiving thread", lane.consumer);
            uses.push((name, receiver.works));
        } else if let Some(process) = &lane.process
            && let Some((thread, cores)) = &process.busiest_thread
        {
            uses.push((format!("CPU of {}'s thread {thread}", process.name), *cores));
        }
    }
    if let Some(flushes) = signals.sink.flushes {
        uses.push((format!("{} flushes at once", flushes.of), flushes.share));
    }
    if let Some(connections) = signals.connections {
        uses.push((format!("{} connections of the producers", connections.of), connections.share));
    }
    let process = busiest(&signals.producers).and_then(|it| it.busiest_thread.as_ref());
    if let Some((thread, cores)) = process {
        uses.push((format!("CPU of a producer's thread {thread}"), *cores));
    }
    if let Some(busy) = signals.busy_cores().filter(|_| signals.cores > 0.0) {
        uses.push((format!("{} cores of the machine", signals.cores), busy / signals.cores));
    }
    uses.sort_by(|a, b| b.1.total_cmp(&a.1));
    uses
}

/// How many times the load the fullest part could take: at least, for a busy walsender and larger
/// batches cost less for each row; and at most, for parts that were measured by themselves had the
/// machine for themselves.
fn healthy(signals: &Signals) -> Finding {
    let uses = top_uses(signals);
    let finding = Finding::new(Cause::Healthy, signals.held.clone()).limits_if(false).sure(
        if signals.lanes.iter().any(|lane| lane.looks().is_some()) {
            Confidence::High
        } else {
            Confidence::Medium
        },
    );
    let finding = match uses.first().filter(|(_, share)| *share > 0.0) {
        None => finding,
        Some((name, share)) => finding.because([
            Figure::new("headroom, at least", (1.0 / share).max(1.0), Unit::Times),
            Figure::share(format!("first to be full: {name}"), share.min(1.0)),
        ]),
    };
    let measured = signals.ceiling.as_ref().filter(|(_, share)| *share > 0.0);
    finding.because(measured.map(|(name, share)| {
        Figure::new(format!("headroom, at most, by {name}"), (1.0 / share).max(1.0), Unit::Times)
    }))
}
