//! From the command line to a plan.

use walbench_metrics::Failure;
use walbench_phases::{Override, Plan, Source, builtin, find, load};

use crate::cli::PlanArgs;
use crate::ending::{self, Ending};

const DEFAULT_PLAN: &str = "quickstart";

/// The plan that the arguments mean, resolved: flag over `--set` over file over default.
pub(crate) fn resolve(args: &PlanArgs) -> Result<Plan, Ending> {
    let name = args.config.as_deref().or(args.plan.as_deref()).unwrap_or(DEFAULT_PLAN);
    let source: Source = find(name)?;
    Ok(load(&source, &overrides(args)?)?)
}

/// What `--set` says.
pub(crate) fn set_overrides(sets: &[String]) -> Result<Vec<Override>, Ending> {
    let mut overrides = Vec::new();
    for set in sets {
        let Some((path, value)) = set.split_once('=') else {
            return Err(Ending::usage(format_args!(
                "error: --set {set}: has no value\n  hint: write --set KEY=VALUE, such as \
                 --set producer.batch_size=50"
            )));
        };
        let (path, value) = (path.trim().into(), Some(value.trim().into()));
        overrides.push(Override { path, value, origin: format!("--set {set}") });
    }
    Ok(overrides)
}

fn overrides(args: &PlanArgs) -> Result<Vec<Override>, Ending> {
    let mut overrides = set_overrides(&args.set)?;
    let mut flag = |path: &str, value: Option<&str>, name: &str| {
        if let Some(value) = value {
            let origin = format!("--{name} {value}");
            overrides.push(Override { path: path.into(), value: Some(value.into()), origin });
        }
    };
    flag("name", args.name.as_deref(), "name");
    flag("description", args.description.as_deref(), "description");
    flag("phases.*.target_throughput", args.throughput.as_deref(), "throughput");
    flag("phases.*.duration_sec", args.duration.as_deref(), "duration");
    flag("producer.processes", args.workers.as_deref(), "workers");
    flag("profiling.tool", args.profile.as_deref(), "profile");
    flag("profiling.ceiling", args.ceiling.then_some("true"), "ceiling");
    let output = args.output.as_ref().map(|path| path.display().to_string());
    flag("output.dir", output.as_deref(), "output");
    if args.mock_clickhouse {
        // An address has no meaning for a mock.
        for (path, value) in [("clickhouse.mode", Some("mock".into())), ("clickhouse.url", None)] {
            let origin = "--mock-clickhouse".into();
            overrides.push(Override { path: path.into(), value, origin });
        }
    }
    Ok(overrides)
}

/// `walbench check`.
pub(crate) fn check(args: &PlanArgs) -> Result<u8, Ending> {
    let plan = resolve(args)?;
    if let Err(refused) = refuse_what_is_missing(&plan) {
        ending::say(&format!("note: `walbench run` refuses this plan:\n{}", refused.message));
    }
    ending::print(&plan.masked().to_toml())
}

/// `walbench plans`.
pub(crate) fn list() -> Result<u8, Ending> {
    let width = builtin::all().map(|plan| plan.name.len()).max().unwrap_or_default();
    let lines = builtin::all().map(|plan| format!("{:width$}  {}\n", plan.name, plan.summary));
    ending::print(&lines.collect::<String>())
}

/// What plans may say and this version can't do: refused before anything is started.
pub(crate) fn refuse_what_is_missing(plan: &Plan) -> Result<(), Ending> {
    if plan.consumer.initial_copy {
        let failure = Failure::new("consumer.initial_copy is for `walbench follow`").hint(
            "leave it out: the slots of a run are made before its rows are written, so that \
             nothing is there to be copied",
        );
        return Err(Ending::usage(failure));
    }
    Ok(())
}
