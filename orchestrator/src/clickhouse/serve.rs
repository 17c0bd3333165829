//! `walbench clickhouse`: a private ClickHouse, or a mock, for whoever wants one.

use walbench_consumer::clickhouse::mock::VERSION;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_phases::{Env, Plan, Source, load};

use crate::cli::ClickHouseArgs;
use crate::ending::{self, Ending};
use crate::keeper::until_signal;
use crate::plan::set_overrides;

use super::managed::{Managed, program};
use super::mock::MockClickHouse;

/// A plan is what `--set` changes; of this one only the mock's part is used.
const MOCK_PLAN: &str = "producer.enabled = false\nconsumer.mock_level = \"http\"\n\
    [[phases]]\nname = \"mock\"\nduration_sec = 1\n";

/// Starts a private ClickHouse, says where it is, and stops it when it is told to end.
pub(crate) async fn serve(args: &ClickHouseArgs) -> Result<u8, Ending> {
    if args.mock {
        return serve_mock(args).await;
    }
    let program = program(&args.program).map_err(Ending::component)?;
    let starting = Managed::start(program, args.keep);
    let mut managed = tokio::select! {
        managed = starting => managed.map_err(Ending::component)?,
        Ok(()) = until_signal() => return Err(Ending::interrupted()),
    };
    ending::say(&format!("{}; Ctrl-C ends it", managed.description));
    ending::print(&format!("{}\n", managed.url))?;
    tokio::select! {
        failure = managed.failed() => return Err(Ending::component(failure)),
        Ok(()) = until_signal() => {}
    }
    managed.stop().await.map_err(Ending::component)?;
    Ok(0)
}

/// The same with a mock. Its faults' time counts from now.
async fn serve_mock(args: &ClickHouseArgs) -> Result<u8, Ending> {
    let plan = mock_plan(args)?;
    let starting = MockClickHouse::start(&plan, args.port.unwrap_or(0));
    let mut mock = tokio::select! {
        mock = starting => mock.map_err(Ending::component)?,
        Ok(()) = until_signal() => return Err(Ending::interrupted()),
    };
    mock.begin(0, wall_us()).await.map_err(Ending::component)?;
    ending::say(&format!("ClickHouse {}, {}; Ctrl-C ends it", VERSION, mock.place.program));
    ending::print(&format!("{}\n", mock.place.url))?;
    tokio::select! {
        failure = mock.failed() => return Err(Ending::component(failure)),
        Ok(()) = until_signal() => {}
    }
    let counters = mock.stop().await.map_err(Ending::component)?;
    ending::say(&counters.line());
    Ok(0)
}

fn mock_plan(args: &ClickHouseArgs) -> Result<Plan, Ending> {
    let overrides = set_overrides(&args.set)?;
    let is_known = |path: &str| path.starts_with("clickhouse.mock.") || path == "producer.seed";
    if let Some(set) = overrides.iter().find(|set| !is_known(&set.path)) {
        let failure = Failure::new(format!("{}: that key means nothing here", set.origin));
        let hint = "keys of [clickhouse.mock] do, such as --set clickhouse.mock.delay_ms=20";
        return Err(Ending::usage(failure.hint(hint)));
    }
    let source = Source { name: "mock".into(), text: MOCK_PLAN.into(), env: Env::here() };
    Ok(load(&source, &overrides)?)
}
