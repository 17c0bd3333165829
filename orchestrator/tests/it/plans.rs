//! From command line and file to a plan.

use std::fs;

use serde_json::Value;

use crate::home::{Home, SHORT_PLAN};

#[test]
fn a_resolved_plan_can_be_run_again() {
    let home = Home::new();
    home.write("plan.toml", SHORT_PLAN);
    let resolved = home.walbench(["check", "plan.toml"]).ended().with_code(0).stdout;
    home.write("resolved.toml", &resolved);
    let again = home.walbench(["check", "resolved.toml"]).ended().with_code(0).stdout;
    assert_eq!(again, resolved);
    assert!(resolved.contains("flush_interval_ms = 100"), "no defaults: {resolved}");
}

#[test]
fn passwords_are_not_shown() {
    let home = Home::new();
    let plan = format!(
        "{SHORT_PLAN}\n[postgres]\nurl = \"postgres://ann:hunter2@db/\"\n\
         schema_from = \"postgres://bob:hunter3@db/\"\n"
    );
    home.write("plan.toml", &plan);
    let resolved = home.walbench(["check", "plan.toml"]).ended().with_code(0).stdout;
    assert!(resolved.contains("ann:"), "{resolved}");
    assert!(!resolved.contains("hunter"), "{resolved}");
    home.write("resolved.toml", &resolved);
    home.walbench(["check", "resolved.toml"]).ended().with_code(0);
}

#[test]
fn a_flag_wins_over_set_over_file_over_default() {
    let home = Home::new();
    home.write("plan.toml", SHORT_PLAN);
    let resolved = |sets: &[&str]| {
        let mut command = home.walbench(["check", "plan.toml"]);
        for argument in sets {
            command = command.args([argument]);
        }
        command.ended().with_code(0).stdout
    };
    let set = "--set=phases.0.duration_sec=2";
    assert!(resolved(&[]).contains("\nduration_sec = 1.0\n"));
    assert!(resolved(&[set]).contains("\nduration_sec = 2.0\n"));
    assert!(resolved(&["--duration=3", set]).contains("\nduration_sec = 3.0\n"));
    assert!(resolved(&[]).contains("\nprocesses = 1\n"));
    assert!(resolved(&["--set", "producer.processes=3", "-w2"]).contains("\nprocesses = 2\n"));
    assert!(resolved(&["--set", "producer.processes=3"]).contains("\nprocesses = 3\n"));
    let all = resolved(&["-n", "mine", "--description", "it's 1", "-t", "70", "--output", "else"]);
    for line in [
        "name = \"mine\"",
        "description = \"it's 1\"",
        "target_throughput = 70.0",
        "dir = \"else\"",
    ] {
        assert!(all.contains(line), "{line} is not in\n{all}");
    }
}

#[test]
fn variables_come_from_the_environment_and_from_the_file_beside_the_plan() {
    let home = Home::new();
    fs::create_dir(home.path().join("beside")).unwrap();
    let plan = format!("{SHORT_PLAN}\n[postgres]\ndatabase = \"${{WB_TEST_DATABASE}}\"\n");
    home.write("beside/plan.toml", &plan);
    let check = || home.walbench(["check", "beside/plan.toml"]);
    check().ended().with_code(2).said("WB_TEST_DATABASE");
    home.write("beside/.env", "WB_TEST_DATABASE=from_file\n");
    check().ended().with_code(0).answered("database = \"from_file\"");
    let both = check().env("WB_TEST_DATABASE", "from_environment");
    both.ended().with_code(0).answered("database = \"from_environment\"");
}

#[test]
fn the_built_in_plans_are_listed_and_sound() {
    let home = Home::new();
    let list = home.walbench(["plans"]).ended().with_code(0).stdout;
    let names: Vec<&str> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    for name in ["quickstart", "cpu-only", "full-stack", "multi-phase", "stress-steps"] {
        assert!(names.contains(&name), "{name} is not in\n{list}");
    }
    for name in names {
        home.walbench(["check", name]).ended().with_code(0).answered(&format!("name = \"{name}\""));
        home.walbench(["check", "--config", name]).ended().with_code(0);
    }
}

#[test]
fn the_schemas_are_schemas_and_a_plan_fits_its_own() {
    let home = Home::new();
    for of in ["plan", "metrics"] {
        let text = home.walbench(["schema", of]).ended().with_code(0).stdout;
        let schema: Value = serde_json::from_str(&text).unwrap();
        jsonschema::meta::validate(&schema).unwrap();
    }
}

#[test]
fn help_says_what_there_is() {
    let home = Home::new();
    let help = home.walbench(["--help"]).ended().with_code(0).stdout;
    for word in ["run", "check", "plans", "schema", "clean", "Exit codes"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    assert!(!help.contains("worker"), "{help}");
    home.walbench([]).ended().with_code(2).said("Usage");
    home.walbench(["--version"]).ended().with_code(0).answered("walbench ");
    // Hidden, but someone will try.
    home.walbench(["worker", "producer"]).ended().with_code(4).said("walbench run");
}
