//! The README against the code: its plans load, and its plan reference is the schema's.

use std::fmt::Write;

use serde_json::Value;
use walbench_phases::{Env, Source, load, schema};

const README: &str = include_str!("../../../README.md");
const BEGIN: &str = "<!-- plan reference: begin -->\n";
const END: &str = "<!-- plan reference: end -->";

#[test]
fn every_toml_block_is_a_plan() {
    let mut blocks = 0;
    for block in README.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap().to_owned();
        let env = Env::from_pairs([("DATABASE_URL", "postgres://app:secret@localhost/app")]);
        let source = Source { name: "README.md".into(), text, env };
        load(&source, &[]).unwrap_or_else(|e| panic!("{e}\n{}", source.text));
        blocks += 1;
    }
    assert!(blocks >= 2, "the README shows plans");
}

#[test]
fn the_plan_reference_is_the_schema() {
    let (_, rest) = README.split_once(BEGIN).expect("the README has a plan reference");
    let (written, _) = rest.split_once(END).expect("the plan reference ends");
    let expected = reference();
    assert_eq!(
        written, expected,
        "the README's plan reference is out of date; between its markers there must stand:\n\n{expected}"
    );
}

/// The schema as Markdown: a table for each section of a plan.
fn reference() -> String {
    let schema = schema();
    let mut out = table(&schema, &schema, "Top level");
    let sections = [
        ("`[[phases]]`", "Phase"),
        ("`[phases.burst]`", "Burst"),
        ("`[postgres]`", "Postgres"),
        ("`[clickhouse]`", "Clickhouse"),
        ("`[clickhouse.mock]`", "MockServer"),
        ("`[[clickhouse.mock.faults]]`", "Fault"),
        ("`[producer]`", "Producer"),
        ("`[consumer]`", "Consumer"),
        ("`[profiling]`", "Profiling"),
        ("`[limits]`", "Limits"),
        ("`[output]`", "Output"),
    ];
    for (title, name) in sections {
        out += &table(&schema, &schema["$defs"][name], title);
    }
    out
}

fn table(schema: &Value, section: &Value, title: &str) -> String {
    let mut out = format!("\n**{title}**\n\n| key | default | meaning |\n|---|---|---|\n");
    let required: Vec<&str> =
        section["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, property) in section["properties"].as_object().unwrap() {
        // A section is described by its own table.
        let target = property["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/"));
        if target.is_some_and(|name| schema["$defs"][name]["properties"].is_object()) {
            continue;
        }
        let default = match (&property["default"], required.contains(&key.as_str())) {
            (_, true) => "required".to_owned(),
            (Value::Null, false) => "–".to_owned(),
            (value, false) => format!("`{value}`"),
        };
        let meaning = property["description"].as_str().unwrap().replace('\n', " ");
        let choices = target.map(|name| choices(&schema["$defs"][name])).unwrap_or_default();
        writeln!(out, "| `{key}` | {default} | {meaning}{choices} |").unwrap();
    }
    out
}

/// The values of a choice, each with what it means.
fn choices(definition: &Value) -> String {
    let variants = definition["oneOf"].as_array().into_iter().flatten();
    variants
        .map(|variant| {
            let description = variant["description"].as_str().unwrap();
            format!(" `{}`: {}", variant["const"], description.replace('\n', " "))
        })
        .collect()
}
