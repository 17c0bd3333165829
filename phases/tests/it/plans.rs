//! Plans that load.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use walbench_phases::plan::{Arrivals, Burst, ClickhouseMode, Phase, Postgres, Producer};
use walbench_phases::{Env, Override, Plan, Source, builtin, find, load, load_file};

fn source(text: &str) -> Source {
    Source { name: "plan.toml".into(), text: text.into(), env: Env::default() }
}

fn set(path: &str, value: &str) -> Override {
    let origin = format!("--set {path}={value}");
    Override { path: path.into(), value: Some(value.into()), origin }
}

const SMALL: &str = "
[[phases]]
name = 'a'
duration_sec = 10
target_throughput = 100

[[phases]]
name = 'b'
duration_sec = 5.5
target_throughput = 100
";

#[test]
fn every_built_in_plan_loads_and_says_what_it_is() {
    for builtin in builtin::all() {
        let plan = load(&find(builtin.name).unwrap(), &[]).unwrap();
        assert_eq!(plan.name, builtin.name);
        assert!(!plan.description.is_empty());
        assert!(
            builtin.summary.ends_with(['.', '?']) && builtin.summary.len() < 100,
            "{}",
            builtin.name
        );
    }
    let quick = load(&find("quickstart").unwrap(), &[]).unwrap();
    let seconds: f64 = quick.phases.iter().map(|phase| phase.warmup_sec + phase.duration_sec).sum();
    assert!(seconds < 40.0);
}

#[test]
fn what_is_left_out_has_its_default() {
    let plan = load(&source(SMALL), &[]).unwrap();
    assert_eq!(plan.producer, Producer::default());
    assert_eq!(plan.postgres, Postgres::default());
    assert_eq!(plan.phases[0].duration_sec, 10.0, "an integer is a number");
}

#[test]
fn overrides_win_in_their_order() {
    let sets = [
        set("producer.batch_size", "7"),
        set("phases.*.target_throughput", "500"),
        set("phases.1.target_throughput", "900"),
        set("phases[0].burst", "{ throughput = 1000, every_sec = 5, length_sec = 1 }"),
        set("phases.0.burst.length_sec", "2"),
        set("producer.batch_size", "8"),
        set("producer.tables", "[\"event\"]"),
        set("producer.arrivals", "poisson"),
        set("name", "123"),
        set("description", "2024-01-01"),
        set("postgres.settings.shared_buffers", "1GB"),
        set("thresholds.\"all there\"", "lost == 0"),
    ];
    let plan = load(&source(SMALL), &sets).unwrap();
    assert_eq!(plan.producer.batch_size, 8);
    assert_eq!(plan.producer.tables, ["event"]);
    assert_eq!(plan.producer.arrivals, Arrivals::Poisson);
    assert_eq!([500.0, 900.0], [0, 1].map(|at: usize| plan.phases[at].target_throughput));
    assert_eq!(plan.phases[0].burst.as_ref().unwrap().length_sec, 2.0);
    assert_eq!((plan.name.as_str(), plan.description.as_str()), ("123", "2024-01-01"));
    assert_eq!(plan.postgres.settings["shared_buffers"], "1GB");
    assert_eq!(plan.thresholds["all there"], "lost == 0");
}

#[test]
fn what_an_override_replaces_is_not_looked_at() {
    let text = format!("{SMALL}\n[postgres]\nurl = '${{NOT_SET}}'\n[limits]\ndrain_sec = nan\n");
    let sets = [set("postgres.url", "postgres://${HOST}/"), set("limits.drain_sec", "5")];
    let source = Source { env: Env::from_pairs([("HOST", "db")]), ..source(&text) };
    assert_eq!(load(&source, &sets).unwrap().postgres.url.as_deref(), Some("postgres://db/"));
}

#[test]
fn a_value_can_not_break_the_syntax() {
    let text = format!("description = '${{D}}'\n{SMALL}");
    let value = "'\n[producer]\nbatch_size = 5";
    let source = Source { env: Env::from_pairs([("D", value)]), ..source(&text) };
    let plan = load(&source, &[]).unwrap();
    assert_eq!((plan.description.as_str(), plan.producer.batch_size), (value, 10));
}

#[test]
fn a_file_is_read_with_the_variables_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    std::fs::write(&path, format!("name = '${{WALBENCH_TEST_NAME}}'\n{SMALL}")).unwrap();
    std::fs::write(folder.path().join(".env"), "WALBENCH_TEST_NAME=from-env\n").unwrap();
    assert_eq!(load_file(&path, &[]).unwrap().name, "from-env");
}

