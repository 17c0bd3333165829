//! Everything before the first phase.

use std::ops::Range;
use std::time::Duration;

use walbench_metrics::link::LinkError;
use walbench_metrics::message::FromWorker;
use walbench_metrics::stamp::run_number;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{ClickhouseMode, MockLevel};

use super::Run;
use super::events::Happening;
use crate::address::{given_address, given_clickhouse};
use crate::clickhouse::account::Account;
use crate::clickhouse::destination::Destination;
use crate::clickhouse::managed;
use crate::clickhouse::mock::MockPlace;
use crate::clickhouse::private::PrivateClickHouse;
use crate::environment;
use crate::event::Stop;
use crate::postgres::binaries::Binaries;
use crate::postgres::claim::{self, Claim};
use crate::postgres::control::Control;
use crate::postgres::preflight;
use crate::postgres::private::PrivateServer;
use crate::postgres::source::{Source, all_slot_names};
use crate::watch::{Watch, Watched};
use crate::worker::{
    CLICKHOUSE_KEEPER, CONSUMER, KEEPER, MOCK_CLICKHOUSE, PRODUCER, Start, Worker,
};

/// Preparing a worker is connecting; the private server may have to make its cluster first.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// One step on the server.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// A library of 150 MB, over whatever network there is.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1200);

/// Copying a schema and making slots may wait for others' locks and transactions.
const FILL_TIMEOUT: Duration = Duration::from_secs(300);

impl Run {
    /// The server of the plan, or a private one.
    pub(super) async fn reach_server(&mut self) -> Result<PostgresAddress, Stop> {
        if let Some(url) = &self.plan.postgres.url {
            return Ok(given_address("postgres.url", url)?);
        }
        let binaries = Binaries::find_server(self.pg_bin.as_deref())?;
        let server = PrivateServer::new(&self.plan, &binaries, self.keep)?;
        self.live.step(&format!(
            "starting a private PostgreSQL ({}) in {}",
            server.postgres.display(),
            server.folder.display()
        ));
        let keeper = self.start_worker("postgres", KEEPER, &[]).await?;
        self.private = Some((keeper, server.clone()));
        self.workers[keeper].prepare(&server).await?;
        self.until_ready(&[keeper]).await?;
        self.environment.data_filesystem = walbench_profiles::filesystem_of(&server.folder);
        Ok(server.address(self.plan.postgres.transport))
    }

    /// Database, tables, publications and slots.
    pub(super) async fn prepare_source(&mut self, server: &PostgresAddress) -> Result<(), Stop> {
        self.live.step(&format!("preparing database \"{}\"", self.plan.postgres.database));
        let run_id = self.folder.id().to_owned();
        let source = self.claim_and_fill(server, &run_id).await?;
        let place = match self.private {
            Some(_) => "private".to_owned(),
            None => format!("at {}", source.address),
        };
        self.live.step(&format!("PostgreSQL {}, {place}", source.facts.version));
        let server = environment::of_server(&source, &self.plan, self.private.is_some()).await;
        self.environment.servers.push(server);
        self.environment.allowances.extend(source.allowances.iter().cloned());
        self.source = Some(source);
        self.check_interrupt()
    }

    /// The claim is ours to release from the moment it is made, so its making is not interrupted;
    /// everything before and after is.
    async fn claim_and_fill(
        &mut self,
        server: &PostgresAddress,
        run_id: &str,
    ) -> Result<Source, Stop> {
        let (plan, patience) = (&self.plan, &self.patience);
        let database = &plan.postgres.database;
        let what = "let us in and describe itself";
        let maintenance = patience.wait(what, STEP_TIMEOUT, 1, Control::open(server)).await?;
        let checking = preflight::check(&maintenance, plan);
        let facts = patience.wait(what, STEP_TIMEOUT, 1, checking).await?;
        let slots = all_slot_names(plan);
        let clearing = claim::clear_the_way(&maintenance, database, &slots);
        patience.wait("remove what was left behind", STEP_TIMEOUT, 1, clearing).await?;
        let making = Claim::make(maintenance, database, run_id);
        let what = format!("create database \"{database}\"");
        self.claim = Some(patience.wait(&what, STEP_TIMEOUT, u32::MAX, making).await?);
        let filling = Source::fill(server, facts, plan, self.pg_bin.as_deref());
        patience.wait("make tables and slots", FILL_TIMEOUT, 1, filling).await
    }

