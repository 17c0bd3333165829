//! Getting ready: read the tables, check that the plan can be carried out, start the connections.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::mpsc::UnboundedSender;
use walbench_metrics::{Failure, Window};
use walbench_phases::plan::{Plan, Producer};
use walbench_phases::schedule::Shape;

use crate::connect::{connect, connection_failure};
use crate::connection::{Event, live};
use crate::crew::{Crew, Run};
use crate::prepare::Prepare;
use crate::workload::{Purpose, RowVersion, Table, TableShape};
use crate::write::session::Settings;

/// Largest message that PostgreSQL takes is a gigabyte; a batch stays well below.
const MAX_BATCH_BYTES: u64 = 512 * 1024 * 1024;

/// Stack of a connection's thread. A thousand of them must fit.
const STACK_BYTES: usize = 1024 * 1024;

/// Reads the tables and checks that the plan can be carried out.
///
/// # Errors
///
/// The server can't be reached, or a table can't be written as the plan asks.
pub(crate) async fn prepare(prepare: Prepare, worker: &str) -> Result<Arc<Crew>, Failure> {
    let settings = Settings {
        address: prepare.address.clone(),
        application_name: format!("walbench {worker}"),
        synchronous_commit: prepare.plan.postgres.synchronous_commit,
        method: prepare.plan.producer.write_method,
    };
    let connected = connect(&settings.address, &settings.application_name)
        .await
        .map_err(|error| connection_failure(&settings.address, &error))?;
    let plan = &prepare.plan.producer;
    let mut tables = Vec::with_capacity(plan.tables.len());
    for name in &plan.tables {
        let shape = TableShape::describe(&connected.client, name).await?;
        let table = Table::new(shape, plan.seed, plan.payload_bytes, plan.payload_compressibility)?;
        check(&table, &prepare.plan)?;
        tables.push(table);
    }
    Ok(Arc::new(Crew::new(prepare, settings, tables)))
}

/// Starts a thread for every connection; each takes its phases from its own channel.
///
/// # Errors
///
/// The operating system refuses a thread.
pub(crate) fn start(
    crew: &Arc<Crew>,
    events: &UnboundedSender<Event>,
) -> Result<Vec<Sender<Arc<Run>>>, Failure> {
    (0..crew.plan().connections as usize)
        .map(|number| {
            let (sender, receiver): (_, Receiver<Arc<Run>>) = channel();
            let (crew, events) = (Arc::clone(crew), events.clone());
            thread::Builder::new()
                .name(format!("connection-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    // A thread that dies in silence would leave the phase without an end.
                    let life = AssertUnwindSafe(|| live(&crew, number, &receiver, &events));
                    if catch_unwind(life).is_err() {
                        let failure = Failure::new(format!("connection {number} panicked"))
                            .hint("this is a fault in walbench: please report it with the log");
                        _ = events.send(Event::Failed(failure));
                    }
                })
                .map_err(|error| {
                    Failure::new(format!("can't start the thread of connection {number}"))
                        .caused_by(&error)
                        .hint("lower producer.connections in the plan")
                })?;
            Ok(sender)
        })
        .collect()
}

fn check(table: &Table, plan: &Plan) -> Result<(), Failure> {
    let producer = &plan.producer;
    let name = table.shape.full_name();
    if producer.insert_update_ratio < 1.0 && !table.can_update() {
        return Err(Failure::new(format!("table {name} can't be updated")).hint(
            if table.shape.key.is_empty() {
                "it has no primary key: set producer.insert_update_ratio = 1.0, or leave it out of \
                 producer.tables"
            } else {
                "it has no column that an update could change: set producer.insert_update_ratio = \
                 1.0, or leave it out of producer.tables"
            },
        ));
    }
    if table.written(Purpose::Insert).next().is_none() {
        return Err(Failure::new(format!("table {name} has no column that can be written")));
    }
    check_room(table, plan)?;
    check_size(table, producer)
}

/// Rows that every process together may make; never fewer than are made.
fn check_room(table: &Table, plan: &Plan) -> Result<(), Failure> {
    let planned = |phase| {
        let shape = Shape::new(phase);
        shape.rows(Window::Warmup) + shape.rows(Window::Measured)
    };
    let rows: f64 = plan.phases.iter().map(planned).sum();
    let tables = plan.producer.tables.len().max(1) as f64;
    let room = table.distinct_rows();
    if rows / tables <= room as f64 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "table {} has room for {room} rows, and the plan may write {:.0}: a unique column can't \
         tell more apart",
        table.shape.full_name(),
        rows / tables
    ))
    .hint("use a larger type for the key in the copied schema, or lower rate or duration"))
}

fn check_size(table: &Table, producer: &Producer) -> Result<(), Failure> {
    let mut row = Vec::new();
    table.write_composite(RowVersion::first(0), Purpose::Insert, &mut row);
    let bytes = row.len() as u64 * u64::from(producer.batch_size);
    if bytes <= MAX_BATCH_BYTES {
        return Ok(());
    }
    Err(Failure::new(format!(
        "a transaction of {} rows of table {} takes {} MB, and {} MB is the most",
        producer.batch_size,
        table.shape.full_name(),
        bytes >> 20,
        MAX_BATCH_BYTES >> 20
    ))
    .hint("lower producer.batch_size or producer.payload_bytes in the plan"))
}
