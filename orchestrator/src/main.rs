//! walbench: load-tests, profiles and proves a PostgreSQL → ClickHouse replication pipeline.
//!
//! ```text
//! cli ─► commands ─► run ─┬─► postgres   servers and databases, ours only
//!                         ├─► clickhouse a private server, or the engine as a library
//!                         ├─► worker     processes of this executable, by their link
//!                         ├─► watch      what they use
//!                         └─► live       what the user sees meanwhile
//! ```
//!
//! The same executable is the producer, the consumer and the keeper of a private server: the hidden
//! verb `worker` says which. This room alone knows all others; it knows nothing of pgoutput or
//! RowBinary.

mod address;
mod allocator;
mod ceiling;
mod clean;
mod cli;
mod clickhouse;
mod ending;
mod environment;
mod event;
mod flame_diff;
mod follow;
mod guard;
mod heaps;
mod keeper;
mod live;
mod plan;
mod postgres;
mod pprof;
mod profiling;
mod run;
mod signals;
mod verify;
mod watch;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, SchemaOf, WorkerRole};
use crate::ending::Ending;
use crate::pprof::Pprof;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors: clap knows where each goes.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ending::USAGE } else { 0 });
        }
    };
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(ending) => {
            ending::say(&ending.message);
            ExitCode::from(ending.code)
        }
    }
}

fn dispatch(command: Command) -> Result<u8, Ending> {
    match command {
        Command::Run(args) => runtime(2)?.block_on(run::run(&args)),
        Command::Check(args) => plan::check(&args),
        Command::Plans => plan::list(),
        Command::Schema { of } => match of {
            SchemaOf::Plan => ending::print_json(&walbench_phases::schema()),
            SchemaOf::Metrics => ending::print_json(&walbench_results::schema()),
        },
        Command::Follow(args) => {
            abort_on_panic();
            runtime(2)?.block_on(follow::follow(&args))
        }
        Command::Verify(args) => runtime(2)?.block_on(verify::verify_tables(&args)),
        Command::FlameDiff(args) => flame_diff::flame_diff(&args),
        Command::Ceiling(args) => {
            abort_on_panic();
            runtime(2)?.block_on(ceiling::ceiling(&args))
        }
        Command::Clean(args) => runtime(1)?.block_on(clean::clean(&args)),
        Command::Clickhouse(args) => runtime(1)?.block_on(clickhouse::serve(&args)),
        Command::Setup => clickhouse::setup(),
        Command::Guard { command } => {
            let runtime = runtime(1)?;
            let code = runtime.block_on(guard::guard(&command));
            // The runtime's own end would wait for a read of standard input.
            std::process::exit(code.into())
        }
        Command::Worker { role, stdio, pprof, heap } => {
            if heap {
                allocator::profile()?;
            }
            serve(role, stdio, pprof)
        }
    }
}

/// A thread or task that panics would leave a process that lives and does nothing.
fn abort_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// What keeps a command in a consumer's place. The executable may have been replaced by a build since
/// we started; this is ours still.
const GUARD: [&str; 3] = ["/proc/self/exe", "guard", "--"];

/// A worker's life. The process ends with it at once, whatever its threads are doing: a worker
/// whose orchestrator is gone must not linger in a query.
fn serve(role: WorkerRole, stdio: bool, pprof_hz: Option<u32>) -> Result<u8, Ending> {
    abort_on_panic();
    // Before there is any other thread.
    let pprof = pprof_hz.map(Pprof::prepare).transpose().map_err(Ending::component)?;
    let (sampler, folder) = pprof.map(|pprof| (pprof.sampler, pprof.folder)).unzip();
    let threads = match role {
        WorkerRole::Consumer | WorkerRole::Clickhouse | WorkerRole::Mock | WorkerRole::Ceiling => 2,
        WorkerRole::Producer | WorkerRole::Postgres => 1,
    };
    let served = runtime(threads)?.block_on(async {
        let (reader, writer) =
            if stdio { walbench_metrics::link::from_stdio() } else { worker::own_end()? };
        match role {
            WorkerRole::Producer => walbench_producer::serve(reader, writer, sampler).await,
            WorkerRole::Consumer => walbench_consumer::serve(reader, writer, sampler, &GUARD).await,
            WorkerRole::Postgres => postgres::keeper::serve(reader, writer).await,
            WorkerRole::Clickhouse => clickhouse::keeper::serve(reader, writer).await,
            WorkerRole::Mock => clickhouse::mock_worker::serve(reader, writer).await,
            WorkerRole::Ceiling => ceiling::worker::serve(reader, writer).await,
        }
    });
    drop(folder);
    if let Err(failure) = &served {
        ending::say(&failure.to_string());
    }
    std::process::exit(if served.is_ok() { 0 } else { ending::COMPONENT.into() })
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Ending> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|e| Ending::component(walbench_metrics::Failure::new("no runtime").caused_by(&e)))
}