#[test]
fn secrets_are_masked() {
    let mut plan = load(&source(SMALL), &[]).unwrap();
    plan.postgres.url = Some("host=db user=ann password='hunter2 x'".into());
    plan.postgres.schema_from = Some("postgres://ann:hunter2@db/app?sslmode=require".into());
    plan.clickhouse.mode = ClickhouseMode::Url;
    plan.clickhouse.url = Some("https://ann@ch:8443/?password=hunter2&api_token=hunter2".into());
    let masked = plan.masked();
    assert!(!masked.to_toml().contains("hunter2"));
    assert_eq!(
        masked.postgres.schema_from.as_deref(),
        Some("postgres://ann:***@db:5432/app?sslmode=require")
    );
    assert_eq!(masked.clickhouse.url.as_deref(), Some("https://ann:***@ch:8443/?api_token=***"));
    assert_eq!(load(&source(&masked.to_toml()), &[]), Ok(masked));
}

#[test]
fn a_plan_is_written_in_the_order_it_is_described() {
    let plan = load(&find("multi-phase").unwrap(), &[]).unwrap();
    insta::assert_snapshot!(plan.to_toml());
}

fn phase() -> impl Strategy<Value = Phase> {
    let burst =
        (0.001..1e6, 2.0..60.0, 0.1..2.0).prop_map(|(throughput, every_sec, length_sec)| Burst {
            throughput,
            every_sec,
            length_sec,
        });
    let shape = prop_oneof![
        Just((None, None)),
        (0.0..1e6).prop_map(|start| (Some(start), None)),
        burst.prop_map(|burst| (None, Some(burst))),
    ];
    (0.001..1e5, 0.001..1e6, 0.0..100.0, shape).prop_map(|(duration, target, warmup, shape)| {
        Phase {
            name: String::new(),
            duration_sec: duration,
            target_throughput: target,
            warmup_sec: warmup,
            start_throughput: shape.0,
            burst: shape.1,
        }
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let text = "[${}a\"'\\\\\n\té:-]*";
    let producer = (any::<u64>(), 1..=100_000u32, of(0..1000u32), 0.01..=1.0, vec(text, 0..3));
    let settings = btree_map("[a-z_. ]{1,8}", text, 0..3);
    (vec(phase(), 1..4), text, producer, settings).prop_map(
        |(
            mut phases,
            description,
            (seed, batch_size, payload_bytes, ratio, launcher),
            settings,
        )| {
            for (number, phase) in phases.iter_mut().enumerate() {
                phase.name = format!("phase-{number}");
            }
            let producer = Producer {
                seed,
                batch_size,
                payload_bytes,
                insert_update_ratio: ratio,
                launcher,
                ..Producer::default()
            };
            let postgres = Postgres { settings, ..Postgres::default() };
            Plan {
                name: "any".into(),
                description,
                phases,
                postgres,
                producer,
                thresholds: BTreeMap::from([("a b".into(), "lost == 0".into())]),
                ..load(&source(SMALL), &[]).expect("the small plan is right")
            }
        },
    )
}

proptest! {
    #[test]
    fn a_plan_survives_its_text(plan in plan()) {
        prop_assert_eq!(load(&source(&plan.to_toml()), &[]), Ok(plan));
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", key in "[a-z_.*0-9\\[\\]\"]*", value in "\\PC*") {
        let _ = load(&source(&text), &[]);
        let _ = load(&source(SMALL), &[set(&key, &value)]);
        let _ = load(&source(SMALL), &[set("producer", &value), set("phases.0", &value)]);
        let _ = load(&source(&format!("{SMALL}\n[producer]\nbatch_size = {value}")), &[]);
    }
}

#[test]
fn what_is_left_out_by_an_override_has_its_default() {
    let text =
        format!("{SMALL}\n[clickhouse]\nmode = \"url\"\nurl = \"http://h\"\ndatabase = \"d\"\n");
    let leave_out = |path: &str| Override {
        path: path.into(),
        value: None,
        origin: "--mock-clickhouse".into(),
    };
    let sets = [set("clickhouse.mode", "mock"), leave_out("clickhouse.url")];
    let plan = load(&source(&text), &sets).unwrap();
    assert_eq!((plan.clickhouse.url, plan.clickhouse.database.as_str()), (None, "d"));
    assert!(load(&source(SMALL), &[leave_out("clickhouse.url")]).is_ok());
}
