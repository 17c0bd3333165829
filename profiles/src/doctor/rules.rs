//! The rules. Each looks at one phase's signals and says what it finds, or nothing.

use super::finding::{Cause, Confidence, Figure, Finding, Unit};
use super::signals::{
    Busy, Growth, MachineShares, ProcessShares, ReceiverShares, Signals, WaitShares, Walsender,
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
    if let Some(contradiction) = contradiction(signals) {
        // What one of them says the other denies.
        found.retain(|finding| finding.cause < Cause::SinkBound || !finding.is_limit);
        found.push(contradiction);
    } else if signals.is_limited() && !found.iter().any(|finding| finding.is_limit) {
        found.extend(unexplained(signals));
    }
    if !signals.is_limited() {
        found.iter_mut().for_each(|finding| finding.is_limit = false);
        found.push(healthy(signals));
    }
    // Each is told once, by the first rule that finds it.
    found.sort_by_key(|f| (!f.is_limit && f.cause != Cause::Healthy, f.confidence, f.cause));
    found
}

const RULES: [fn(&Signals) -> Option<Finding>; 13] = [
    write_errors,
    host_cpu,
    disk_wal,
    harness,
    producer,
    sink,
    starved_runtime,
    decode_cpu,
    network,
    walsender,
    spill,
    confirm_stall,
    memory,
];

impl Signals {
    /// The phase did not get what it asked for.
    fn is_limited(&self) -> bool {
        self.short.is_some() || self.behind.is_some()
    }

    /// The busiest walsender.
    fn walsender(&self) -> Option<&Walsender> {
        self.walsenders.iter().max_by(|a, b| {
            let cores = |walsender: &Walsender| walsender.cores.unwrap_or_default();
            cores(a).total_cmp(&cores(b))
        })
    }

    /// Share of the time for which a walsender waited so, the one that did most.
    fn walsender_waits(&self, event: &str) -> Option<f64> {
        let waits = self.walsenders.iter().filter_map(|walsender| walsender.waits.as_ref());
        waits.map(|waits| waits.of(event)).max_by(f64::total_cmp)
    }

    /// The receiver of which something is largest.
    fn receiver(&self, of: fn(&ReceiverShares) -> f64) -> Option<&ReceiverShares> {
        self.receivers.iter().max_by(|a, b| of(a).total_cmp(&of(b)))
    }

