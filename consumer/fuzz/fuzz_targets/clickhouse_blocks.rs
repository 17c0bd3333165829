//! ClickHouse's compressed blocks: as they come, and with the checksum that bytes at random never
//! have.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use walbench_consumer::clickhouse::Exception;
use walbench_consumer::clickhouse::blocks::BlockReader;

fn read(blocks: &[u8]) {
    // A block may claim much more than it holds; what it holds is bounded.
    let mut blocks = BlockReader::new(blocks);
    if let Err(error) = io::copy(&mut blocks.by_ref().take(1 << 20), &mut io::sink()) {
        assert!(error.get_ref().is_some_and(|error| error.is::<Exception>()), "{error}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let checksum = cityhash_rs::cityhash_102_128(bytes).rotate_left(64);
    read(&[&checksum.to_le_bytes(), bytes].concat());
});
