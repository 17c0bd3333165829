//! Rows a second and client CPU time a row of each write method, unthrottled, on the server of a
//! connection URL: `cargo run --release -p walbench-producer --example write_methods -- <url>`.
//!
//! Works in a database of its own, which it makes and drops: one of that name must not exist.
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use walbench_metrics::stamp::Stamp;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{SynchronousCommit, WriteMethod};
use walbench_producer::connect;
use walbench_producer::workload::{Table, TableShape, builtin_ddl};
use walbench_producer::write::attempt::Attempt;
use walbench_producer::write::batch::{Batch, Part};
use walbench_producer::write::session::{Session, Settings};

const DATABASE: &str = "walbench_write_methods";
const DROP: &str = "DROP TABLE IF EXISTS task_run, event;
    DROP TYPE IF EXISTS task_run_status, environment_type";
const PART: Part = Part { index: 0, processes: 1 };
const LENGTH: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(1).expect("a connection URL");
    let server = PostgresAddress::parse(&url).unwrap();
    let admin = connect(&server, "example").await.unwrap().client;
    admin.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
    let address = server.with_database(DATABASE);
    println!("table      method      rows/tx      rows/s   client µs/row   encoding µs/row");
    for name in ["event", "task_run"] {
        for rows in [10, 100, 1_000] {
            for method in [WriteMethod::Insert, WriteMethod::Pipelined, WriteMethod::Copy] {
                measure(&address, name, rows, method, 0).await;
            }
        }
        measure(&address, name, 100, WriteMethod::Insert, 100).await;
    }
    // Forced, because sessions of ours that were closed a moment ago may be seen still.
    admin.batch_execute(&format!("DROP DATABASE {DATABASE} WITH (FORCE)")).await.unwrap();
}

async fn measure(
    address: &PostgresAddress,
    name: &str,
    rows: u64,
    method: WriteMethod,
    updates: u64,
) {
    let admin = connect(address, "example").await.unwrap();
    admin.client.batch_execute(DROP).await.unwrap();
    admin.client.batch_execute(builtin_ddl(name).unwrap()).await.unwrap();
    let shape = TableShape::describe(&admin.client, name).await.unwrap();
    let tables = [Table::new(shape, 42, None, 0.5).unwrap()];
    let settings = Settings {
        address: address.clone(),
        application_name: "example".into(),
        synchronous_commit: SynchronousCommit::On,
        method,
    };
    let session = Session::open(&settings, &tables).await.unwrap();
    let mut batch = Batch::default();
    let (start, cpu) = (Instant::now(), cpu_us());
    let (mut written, mut next, mut encoding) = (0, 0, Duration::ZERO);
    while start.elapsed() < LENGTH {
        let encoded = Instant::now();
        batch.rows.updates = (next - updates.min(next)..next).collect();
        batch.rows.revision = next;
        batch.rows.inserts = next..next + rows;
        next += rows;
        batch.encode(&tables[0], PART, method);
        encoding += encoded.elapsed();
        let stamp =
            Stamp { run: 0, phase: 0, measured: true, producer: 0, sequence: next, due_us: 0 };
        let attempt = session.write(&batch, &stamp).await;
        let Attempt::Committed { inserted, updated } = attempt else { panic!("{attempt:?}") };
        written += inserted + updated;
    }
    let per_row = |us: f64| us / written as f64;
    println!(
        "{name:<10} {:<11} {:>7} {:>11.0} {:>15.2} {:>17.2}",
        format!("{method:?}").to_lowercase(),
        if updates > 0 { format!("{rows}+{updates}u") } else { rows.to_string() },
        written as f64 / start.elapsed().as_secs_f64(),
        per_row(cpu_us() - cpu),
        per_row(encoding.as_secs_f64() * 1e6),
    );
}

fn cpu_us() -> f64 {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    us(used.user_time()) + us(used.system_time())
}
