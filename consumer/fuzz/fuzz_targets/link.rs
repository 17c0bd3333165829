//! What comes over a worker's link.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_metrics::link::LinkReader;
use walbench_metrics::message::{FromWorker, ToWorker};

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut reader = LinkReader::with_limit(bytes, 4_096);
        while let Ok(line) = reader.line().await {
            let _ = serde_json::from_slice::<FromWorker<serde_json::Value>>(line);
            let _ = serde_json::from_slice::<ToWorker<serde_json::Value>>(line);
        }
    });
});
