//! A run, from plan to results.
//!
//! ```text
//! open ─► server ─► source ─► destination ─► workers ready ─► phase… ─► workers done ─► (ceilings) ─► remove ─► results
//! ```
//!
//! Everything that happens outside (workers, signals, state of the server) arrives as an [`Event`]
//! in one queue and is handled in one place, [`Run::next`].

mod ceilings;
mod compare;
mod drain;
mod events;
mod finish;
mod phase;
mod prepare;

use std::ops::Range;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use walbench_metrics::{Cuts, Failure};
use walbench_phases::Plan;
use walbench_results::environment::Environment;
use walbench_results::folder::{FolderError, SampleLog, run_id};
use walbench_results::outcome::PhaseOutcome;
use walbench_results::{RunFolder, Tally};

use crate::ceiling::sink::CeilingSink;
use crate::cli::{ClickHouseProgramArgs, RunArgs};
use crate::clickhouse::destination::Destination;
use crate::clickhouse::mock::MockPlace;
use crate::clickhouse::private::PrivateClickHouse;
use crate::ending::Ending;
use crate::event::{Event, Stop};
use crate::heaps::Heaps;
use crate::live::Live;
use crate::postgres::claim::Claim;
use crate::postgres::private::PrivateServer;
use crate::postgres::source::Source;
use crate::profiling::Profiling;
use crate::signals::Patience;
use crate::watch::Watch;
use crate::worker::Worker;
use crate::{environment, plan, signals};

/// A run and everything it holds.
pub(crate) struct Run {
    plan: Plan,
    keep: bool,
    pg_bin: Option<std::path::PathBuf>,
    clickhouse_program: ClickHouseProgramArgs,
    started_at: jiff::Timestamp,
    folder: RunFolder,
    environment: Environment,
    sender: UnboundedSender<Event>,
    events: UnboundedReceiver<Event>,
    /// Signals so far, as events.
    interrupts: u32,
    /// Signals so far, as they come.
    patience: Patience,
    /// The private server's keeper is among them, if there is one.
    workers: Vec<Worker>,
    producers: Range<usize>,
    consumers: Range<usize>,
    private: Option<(usize, PrivateServer)>,
    /// The private ClickHouse's keeper and what it keeps.
    clickhouse: Option<(usize, PrivateClickHouse)>,
    /// The mock server's process and place.
    mock: Option<(usize, MockPlace)>,
    destination: Option<Destination>,
    /// Where the sink's ceiling is measured.
    ceiling_sink: Option<CeilingSink>,
    claim: Option<Claim>,
    source: Option<Source>,
    watch: Option<Watch>,
    profiling: Option<Profiling>,
    heaps: Heaps,
    /// How many phases' profiles are written.
    profiled_phases: usize,
    /// Where the running phase is cut; `None` between phases.
    cuts: Option<(u32, Cuts)>,
    /// When the processes were last measured, in µs.
    measured_us: i64,
    /// Resource samples that were asked for and have not come.
    owed_resources: u32,
    samples: SampleLog,
    tally: Tally,
    phases: Vec<PhaseOutcome>,
    live: Live,
}

/// `walbench run`.
pub(crate) async fn run(args: &RunArgs) -> Result<u8, Ending> {
    let plan = plan::resolve(&args.plan)?;
    plan::refuse_what_is_missing(&plan)?;
    let mut run = Run::open(plan, args).map_err(Ending::component)?;
    let went = run.go().await;
    run.finish(went).await
}

impl Run {
    fn open(plan: Plan, args: &RunArgs) -> Result<Self, Failure> {
        let unwritable = |e: FolderError| {
            Failure::new("the results can't be written")
                .caused_by(&e)
                .hint("output.dir in the plan, or --output, names the folder that holds the runs")
        };
        let started_at = jiff::Timestamp::now();
        let folder = RunFolder::create(&plan.output.dir, &run_id(started_at, &plan.name))
            .map_err(unwritable)?;
        folder.write("plan.toml", plan.masked().to_toml()).map_err(unwritable)?;
        let samples = folder.samples().map_err(unwritable)?;
        let (sender, events) = unbounded_channel();
        let patience = signals::forward(&sender)
            .map_err(|e| Failure::new("signals can't be received").caused_by(&e))?;
        Ok(Self {
            environment: environment::of_this_machine(),
            tally: Tally::new(&plan),
            live: Live::new(&plan, args.verbose),
            keep: args.keep,
            pg_bin: args.pg_bin.clone(),
            clickhouse_program: args.clickhouse.clone(),
            started_at,
            folder,
            sender,
            events,
            interrupts: 0,
            patience,
            workers: Vec::new(),
            producers: 0..0,
            consumers: 0..0,
            private: None,
            clickhouse: None,
            mock: None,
            destination: None,
            ceiling_sink: None,
            claim: None,
            source: None,
            watch: None,
            profiling: None,
            heaps: Heaps::default(),
            profiled_phases: 0,
            cuts: None,
            measured_us: 0,
            owed_resources: 0,
            samples,
            phases: Vec::new(),
            plan,
        })
    }

    /// Everything until the last phase is over. An early end is not the caller's to clean up after:
    /// `finish` is.
    async fn go(&mut self) -> Result<(), Stop> {
        // What is not permitted is known before a server is started.
        self.profiling = Profiling::start(&self.plan, self.started_at.as_microsecond())?;
        let server = self.reach_server().await?;
        self.prepare_source(&server).await?;
        self.reach_destination().await?;
        self.start_workers().await?;
        self.prepare_workers().await?;
        self.begin_to_watch().await?;
        for phase in 0..self.plan.phases.len() {
            if self.interrupts > 0 {
                break;
            }
            self.run_phase(u32::try_from(phase).unwrap_or(u32::MAX)).await?;
        }
        Ok(())
    }

    /// An interrupt while nothing was measured yet ends the run.
    fn check_interrupt(&mut self) -> Result<(), Stop> {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event)?;
        }
        if self.interrupts > 0 { Err(Stop::Interrupted) } else { Ok(()) }
    }

    fn after(seconds: f64) -> Instant {
        Instant::now() + std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
    }
}
