//! Plans, and thresholds within them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_phases::threshold::Threshold;
use walbench_phases::{Env, Source, load};

fuzz_target!(|text: &str| {
    let source = Source { name: "plan.toml".into(), text: text.into(), env: Env::default() };
    if let Ok(plan) = load(&source, &[]) {
        let again = Source { text: plan.to_toml(), ..source };
        assert_eq!(load(&again, &[]).expect("a resolved plan loads"), plan);
    }
    let _ = Threshold::parse(text);
});