    /// The worker that waited most for a core.
    fn most_delayed(&self) -> Option<(&str, f64)> {
        let workers = self.producers.iter().chain(&self.consumers);
        let delayed = workers.filter_map(|it| Some((it.name.as_str(), it.run_delay_cores?)));
        delayed.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Cores of the machine that were busy: of all programs, or at least of ours.
    fn busy_cores(&self) -> Option<f64> {
        self.machine.map(|machine| machine.busy_cores).or(self.used_cores)
    }
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
    let finding = Finding::new(Cause::WriteErrors, errors.clone()).sure(Confidence::High);
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
    let stolen = (stolen >= 0.05).then(|| {
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
    let pressure = signals.machine.and_then(|machine| machine.io_pressure);
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
    let thread = process.busiest_thread.as_ref().is_some_and(|(_, cores)| *cores >= T.busy_thread);
    let is_busy = thread || process.cores >= T.busy_thread * signals.worker_threads;
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
    let queued = sink.queued.filter(|share| *share >= T.queued);
    let blocked = signals.receiver(|it| it.blocked);
    let blocked = blocked.filter(|it| it.blocked >= T.receiver_blocked);
    let stalled = signals.durable_stall_sec.filter(|sec| *sec >= T.stall_sec);
    let writes = signals.walsender_waits("walsenderwritedata");
    let writes = writes.filter(|share| *share >= T.walsender_writes);
    let agreeing = [
        flushes.is_some(),
        queued.is_some(),
        blocked.is_some(),
        stalled.is_some(),
        writes.is_some(),
    ];
    let own = agreeing[..4].iter().filter(|agrees| **agrees).count();
    if own == 0 || signals.behind.is_none() && stalled.is_none() {
        return None;
    }
    let agreeing = agreeing.iter().filter(|agrees| **agrees).count();
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
        .because(blocked.map(|it| {
            let name = format!("{} reads nothing, for want of room", it.name);
            Figure::share(name, it.blocked).against(T.receiver_blocked)
        }))
        .because(stalled.map(|sec| {
            Figure::new("longest time in which rows came and none became durable", sec, Unit::Sec)
                .against(T.stall_sec)
        }))
        .because(writes.map(|share| {
            Figure::share("the walsender waits for its consumer", share).against(T.walsender_writes)
        }))
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
        .raise("consumer.flush_batch_size", "fewer and larger inserts");
    match sink.delayed_inserts + sink.rejected_inserts {
        0 => finding.raise("consumer.max_flush_concurrency", "more inserts at once"),
        _ => finding.raise("consumer.flush_interval_ms", "ClickHouse has too many parts"),
    }
}

fn starved_runtime(signals: &Signals) -> Option<Finding> {
    let of_runtime =
        |it: &ReceiverShares| it.looks.map(|looks| looks.blocked_runtime).unwrap_or_default();
    let receiver = signals.receiver(of_runtime)?;
    let looks = receiver.looks?;
    // A thread that gets no core looks the same.
    if signals.most_delayed().is_some_and(|(_, cores)| cores >= T.run_delay_cores) {
        return None;
    }
    let blocked = (looks.blocked_runtime >= T.blocked_runtime).then_some(looks.blocked_runtime);
    let late = looks.heartbeat_p99_us.filter(|us| *us >= T.late_heartbeat_us);
    if blocked.is_none() && late.is_none() {
        return None;
    }
    let both = blocked.is_some() && late.is_some();
    let said = format!("the runtime of {} is held up by one of its own tasks", receiver.name);
    let finding = Finding::new(Cause::StarvedRuntime, said)
        .limits_if(signals.behind.is_some())
        .sure(if both { Confidence::High } else { Confidence::Medium })
        .because(blocked.map(|share| {
            let name = "a thread of it does not come back from a task for 0.1 s or more";
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

fn decode_cpu(signals: &Signals) -> Option<Finding> {
    signals.behind.as_ref()?;
    let receiver = signals.receiver(|it| it.works)?;
    let process = signals.consumers.iter().find(|it| it.name == receiver.name);
    let delayed = process.and_then(|it| it.run_delay_cores).unwrap_or_default();
    if receiver.works < T.receiver_works || delayed >= T.run_delay_cores {
        return None;
    }
    let sink_is_free = signals.sink.flushes.is_none_or(|it| it.share < T.busy_flushes);
    let writes = signals.walsender_waits("walsenderwritedata");
    let writes = writes.filter(|share| *share >= T.walsender_writes);
    let agrees = writes.is_some() && sink_is_free;
    let said = format!("{} reads, decodes and encodes without a pause", receiver.name);
    let works = Figure::share("its receiving thread works", receiver.works);
    let finding = Finding::new(Cause::DecodeCpu, said)
        .sure(if agrees { Confidence::High } else { Confidence::Medium })
        .because([works.against(T.receiver_works)])
        .because(process.into_iter().flat_map(cpu))
        .because(writes.map(|share| {
            Figure::share("the walsender waits for its consumer", share).against(T.walsender_writes)
        }));
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

fn network(signals: &Signals) -> Option<Finding> {
    signals.behind.as_ref()?;
    let writes = signals.walsender_waits("walsenderwritedata")?;
    let receiver = signals.receiver(|it| it.waits)?;
    let socket = receiver.looks.and_then(|looks| looks.socket_bytes);
    let is_empty = socket.is_none_or(|bytes| bytes < T.empty_socket_bytes);
    let waits = writes >= T.walsender_writes && receiver.waits >= T.receiver_waits;
    if signals.is_local || !waits || !is_empty {
        return None;
    }
    let finding = Finding::new(Cause::Network, "the way from PostgreSQL to the consumer is slow")
        .sure(if socket.is_some() { Confidence::High } else { Confidence::Medium })
        .because([
            Figure::share("the walsender waits to send more", writes).against(T.walsender_writes),
            Figure::share(format!("{} waits for data", receiver.name), receiver.waits)
                .against(T.receiver_waits),
        ])
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

fn walsender(signals: &Signals) -> Option<Finding> {
    let walsender = signals.walsender()?;
    let cores = walsender.cores.filter(|cores| *cores >= T.busy_thread)?;
    let backlog = signals.backlog?;
    let grew = backlog.growth;
    if signals.behind.is_none() && grew.is_none() || backlog.last_bytes <= backlog.first_bytes {
        return None;
    }
    let runs = walsender.waits.as_ref().map(|waits| waits.of("running"));
    let runs = runs.filter(|share| *share >= T.walsender_runs);
    let waits = signals.receiver(|it| it.waits).filter(|it| it.waits >= T.receiver_waits);
    let agrees = runs.is_some() || waits.is_some();
    let said = format!("{} decodes on one core, and that is full", walsender.name);
    let finding = Finding::new(Cause::WalsenderBound, said)
        .limits_if(signals.behind.is_some())
        .sure(if agrees { Confidence::High } else { Confidence::Medium })
        .because([Figure::new("its CPU", cores, Unit::Cores).against(T.busy_thread)])
        .because(runs.map(|share| Figure::share("it runs", share).against(T.walsender_runs)))
        .because(waits.map(|it| {
            let name = format!("{} waits for data", it.name);
            Figure::share(name, it.waits).against(T.receiver_waits)
        }))
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
    let is_much = |(_, growth): &&(String, Growth)| {
        growth.bytes_per_sec * signals.window_sec >= T.memory_growth_bytes
            && relative(growth) >= T.memory_growth
    };
    let grown = signals.memory.iter().filter(is_much);
    let (name, growth) = grown.max_by(|(_, a), (_, b)| relative(a).total_cmp(&relative(b)))?;
    let said = format!("memory of {name} grows");
    let finding = Finding::new(Cause::MemoryGrowth, said).limits_if(false).because([
        Figure::new("growth", growth.bytes_per_sec, Unit::BytesPerSec),
        Figure::share("of its memory in a minute", relative(growth)).against(T.memory_growth),
        Figure::new("mean memory", growth.mean_bytes, Unit::Bytes),
    ]);
    Some(
        finding
            .advise("run longer: a cache that fills grows as well")
            .lower("consumer.max_in_flight_bytes", "if it is the consumer's"),
    )
}

/// Signals that can't be true together.
fn contradiction(signals: &Signals) -> Option<Finding> {
    let writes = signals.walsender_waits("walsenderwritedata").unwrap_or_default();
    let idle = signals.walsender_waits("walsenderwaitforwal").unwrap_or_default();
    let waits = signals.receiver(|it| it.waits).map_or(0.0, |it| it.waits);
    let cores = signals.walsender().and_then(|it| it.cores).unwrap_or_default();
    signals.behind.as_ref()?;
    let figures = if signals.is_local
        && signals.walsenders.len() == 1
        && writes >= T.walsender_writes
        && waits >= T.receiver_waits
    {
        vec![
            Figure::share("the walsender waits for its consumer", writes)
                .against(T.walsender_writes),
            Figure::share("which waits for data, on the same machine", waits)
                .against(T.receiver_waits),
        ]
    } else if cores >= T.busy_thread && writes + idle >= T.walsender_writes {
        vec![
            Figure::new("CPU of the walsender", cores, Unit::Cores).against(T.busy_thread),
            Figure::share("which waits all the same", writes + idle).against(T.walsender_writes),
        ]
    } else {
        return None;
    };
    let said = "signals contradict each other";
    Some(Finding::new(Cause::Unknown, said).sure(Confidence::Low).because(figures))
}

/// A phase that was limited, and no rule says by what.
fn unexplained(signals: &Signals) -> Option<Finding> {
    let writes = signals.walsender_waits("walsenderwritedata");
    let writes = writes.filter(|share| *share >= T.walsender_writes);
    Some(match (writes, &signals.behind) {
        (Some(share), Some(_)) => {
            Finding::new(Cause::ConsumerBound, "the consumer takes too little")
                .sure(Confidence::Low)
                .because([Figure::share("the walsender waits for its consumer", share)
                    .against(T.walsender_writes)])
                .advise("see the areas of code and the flamegraph (--profile both)")
        }
        _ => {
            let finding = Finding::new(Cause::Unknown, "no rule explains it");
            finding.sure(Confidence::Low).because(
                top_uses(signals).into_iter().map(|(name, share)| Figure::share(name, share)),
            )
        }
    })
}

/// What can be full, and how full it was, the fullest first.
fn top_uses(signals: &Signals) -> Vec<(String, f64)> {
    let mut uses: Vec<(String, f64)> = Vec::new();
    if let Some(walsender) = signals.walsender()
        && let Some(cores) = walsender.cores
    {
        uses.push((format!("CPU of {}", walsender.name), cores));
    }
    if let Some(receiver) = signals.receiver(|it| it.works) {
        uses.push((format!("work of {}'s receiving thread", receiver.name), receiver.works));
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
/// batches cost less for each row.
fn healthy(signals: &Signals) -> Finding {
    let uses = top_uses(signals);
    let finding = Finding::new(Cause::Healthy, signals.held.clone()).limits_if(false).sure(
        if signals.receivers.iter().any(|it| it.looks.is_some()) {
            Confidence::High
        } else {
            Confidence::Medium
        },
    );
    match uses.first().filter(|(_, share)| *share > 0.0) {
        None => finding,
        Some((name, share)) => finding.because([
            Figure::new("headroom, at least", (1.0 / share).max(1.0), Unit::Times),
            Figure::share(format!("first to be full: {name}"), share.min(1.0)),
        ]),
    }
}
