//! A small profile.

use std::sync::Arc;

use crate::profile::{Profile, Quality, Stack};
use crate::symbols::{Function, Location};

fn location(address: u64, names: &[&str]) -> Arc<Location> {
    let source = |line| Some(("src/a.rs".to_owned(), line));
    let function =
        |(line, name): (u32, &&str)| Function { name: (*name).into(), source: source(line) };
    let functions = (1..).zip(names).map(function).collect();
    Arc::new(Location { functions, module: "walbench".into(), address, is_known: true })
}

/// Ten samples of a consumer, which stand for 100 ns each.
pub(crate) fn profile() -> Profile {
    let clone = location(1, &["clone3"]);
    let stack = |thread: &str, inner: &[Arc<Location>], samples| Stack {
        thread: thread.into(),
        locations: [inner, std::slice::from_ref(&clone)].concat(),
        samples,
        value: 100 * samples,
    };
    let run = location(2, &["walbench_consumer::run"]);
    let decode = location(3, &["decode"]);
    let copy = location(4, &["[T; 4]::copy", "decode"]);
    Profile {
        process: "consumer-0".into(),
        total: 1_000,
        period: 100,
        stacks: vec![
            stack("receiver", &[decode.clone(), run.clone()], 4),
            stack("receiver", &[copy, run.clone()], 3),
            // The same functions in another place.
            stack("receiver", &[location(5, &["decode"]), run], 2),
            stack("tokio", &[location(6, &["tokio::runtime::park"])], 1),
        ],
        quality: Quality { samples: 10, expected: 10, ..Quality::default() },
        ..Profile::default()
    }
}
