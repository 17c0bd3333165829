//! The rooms of the house: which crate may import which.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each room with the rooms it may import. Imports run one way, and so does what a change can
/// break.
const ARROWS: [(&str, &[&str]); 7] = [
    ("metrics", &[]),
    ("phases", &["metrics"]),
    ("profiles", &["metrics"]),
    ("producer", &["metrics", "phases"]),
    ("consumer", &["metrics", "phases"]),
    ("results", &["metrics", "phases", "profiles"]),
    ("orchestrator", &["metrics", "phases", "profiles", "producer", "consumer", "results"]),
];

/// Libraries that only the rooms that talk to a database may use.
const DATABASE_CLIENTS: [&str; 2] = ["tokio-postgres", "postgres-protocol"];

#[test]
fn rooms_import_only_what_they_may() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut rooms = BTreeSet::new();
    for package in &metadata.packages {
        let room = package.manifest_path.parent().unwrap().file_name().unwrap();
        assert_eq!(package.name.as_str(), format!("walbench-{room}"), "a package is called so");
        let may = allowed.get(room).unwrap_or_else(|| panic!("{room} is not a room"));
        for dependency in &package.dependencies {
            if let Some(other) = dependency.name.strip_prefix("walbench-") {
                assert!(may.contains(&other), "{room} may not import {other}");
            }
            let is_client = DATABASE_CLIENTS.contains(&dependency.name.as_str());
            let is_pure = ["metrics", "phases", "profiles", "results"].contains(&room);
            if dependency.kind == DependencyKind::Normal && is_client && is_pure {
                panic!("{room} knows no database, and may not use {}", dependency.name);
            }
        }
        rooms.insert(room.to_owned());
    }
    assert_eq!(rooms.len(), ARROWS.len(), "every room is there: {rooms:?}");
}
