//! `walbench ceiling`: what the parts of a pipeline can do by themselves, on a slot that exists.

pub(crate) mod sink;
pub(crate) mod worker;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use walbench_consumer::{BareRead, Measure, Reading, measure, read_bare};
use walbench_metrics::Failure;
use walbench_phases::plan::MockLevel;
use walbench_phases::{Override, Plan};
use walbench_results::CeilingFigures;

use crate::address::given_clickhouse;
use crate::cli::CeilingArgs;
use crate::ending::{self, Ending};
use crate::follow::{following, per, plan, signalled, start_failed, used};
use sink::CeilingSink;

/// Where the WAL ends now.
const HERE: &str = "current";

/// `walbench ceiling`.
pub(crate) async fn ceiling(args: &CeilingArgs) -> Result<u8, Ending> {
    match (args.eager, args.late) {
        (true, _) => read_once(args, Reading::Eager),
        (_, true) => read_once(args, Reading::Coalescing),
        _ => measure_all(args).await,
    }
}

/// What flags say of the plan.
fn overrides(args: &CeilingArgs) -> Vec<Override> {
    let level = args.mock_level.as_ref().map(|level| Override {
        path: "consumer.mock_level".into(),
        value: Some(level.clone()),
        origin: format!("--mock-level {level}"),
    });
    level.into_iter().collect()
}

async fn measure_all(args: &CeilingArgs) -> Result<u8, Ending> {
    let no_signal = |e| Ending::component(Failure::new("signals can't be caught").caused_by(&e));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let overrides = overrides(args);
    let plan = plan(&args.stream.set, &overrides)?;
    let until_lsn = args.stream.until_lsn.as_deref().unwrap_or(HERE);
    let mut stream = following(&args.stream, Some(until_lsn), &overrides)?;
    let sink = make_sink(args, &plan).await?;
    stream.clickhouse = sink.as_ref().map(|sink| sink.place.clone());
    let name = match &sink {
        Some(sink) => Some(sink.name.to_owned()),
        None => args.mock_clickhouse.then(|| "the mock".to_owned()),
    };
    let what = Measure { streams: vec![stream], rounds: args.rounds, sink: name };
    let measured = tokio::select! {
        measured = measure(what) => measured.map_err(start_failed),
        Some(()) = signalled(&mut interrupt, &mut terminate) => Err(Ending::interrupted()),
    };
    if let Some(sink) = sink {
        sink.remove().await.map_err(Ending::component)?;
    }
    let figures = CeilingFigures::of(&measured?).ok_or_else(|| {
        Ending::component(Failure::new("nothing was measured: no turn had a row"))
    })?;
    if args.stream.json {
        return ending::print(&format!("{}\n", json!(figures)));
    }
    ending::print(&figures.text())
}

/// Where the sink is measured; `None` where that is the mock that is no server, or is left out.
async fn make_sink(args: &CeilingArgs, plan: &Plan) -> Result<Option<CeilingSink>, Ending> {
    let made = match &args.clickhouse {
        Some(url) => {
            let address = given_clickhouse("--clickhouse", url).map_err(Ending::usage)?;
            CeilingSink::clickhouse(address, &plan.clickhouse, "ceiling").await
        }
        None if !args.mock_clickhouse => return Ok(None),
        None => match plan.consumer.mock_level {
            MockLevel::Http => CeilingSink::mock(plan).await,
            MockLevel::Encode => return Ok(None),
            MockLevel::Discard | MockLevel::Files => {
                let failure = Failure::new("a mock of this level has no ceiling to be measured");
                return Err(Ending::usage(failure.hint("--mock-level encode or http has one")));
            }
        },
    };
    made.map(Some).map_err(Ending::component)
}

/// One bare reader, once.
fn read_once(args: &CeilingArgs, reading: Reading) -> Result<u8, Ending> {
    let until_lsn = args.stream.until_lsn.as_deref().unwrap_or(HERE);
    let stream = following(&args.stream, Some(until_lsn), &[])?;
    let BareRead { rows, bytes, reads, reading, .. } =
        read_bare(&stream, reading).map_err(start_failed)?;
    let (seconds, used) = (reading.as_secs_f64(), used());
    if args.stream.json {
        return ending::print(&format!(
            "{}\n",
            json!({
                "rows": rows, "bytes": bytes, "reads": reads, "seconds": seconds,
                "rows_per_s": per(rows as f64, seconds),
                "cpu_us_per_row": per(used.cpu_us, rows as f64),
                "max_rss_bytes": used.max_rss_bytes,
            })
        ));
    }
    ending::print(&format!(
        "{rows} rows, {bytes} bytes in {seconds:.3} s: {:.0} rows/s, {:.2} µs of CPU a row, {reads} reads\n",
        per(rows as f64, seconds).unwrap_or_default(),
        per(used.cpu_us, rows as f64).unwrap_or_default(),
    ))
}