    /// The ClickHouse of the plan, or a private one; none where the mock is no server.
    pub(super) async fn reach_destination(&mut self) -> Result<(), Stop> {
        let (address, private) = match self.plan.clickhouse.mode {
            ClickhouseMode::Mock if self.plan.consumer.mock_level == MockLevel::Http => {
                let (url, program) = self.start_mock().await?;
                (given_clickhouse("the mock's URL", &url)?, Some(program))
            }
            ClickhouseMode::Mock => return Ok(()),
            ClickhouseMode::Managed => {
                let (url, program) = self.start_clickhouse().await?;
                (given_clickhouse("the private server's URL", &url)?, Some(program))
            }
            ClickhouseMode::Url => {
                let url = self.plan.clickhouse.url.as_deref().unwrap_or_default();
                (given_clickhouse("clickhouse.url", url)?, None)
            }
        };
        let (plan, patience, what) = (&self.plan, &self.patience, "let us in and make a database");
        let run_id = self.folder.id().to_owned();
        let is_private = private.is_some();
        let reaching = Destination::reach(address, plan, private);
        let mut destination =
            patience.wait_for("ClickHouse", what, STEP_TIMEOUT, 1, reaching).await?;
        if !is_private {
            // What is made must be known, so that it is removed: only a second signal ends this.
            let claiming = destination.claim(plan, &run_id);
            patience.wait_for("ClickHouse", what, STEP_TIMEOUT, 2, claiming).await?;
        }
        let server = &destination.server;
        let place = match &server.description {
            Some(program) => program.clone(),
            None => format!("at {}", destination.address),
        };
        self.live.step(&format!("ClickHouse {}, {place}", server.version));
        self.environment.servers.push(server.clone());
        self.destination = Some(destination);
        self.check_interrupt()
    }

    /// Starts the mock server; says how to reach it, and what runs.
    async fn start_mock(&mut self) -> Result<(String, String), Stop> {
        let place = MockPlace::take(&self.plan, 0)?;
        let (url, program) = (place.url.clone(), place.program.clone());
        let number = self.start_worker("mock-clickhouse", MOCK_CLICKHOUSE, &[]).await?;
        self.workers[number].prepare(&place.prepare).await?;
        self.mock = Some((number, place));
        self.until_ready(&[number]).await?;
        Ok((url, program))
    }

