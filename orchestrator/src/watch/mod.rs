//! What the pipeline's processes and its server use, each second.

mod connections;
mod state;
mod waits;

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use walbench_metrics::Failure;
use walbench_metrics::sample::{ClickhouseUse, Interval, ProcessUse, ResourceSample, Role};
use walbench_phases::Plan;
use walbench_phases::address::Host;
use walbench_profiles::process_group::descendants;
use walbench_profiles::{
    GroupSchedulingMeter, MachineMeter, ProcessMeter, SchedulingMeter, TreeMeter, Usage,
};

use crate::clickhouse::account::Account;
use crate::event::{Event, Walsender};
use crate::postgres::control::Control;
use crate::postgres::source::Source;
use crate::worker::Worker;
use connections::Connections;
use waits::WaitLooks;

/// A server that takes longer to describe its slots is left out of the sample: its answer would be
/// of another moment.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Meters of all processes, and the way to the server's state.
#[derive(Debug)]
pub(crate) struct Watch {
    processes: Vec<Metered>,
    /// Other programs in the consumers' places.
    commands: Vec<Command>,
    server: Option<(TreeMeter, Usage)>,
    walsenders: Vec<(Walsender, Metered)>,
    /// The server's processes are on this machine.
    is_local: bool,
    clickhouse: Option<(TreeMeter, Usage)>,
    connections: Option<Connections>,
    machine: MachineMeter,
    /// The doctor's.
    waits: Option<WaitLooks>,
    /// Without a sample, what the servers did is left out up to now.
    requests: UnboundedSender<Option<Box<ResourceSample>>>,
}

/// A ClickHouse server that is to be measured.
#[derive(Debug)]
pub(crate) struct Watched {
    /// It tells itself.
    pub(crate) account: Option<Account>,
    /// The first of its processes, if they are on this machine.
    pub(crate) root: Option<u32>,
}

#[derive(Debug)]
struct Metered {
    name: String,
    role: Role,
    meter: ProcessMeter,
    scheduling: Option<SchedulingMeter>,
    before: Usage,
}

impl Metered {
    fn open(name: String, role: Role, pid: u32) -> Option<Self> {
        let mut meter = ProcessMeter::open(pid).ok()?;
        let before = meter.read()?;
        let scheduling = SchedulingMeter::open(pid).ok();
        Some(Self { name, role, meter, scheduling, before })
    }

    /// What it used since the last time. One that has ended used nothing more that can be seen.
    fn used(&mut self) -> ProcessUse {
        let now = self.meter.read().unwrap_or(self.before);
        let before = std::mem::replace(&mut self.before, now);
        let scheduling = self.scheduling.as_mut().and_then(SchedulingMeter::read);
        ProcessUse { scheduling, ..process_use(&self.name, self.role, before, now) }
    }
}

/// Another program in a consumer's place: all its processes.
#[derive(Debug)]
struct Command {
    name: String,
    meter: TreeMeter,
    scheduling: GroupSchedulingMeter,
    before: Usage,
}

impl Command {
    /// Whoever keeps it has a guard for it, and that has started it.
    fn open(keeper: &Worker) -> Option<Self> {
        let guard = descendants(keeper.pid).into_iter().next()?;
        let mut meter = TreeMeter::open_below(guard).ok()?;
        let before = meter.read()?;
        let mut scheduling = GroupSchedulingMeter::default();
        scheduling.read(&meter.members());
        Some(Self { name: keeper.name.clone(), meter, scheduling, before })
    }

    fn used(&mut self) -> ProcessUse {
        let now = self.meter.read().unwrap_or(self.before);
        let before = std::mem::replace(&mut self.before, now);
        let scheduling = self.scheduling.read(&self.meter.members());
        ProcessUse { scheduling, ..process_use(&self.name, Role::Consumer, before, now) }
    }
}

