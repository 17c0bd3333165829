//! Connection strings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_phases::address::PostgresAddress;

fuzz_target!(|text: &str| {
    if let Ok(address) = PostgresAddress::parse(text) {
        assert_eq!(PostgresAddress::parse(&address.to_url()), Ok(address));
    }
});
