//! temporary
use nix::sys::resource::{UsageWho, getrusage};
use tokio::net::UnixStream;
use walbench_metrics::link::{self, LinkReader, LinkWriter};
use walbench_metrics::message::{FromWorker, PROTOCOL_VERSION, PhaseStart, ToWorker};
use walbench_metrics::sample::Sample;
use walbench_metrics::{Timing, clock};
use walbench_phases::address::PostgresAddress;
use walbench_producer::workload::builtin_ddl;
use walbench_producer::{Done, Prepare, connect, serve};

fn cpu_us() -> f64 {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    us(used.user_time()) + us(used.system_time())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let address = PostgresAddress::parse(&a[1]).unwrap();
    let (table, batch, rate, conns, ratio, method) = (&a[2], a[3].parse::<u32>().unwrap(), a[4].parse::<f64>().unwrap(), a[5].parse::<u32>().unwrap(), a[6].parse::<f64>().unwrap(), &a[7]);
    let admin = connect(&address, "x").await.unwrap();
    admin.client.batch_execute("DROP TABLE IF EXISTS task_run, event; DROP TYPE IF EXISTS task_run_status, environment_type").await.unwrap();
    admin.client.batch_execute(builtin_ddl(table).unwrap()).await.unwrap();
    let plan: walbench_phases::Plan = serde_json::from_value(serde_json::json!({
        "phases": [{"name":"p","duration_sec":5.0,"target_throughput":rate}],
        "producer": {"tables":[table],"batch_size":batch,"connections":conns,"insert_update_ratio":ratio,"write_method":method},
        "limits": {"catch_up_sec": 2.0}
    })).unwrap();
    let (ours, theirs) = link::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (r, w) = UnixStream::from_std(theirs).unwrap().into_split();
    tokio::spawn(serve(LinkReader::new(Box::new(r)), LinkWriter::new(Box::new(w))));
    let (r, w) = ours.into_split();
    let (mut r, mut w) = (LinkReader::new(r), LinkWriter::new(w));
    w.send(&ToWorker::<Prepare>::Hello { protocol: PROTOCOL_VERSION, worker: "p".into() }).await.unwrap();
    let _: FromWorker<Done> = r.recv().await.unwrap();
    w.send(&ToWorker::Prepare(Prepare { run: 1, index: 0, address, plan, clock_correction_us: 0 })).await.unwrap();
    let m: FromWorker<Done> = r.recv().await.unwrap();
    assert!(matches!(m, FromWorker::Ready), "{m:?}");
    let cpu = cpu_us();
    w.send(&ToWorker::<Prepare>::Start(PhaseStart { phase: 0, start_us: clock::wall_us() + 50_000 })).await.unwrap();
    let (mut l, mut s, mut resp) = (Timing::default(), Timing::default(), Timing::default());
    let (mut rows, mut unsent, mut first5) = (0, 0, 0);
    let mut n = 0;
    loop {
        match r.recv::<FromWorker<Done>>().await.unwrap() {
            FromWorker::Sample(Sample::Producer(p)) => {
                rows += p.counts.rows; unsent += p.counts.unsent_rows; n += 1;
                if n <= 5 { first5 += p.counts.rows; }
                l.merge(&p.lateness); s.merge(&p.service); resp.merge(&p.response);
                if !p.errors.is_empty() { println!("{:?}", p.errors); }
            }
            FromWorker::Finished { .. } => break,
            o => panic!("{o:?}"),
        }
    }
    let q = |t: &Timing| format!("p50 {} p99 {} max {}", t.quantile_us(0.5).unwrap(), t.quantile_us(0.99).unwrap(), t.max_us().unwrap());
    println!("{table} b{batch} c{conns} r{ratio} {method}: target {rate} in-phase {}/s rows {rows} unsent {unsent} cpu {:.2} us/row\n   late {} | service {} | response {}", first5 / 5, (cpu_us() - cpu) / rows as f64, q(&l), q(&s), q(&resp));
}