fn process_use(name: &str, role: Role, before: Usage, now: Usage) -> ProcessUse {
    let cpu_us = now.cpu_us.saturating_sub(before.cpu_us);
    ProcessUse { name: name.into(), role, cpu_us, rss_bytes: now.rss_bytes, scheduling: None }
}

impl Watch {
    /// Begins to measure ourselves, the workers of this machine and the server, if it is on this
    /// machine too.
    pub(crate) async fn start(
        source: &Source,
        workers: &[&Worker],
        postmaster: Option<u32>,
        clickhouse: Option<Watched>,
        plan: &Plan,
        events: &UnboundedSender<Event>,
    ) -> Result<Self, Failure> {
        let control = Control::open(&source.address).await?;
        let sql = state::sql(source.facts.version_num);
        let rows = state::ask(&control, &sql, &source.slots).await?;
        let walsenders = state::walsenders(&rows, &source.slots);
        let is_local = postmaster.is_some() || is_postgres_here(source, &walsenders);
        let postmaster =
            postmaster.or_else(|| parent(walsenders.first().filter(|_| is_local)?.pid));
        let mut processes: Vec<Metered> = workers
            .iter()
            .filter(|worker| worker.is_local)
            .filter_map(|worker| {
                let (name, role) = named(&worker.name, plan.consumer.is_external());
                Metered::open(name, role, worker.pid)
            })
            .collect();
        let consumers =
            workers.iter().filter(|worker| worker.is_local && is_consumer(&worker.name));
        let commands = match plan.consumer.is_external() {
            true => consumers.filter_map(|keeper| Command::open(keeper)).collect(),
            false => Vec::new(),
        };
        processes.extend(Metered::open(
            "orchestrator".into(),
            Role::Orchestrator,
            std::process::id(),
        ));
        let waits = match plan.profiling.wants_doctor() {
            true => Some(WaitLooks::begin(&source.address, source.slots.clone()).await?),
            false => None,
        };
        let server = postmaster.and_then(metered_tree);
        let connections = Connections::begin(&control).await;
        let (account, root) = clickhouse.map(|it| (it.account, it.root)).unzip();
        let mut account: Option<Account> = account.flatten();
        let clickhouse = root.flatten().and_then(metered_tree);
        let (requests, mut requested) = unbounded_channel::<Option<Box<ResourceSample>>>();
        let (slots, events) = (source.slots.clone(), events.clone());
        tokio::spawn(async move {
            while let Some(sample) = requested.recv().await {
                let told = tokio::time::timeout(ANSWER_TIMEOUT, told(account.as_mut()));
                let Some(mut sample) = sample else {
                    let _ = told.await;
                    continue;
                };
                let asked =
                    tokio::time::timeout(ANSWER_TIMEOUT, state::ask(&control, &sql, &slots));
                let (asked, told) = tokio::join!(asked, told);
                let rows = asked.ok().and_then(Result::ok).unwrap_or_default();
                sample.postgres = state::of_server(&rows);
                sample.clickhouse = told.ok().flatten();
                let walsenders = state::walsenders(&rows, &slots);
                if events.send(Event::Resources(sample, walsenders)).is_err() {
                    return;
                }
            }
        });
        let walsenders_yet = Vec::new();
        let mut watch = Self {
            processes,
            commands,
            server,
            walsenders: walsenders_yet,
            is_local,
            clickhouse,
            connections,
            machine: MachineMeter::default(),
            waits,
            requests,
        };
        watch.follow_walsenders(&walsenders);
        Ok(watch)
    }

    /// What a reader must know of what is not measured.
    pub(crate) fn allowances(&self) -> Vec<String> {
        let text = "PostgreSQL runs on another machine, so its CPU and memory are not measured";
        self.server.is_none().then(|| text.to_owned()).into_iter().collect()
    }

