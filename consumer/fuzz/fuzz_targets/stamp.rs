//! Stamps, which anybody who may write to the database may forge.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_metrics::stamp::Stamp;

fuzz_target!(|bytes: &[u8]| {
    if let Some(stamp) = Stamp::decode(bytes) {
        assert_eq!(stamp.encode(), bytes);
    }
});