    /// Starts a private ClickHouse; says how to reach it, and what runs.
    async fn start_clickhouse(&mut self) -> Result<(String, String), Stop> {
        let args = self.clickhouse_program.clone();
        // It may have to be fetched first.
        let finding = tokio::task::spawn_blocking(move || managed::program(&args));
        let found =
            async { finding.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) };
        let what = "get fetched by the npm client";
        let program = self.patience.wait_for("ClickHouse", what, FETCH_TIMEOUT, 1, found).await?;
        let server = PrivateClickHouse::new(program, self.keep);
        self.live.step(&format!("starting a ClickHouse: {}", server.program));
        let keeper = self.start_worker("clickhouse", CLICKHOUSE_KEEPER, &[]).await?;
        self.clickhouse = Some((keeper, server.clone()));
        self.workers[keeper].prepare(&server).await?;
        self.until_ready(&[keeper]).await?;
        let found = server.found().await;
        let found =
            found.map_err(|e| self.workers[keeper].failed("does not answer").caused_by(&e))?;
        Ok((found.url, server.program.to_string()))
    }

    /// Starts a worker process and returns its number.
    async fn start_worker(
        &mut self,
        name: &str,
        role: &str,
        launcher: &[String],
    ) -> Result<usize, Stop> {
        let number = self.workers.len();
        let logs = self.folder.logs();
        // One that runs elsewhere is not sampled: what its addresses mean is known there alone.
        let profiling = self.profiling.as_ref().filter(|_| launcher.is_empty());
        let pprof_hz = profiling.and_then(|profiling| profiling.pprof_hz(role));
        let heap = match role {
            CONSUMER => self.plan.profiling.heap,
            PRODUCER => self.plan.profiling.wants_producers_heap(),
            _ => false,
        };
        let start = Start { name, role, launcher, logs: Some(&logs), pprof_hz, heap };
        let worker = Worker::start(start, number, &self.sender).await?;
        self.environment.clocks.insert(name.to_owned(), worker.clock);
        self.workers.push(worker);
        Ok(number)
    }

    pub(super) async fn start_workers(&mut self) -> Result<(), Stop> {
        let consumer = self.plan.consumer.clone();
        let first = self.workers.len();
        for n in 0..consumer.processes {
            self.start_worker(&format!("consumer-{n}"), CONSUMER, &consumer.launcher).await?;
        }
        self.consumers = first..self.workers.len();
        let producer = self.plan.producer.clone();
        let processes = if producer.enabled { producer.processes } else { 0 };
        for n in 0..processes {
            self.start_worker(&format!("producer-{n}"), PRODUCER, &producer.launcher).await?;
        }
        self.producers = self.consumers.end..self.workers.len();
        self.live.step(&format!(
            "workers started: {} consuming, {processes} producing",
            consumer.processes
        ));
        Ok(())
    }

    pub(super) async fn prepare_workers(&mut self) -> Result<(), Stop> {
        let Some(source) = &self.source else { return Ok(()) };
        let asking = source.control.clock();
        let server_clock =
            self.patience.wait("say what time it is", STEP_TIMEOUT, 1, asking).await?;
        self.environment.clocks.insert("postgresql".into(), server_clock);
        let run = run_number(self.folder.id());
        let (address, plan) = (source.address.clone(), self.plan.clone());
        for (n, number) in self.consumers.clone().enumerate() {
            let worker = &mut self.workers[number];
            let prepare = walbench_consumer::Prepare {
                run,
                address: address.clone(),
                clickhouse: self.destination.as_ref().map(|d| d.address.clone()),
                plan: plan.clone(),
                slot: source.slots[n].clone(),
                publication: source.publications[n].clone(),
                clock_correction_us: worker.clock.correction_us(),
                server_correction_us: server_clock.correction_us(),
                probes: n == 0,
            };
            worker.prepare(&prepare).await?;
        }
        for (n, number) in self.producers.clone().enumerate() {
            let worker = &mut self.workers[number];
            let prepare = walbench_producer::Prepare {
                run,
                index: u32::try_from(n).unwrap_or(u32::MAX),
                address: address.clone(),
                plan: plan.clone(),
                clock_correction_us: worker.clock.correction_us(),
            };
            worker.prepare(&prepare).await?;
        }
        let everyone: Vec<usize> = self.consumers.clone().chain(self.producers.clone()).collect();
        self.until_ready(&everyone).await?;
        self.check_interrupt()
    }

    /// Waits until each of these workers has said that it is ready.
    async fn until_ready(&mut self, workers: &[usize]) -> Result<(), Stop> {
        // A command that is not ready in its time is named by who keeps it.
        let of_a_command = match self.plan.consumer.is_external() {
            true => self.plan.limits.command_start_sec,
            false => 0.0,
        };
        let deadline = Self::after(READY_TIMEOUT.as_secs_f64() + of_a_command);
        let mut waiting = workers.to_vec();
        while let Some(&first) = waiting.first() {
            match self.next(deadline).await? {
                Happening::Said(number, message) => match *message {
                    FromWorker::Ready => waiting.retain(|n| *n != number),
                    other => {
                        let error = LinkError::unexpected("Ready", &other);
                        let nonsense = self.workers[number].failed("speaks nonsense");
                        return Err(nonsense.caused_by(&error).into());
                    }
                },
                Happening::Interrupted => return Err(Stop::Interrupted),
                Happening::TimeUp => {
                    return Err(self.workers[first].failed("was not ready in time").into());
                }
            }
        }
        Ok(())
    }

    /// From here on what processes and the server use is measured.
    pub(super) async fn begin_to_watch(&mut self) -> Result<(), Stop> {
        let Some(source) = &self.source else { return Ok(()) };
        let workers = self.consumers.clone().chain(self.producers.clone());
        let workers: Vec<&Worker> = workers.map(|n| &self.workers[n]).collect();
        let postmaster = self.private.as_ref().and_then(|(_, server)| server.postmaster_pid());
        let mock = self.mock.as_ref().map(|(number, _)| *number);
        let server = mock.or(self.clickhouse.as_ref().map(|(keeper, _)| *keeper));
        let watched = self.destination.as_ref().map(|destination| Watched {
            // The mock has no such account: it leaves one at its end.
            account: mock
                .is_none()
                .then(|| Account::new(destination.clients.clone(), destination.database())),
            root: server.map(|number| self.workers[number].pid),
        });
        let starting =
            Watch::start(source, &workers, postmaster, watched, &self.plan, &self.sender);
        let watch = self.patience.wait("describe its slots", STEP_TIMEOUT, 1, starting).await?;
        self.environment.allowances.extend(watch.allowances());
        self.watch = Some(watch);
        self.begin_to_profile();
        Ok(())
    }

    /// From here on the processes that the plan names are sampled.
    fn begin_to_profile(&mut self) {
        let Some(profiling) = &mut self.profiling else { return };
        let all = |wanted, range: &Range<usize>| if wanted { range.clone() } else { 0..0 };
        let consumers = all(profiling.with_consumers, &self.consumers);
        let producers = all(profiling.with_producers, &self.producers);
        for worker in consumers.chain(producers).map(|number| &self.workers[number]) {
            if worker.is_local {
                profiling.attach(&worker.name, worker.pid);
            } else {
                let text = format!("{} runs elsewhere and is not sampled", worker.name);
                profiling.allowances.push(text);
            }
        }
        self.profile_others();
    }

    /// A consumer that reconnected has another walsender, and a command has other processes.
    pub(super) fn profile_others(&mut self) {
        let (Some(watch), Some(profiling)) = (&self.watch, &mut self.profiling) else { return };
        if profiling.with_commands {
            watch.commands().for_each(|(name, pids)| profiling.follow_tree(name, &pids));
        }
        if profiling.with_walsenders {
            watch.walsenders().for_each(|(name, pid)| profiling.follow(name, pid));
        }
    }
}