    /// A consumer that reconnected has another walsender.
    pub(crate) fn follow_walsenders(&mut self, now: &[Walsender]) {
        if let Some(connections) = &mut self.connections {
            connections.follow(now);
        }
        if !self.is_local {
            return;
        }
        for walsender in now {
            if self.walsenders.iter().any(|(known, _)| known == walsender) {
                continue;
            }
            let name = format!("walsender-{}", walsender.slot);
            self.walsenders.retain(|(known, _)| known.slot != walsender.slot);
            let metered = Metered::open(name, Role::Walsender, walsender.pid);
            self.walsenders.extend(metered.map(|metered| (*walsender, metered)));
        }
    }

    /// The walsenders of this machine, by name and process.
    pub(crate) fn walsenders(&self) -> impl Iterator<Item = (&str, u32)> {
        let metered = self.walsenders.iter();
        metered.map(|(walsender, metered)| (&*metered.name, walsender.pid))
    }

    /// The processes of each command of this machine, by the name of the consumer whose place it has.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (&str, Vec<u32>)> {
        self.commands.iter().map(|command| (&*command.name, command.meter.members()))
    }

    /// Leaves out what was used up to now.
    pub(crate) fn forget(&mut self) {
        self.used();
        self.machine.read();
        self.connections.as_mut().map(Connections::used);
        self.waits.as_ref().map(WaitLooks::take);
        let _ = self.requests.send(None);
    }

    /// Measures what was used since the last time, and sends for the server's state, with which it
    /// comes as an event.
    pub(crate) fn measure(&mut self, interval: Interval) {
        let processes = self.used();
        let sample = ResourceSample {
            interval,
            processes,
            postgres: None,
            clickhouse: None,
            machine: self.machine.read(),
            waits: self.waits.as_ref().map(WaitLooks::take).unwrap_or_default(),
            connections: self.connections.as_mut().map(Connections::used).unwrap_or_default(),
        };
        // The task that answers lives as long as its connection; without it the run has ended.
        let _ = self.requests.send(Some(Box::new(sample)));
    }

    fn used(&mut self) -> Vec<ProcessUse> {
        let walsenders = self.walsenders.iter_mut().map(|(_, metered)| metered);
        let mut used: Vec<ProcessUse> =
            self.processes.iter_mut().chain(walsenders).map(Metered::used).collect();
        used.extend(self.commands.iter_mut().map(Command::used));
        let servers = [
            ("postgres", Role::Postgres, &mut self.server),
            ("clickhouse", Role::Clickhouse, &mut self.clickhouse),
        ];
        for (name, role, server) in servers {
            if let Some((meter, before)) = server {
                let now = meter.read().unwrap_or(*before);
                used.push(process_use(name, role, *before, now));
                *before = now;
            }
        }
        used
    }
}

fn metered_tree(root: u32) -> Option<(TreeMeter, Usage)> {
    let mut meter = TreeMeter::open(root).ok()?;
    let before = meter.read().unwrap_or_default();
    Some((meter, before))
}

async fn told(account: Option<&mut Account>) -> Option<ClickhouseUse> {
    account?.used().await
}

fn is_consumer(worker: &str) -> bool {
    worker.starts_with("consumer")
}

/// What a worker's own process is called, and is to the pipeline. Who keeps another program in a
/// consumer's place is a part of the harness.
fn named(worker: &str, is_external: bool) -> (String, Role) {
    match (is_consumer(worker), is_external) {
        (false, _) => (worker.to_owned(), Role::Producer),
        (true, false) => (worker.to_owned(), Role::Consumer),
        (true, true) => (worker.replace("consumer", "keeper"), Role::Orchestrator),
    }
}

/// A pid that the server names says nothing on another machine. Here it is a process called
/// postgres, reached over a socket that can't leave this machine.
fn is_postgres_here(source: &Source, walsenders: &[Walsender]) -> bool {
    let is_loopback = match &source.address.host {
        Host::Unix(_) => true,
        Host::Tcp(host) => {
            host == "localhost"
                || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    let is_postgres = |pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "postgres")
    };
    is_loopback && walsenders.first().is_some_and(|walsender| is_postgres(walsender.pid))
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
