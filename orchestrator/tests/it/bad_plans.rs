//! Plans that can't be run: each says what is wrong with it, by its key.

use crate::home::{Home, SHORT_PLAN, entries};

/// The text of a plan file, if there is one, and what stands on the command line after `run`.
struct Bad {
    what: &'static str,
    /// Must be in the message.
    key: &'static str,
    plan: Option<String>,
    arguments: Vec<&'static str>,
}

/// A plan file with these lines after a sound phase.
fn file(what: &'static str, key: &'static str, lines: &str) -> Bad {
    let sound = SHORT_PLAN.replace("[producer]\ntables = [\"event\"]\n", "");
    Bad { what, key, plan: Some(format!("{sound}{lines}\n")), arguments: vec!["plan.toml"] }
}

/// A plan file that is nothing but this.
fn whole(what: &'static str, key: &'static str, text: &str) -> Bad {
    Bad { what, key, plan: Some(text.into()), arguments: vec!["plan.toml"] }
}

/// A sound plan file and these arguments.
fn arguments<const N: usize>(
    what: &'static str,
    key: &'static str,
    more: [&'static str; N],
) -> Bad {
    let arguments = ["plan.toml"].into_iter().chain(more).collect();
    Bad { what, key, plan: Some(SHORT_PLAN.into()), arguments }
}

/// These arguments alone.
fn only<const N: usize>(what: &'static str, key: &'static str, all: [&'static str; N]) -> Bad {
    Bad { what, key, plan: None, arguments: all.into() }
}

fn phase(lines: &str) -> String {
    format!("[[phases]]\nname = \"a\"\nduration_sec = 1\ntarget_throughput = 10\n{lines}")
}

fn bad_plans() -> Vec<Bad> {
    let twice = format!("{}{}", phase(""), phase(""));
    vec![
        file("a wrong type", "producer.batch_size", "[producer]\nbatch_size = \"ten\""),
        file("a misspelt key", "producer.batchsize", "[producer]\nbatchsize = 10"),
        file("a key in the wrong place", "batch_size", "[clickhouse]\nbatch_size = 10"),
        file("an unknown section", "produser", "[produser]\nprocesses = 2"),
        whole("no phases", "phases", "name = \"x\""),
        whole("an empty list of phases", "phases", "phases = []"),
        whole("an empty file", "phases", ""),
        whole("two phases of one name", "phases[1].name", &twice),
        whole("a zero duration", "duration_sec", &phase("").replace("sec = 1", "sec = 0")),
        whole("a negative rate", "target_throughput", &phase("").replace("10", "-10")),
        whole("no rate", "target_throughput", &phase("").replace("10", "0")),
        whole("an endless warm-up", "warmup_sec", &phase("warmup_sec = inf")),
        whole("a phase without a name", "name", &phase("").replace("name", "nmae")),
        whole(
            "a burst longer than its period",
            "burst.length_sec",
            &phase("burst = { throughput = 20, every_sec = 1, length_sec = 2 }"),
        ),
        whole("a syntax error", "plan.toml:1:8", "name = plain"),
        whole("a name that is no name", "name", &format!("name = \"../up\"\n{}", phase(""))),
        file("a URL that is none", "postgres.url", "[postgres]\nurl = \"localhost\""),
        file("another database's URL", "postgres.url", "[postgres]\nurl = \"mysql://db/\""),
        file("an unset variable", "postgres.url", "[postgres]\nurl = \"${WB_TEST_UNSET}\""),
        file("a bad choice", "producer.arrivals", "[producer]\narrivals = \"unifrom\""),
        file("no processes", "producer.processes", "[producer]\nprocesses = 0"),
        file("an empty transaction", "producer.batch_size", "[producer]\nbatch_size = 0"),
        file("a ratio over one", "insert_update_ratio", "[producer]\ninsert_update_ratio = 1.5"),
        file(
            "a table named twice",
            "producer.tables[1]",
            "[producer]\ntables = [\"event\", \"event\"]",
        ),
        file("no tables", "producer.tables", "[producer]\ntables = []"),
        file(
            "a batch larger than what may be in flight",
            "consumer.flush_batch_bytes",
            "[consumer]\nflush_batch_bytes = 1_000_000\nmax_in_flight_bytes = 100_000",
        ),
        file(
            "too few tables to divide",
            "consumer.processes",
            "[consumer]\nprocesses = 2\ndistribution = \"divided\"",
        ),
        file("a slot that is no slot", "postgres.slot", "[postgres]\nslot = \"Mine!\""),
        file("a threshold of nothing", "thresholds.low", "[thresholds]\nlow = \"lagg.p99 < 5ms\""),
        file("a threshold without a unit", "thresholds.low", "[thresholds]\nlow = \"drain < 5\""),
        file("a ClickHouse without its URL", "clickhouse.url", "[clickhouse]\nmode = \"url\""),
        file(
            "a fault that does nothing",
            "clickhouse.mock.faults[0]",
            "[consumer]\nmock_level = \"http\"\n\
             [[clickhouse.mock.faults]]\nkind = \"delay\"\nat_sec = 1",
        ),
        file(
            "a sampler that there is not",
            "profiling.backend",
            "[profiling]\ntool = \"flame\"\nbackend = \"ebpf\"",
        ),
        file("too many samples", "profiling.rate_hz", "[profiling]\nrate_hz = 50_000"),
        arguments("a set without a value", "producer.seed", ["--set", "producer.seed"]),
        arguments("a set of an unknown key", "producer.sed", ["--set", "producer.sed=1"]),
        arguments("a set of a phase that is not there", "phases.7", ["--set", "phases.7.name=x"]),
        arguments("a rate that is no number", "--throughput", ["--throughput", "fast"]),
        arguments("a negative duration", "--duration", ["-d", "-5"]),
        arguments("an unknown profiler", "profiling.tool", ["--profile", "perf"]),
        arguments("an unknown flag", "--thoughput", ["--thoughput", "5"]),
        arguments("two plans", "--config", ["--config", "quickstart"]),
        only("a missing file", "missing.toml", ["missing.toml"]),
        only("a folder", "runs.toml", ["runs.toml"]),
        only("a misspelt built-in plan", "quikstart", ["quikstart"]),
    ]
}

#[test]
fn every_bad_plan_is_refused_by_its_key() {
    let mut said = String::new();
    for Bad { what, key, plan, arguments } in bad_plans() {
        let home = Home::new();
        std::fs::create_dir(home.path().join("runs.toml")).unwrap();
        if let Some(plan) = plan {
            home.write("plan.toml", &plan);
        }
        let mut command = home.walbench(["run", "--output", "runs"]);
        for argument in arguments {
            command = command.args([argument]);
        }
        let ended = command.ended().with_code(2).said(key);
        assert_eq!(ended.stdout, "", "{what}");
        assert!(!home.runs().exists(), "{what} left a run: {:?}", entries(&home.runs()));
        said += &format!("--- {what}\n{}\n", ended.stderr_anywhere());
    }
    insta::assert_snapshot!(said);
}
