//! What a server answers before a stream runs: login, queries, slots made and looked up,
//! START_REPLICATION.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use walbench_consumer::replication::{Connection, CreateSlot, Slot, Stream, Transport};
use walbench_phases::address::PostgresAddress;

static ADDRESS: LazyLock<PostgresAddress> =
    LazyLock::new(|| PostgresAddress::parse("postgres://user:password@host/database").unwrap());

/// More than a socket takes without a reader.
const LIMIT: usize = 64 * 1024;

/// The server: it says all it has to say at once, and never reads.
fn talk(bytes: &[u8]) -> Option<()> {
    let (ours, mut theirs) = UnixStream::pair().ok()?;
    theirs.write_all(&bytes[..bytes.len().min(LIMIT)]).ok()?;
    theirs.shutdown(Shutdown::Write).ok()?;
    let mut connection = Connection::log_in_over(Transport::Unix(ours), &ADDRESS, "fuzz").ok()?;
    let _ = connection.protocol_versions();
    let _ = Slot::read(&mut connection, "slot");
    let _ = connection.check_slot("slot", Some(1)).map_err(|e| e.into_failure());
    let _ = connection.check_publication("publication").map_err(|e| e.into_failure());
    let _ = connection.create_slot(&CreateSlot::new("slot")).map_err(|e| e.into_failure());
    let _ = connection.drop_slot("slot").map_err(|e| e.into_failure());
    let started = connection.start(&Stream::new("slot", "publication"));
    let _ = started.map_err(|e| (e.is_transient(), e.is_usage(), e.into_failure()));
    connection.terminate();
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    talk(bytes);
    // Behind a login that went well, which no mutation finds soon.
    let login = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x09Z\0\0\0\x05I\
                  D\0\0\0\x10\0\x01\0\0\0\x06170000Z\0\0\0\x05I";
    talk(&[login.as_slice(), bytes].concat());
});
