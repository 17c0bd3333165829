//! What is sent with every insert.

use std::collections::BTreeMap;

use super::version::{Feature, Version};

/// The largest batch that a plan can ask for, in rows and in bytes.
const LARGEST_BATCH: [&str; 2] = ["10000000", "4294967296"];

/// Settings of inserts into a server, each only where it knows it; what the plan chose wins.
#[must_use]
pub fn insert_settings(
    version: Version,
    chosen: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let [rows, bytes] = LARGEST_BATCH;
    // A batch is one block and so one part, which is there whole or not at all.
    let mut settings = vec![
        ("max_insert_block_size", rows),
        ("min_insert_block_size_rows", rows),
        ("min_insert_block_size_bytes", bytes),
    ];
    if version.has(Feature::AsyncInsert) {
        // New servers gather inserts by default, and may acknowledge what is not written.
        settings.extend([("async_insert", "0"), ("wait_for_async_insert", "1")]);
    }
    let ours = settings.into_iter().map(|(name, value)| (name.into(), value.into()));
    let chosen = chosen.iter().map(|(name, value)| (name.clone(), value.clone()));
    ours.chain(chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_gets_what_it_knows_and_the_plan_wins() {
        let settings = |version, chosen: &[(&str, &str)]| {
            let chosen = chosen.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let settings = insert_settings(Version::parse(version).unwrap(), &chosen.collect());
            let settings = settings.iter().map(|(name, value)| format!("{name}={value}"));
            settings.collect::<Vec<_>>().join(" ")
        };
        insta::assert_snapshot!(settings("18.16.1", &[("max_threads", "2")]), @"max_insert_block_size=10000000 max_threads=2 min_insert_block_size_bytes=4294967296 min_insert_block_size_rows=10000000");
        insta::assert_snapshot!(settings("26.7.3.1", &[("async_insert", "1")]), @"async_insert=1 max_insert_block_size=10000000 min_insert_block_size_bytes=4294967296 min_insert_block_size_rows=10000000 wait_for_async_insert=1");
    }
}
