//! `walbench follow`: a consumer by itself, on a database and publication that exist.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use walbench_consumer::clickhouse::Description;
use walbench_consumer::copy::{Copying, Exported, check_no_state};
use walbench_consumer::replication::{Connection, CreateSlot, Slot, lsn_text, parse_lsn};
use walbench_consumer::{
    Follow, Following, News, Recent, SlotTrouble, StartError, Total, cpu_us, saying,
};
use walbench_metrics::clock::wall_us;
use walbench_metrics::{Failure, Timing};
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::MockLevel;
use walbench_phases::{Env, Override, Plan, Source, load};

use crate::address::{given_address, given_clickhouse};
use walbench_results::count;

use crate::cli::{FollowArgs, StreamArgs};
use crate::clickhouse::mock::MockClickHouse;
use crate::ending::{self, Ending};
use crate::plan::set_overrides;

/// A plan is what `--set` changes; of this one only the consumer's part is used.
const PLAN: &str = "producer.enabled = false\n[[phases]]\nname = \"follow\"\nduration_sec = 1\n";

/// The WAL writer flushes what was committed within three rounds, of 200 ms by default. What is not
/// committed may stay unflushed for long, and is nothing to wait for.
const WAL_WRITER_PATIENCE: Duration = Duration::from_secs(1);

/// The server's end of a stream is over a moment after ours.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// `walbench follow`.
pub(crate) async fn follow(args: &FollowArgs) -> Result<u8, Ending> {
    saying(|news| follow_saying(args, news)).await
}

async fn follow_saying(args: &FollowArgs, news: News) -> Result<u8, Ending> {
    let until_lsn = args.stream.until_lsn.as_deref();
    let mut following = following(&args.stream, until_lsn, &follow_overrides(args))?;
    let plan = plan(&args.stream.set, &follow_overrides(args))?;
    let mut mock = None;
    let address = match &args.clickhouse {
        Some(url) => Some(given_clickhouse("--clickhouse", url).map_err(Ending::usage)?),
        None if plan.consumer.mock_level == MockLevel::Http => {
            let mock = mock.insert(start_mock(&plan).await.map_err(Ending::component)?);
            Some(given_clickhouse("the mock's URL", &mock.place.url).map_err(Ending::component)?)
        }
        None => None,
    };
    following.clickhouse = address.map(|address| (address, plan.clickhouse));
    let ended = follow_into(&following, args, news).await;
    if let Some(mock) = mock {
        let counters = mock.stop().await.map_err(Ending::component)?;
        ending::say(&format!("the mock's {}", counters.line()));
    }
    ended
}

/// A mock ClickHouse server of our own, whose faults' time counts from now.
async fn start_mock(plan: &Plan) -> Result<MockClickHouse, Failure> {
    let mut mock = MockClickHouse::start(plan, 0).await?;
    mock.begin(0, wall_us()).await?;
    Ok(mock)
}

async fn follow_into(following: &Following, args: &FollowArgs, news: News) -> Result<u8, Ending> {
    let made = match args.create_slot {
        true => create_slot(following, args.drop_slot).map_err(start_failed)?,
        false => None,
    };
    let is_made = made.is_some();
    let started = Follow::start(following.clone(), made.and_then(|made| made.exported), news).await;
    if is_made && started.is_err() {
        drop_slot(following);
    }
    let mut follow = started.map_err(|error| start_failed(with_flag(error)))?;
    let keeps_nothing =
        args.clickhouse.is_none() && following.consumer.mock_level != MockLevel::Files;
    if !is_made && keeps_nothing {
        ending::say(
            "note: the mock keeps nothing, and what it is given is confirmed: PostgreSQL forgets it",
        );
    }
    for note in follow.notes() {
        ending::say(&format!("note: {note}"));
    }
    let ended = until_end(&mut follow, args, Instant::now()).await;
    let has_ended = ended.is_ok();
    let code = ended.and_then(|end| report(&follow, end, args.stream.json));
    match is_made && args.drop_slot {
        true if has_ended => drop_slot(following),
        // It is still streamed, by a thread that does not end.
        true => ending::say(&format!("slot \"{}\" is left behind", following.slot)),
        false => {}
    }
    code
}

/// Reports what was done, also where it ends by a failure.
fn report(follow: &Follow, end: End, as_json: bool) -> Result<u8, Ending> {
    let report = Report::of(follow, end.failure);
    let text = if as_json { format!("{}\n", report.json()) } else { report.text() };
    ending::print(&text)?;
    match report.failure {
        Some(failure) => Err(Ending::component(failure)),
        None => Ok(if end.is_partial { ending::INTERRUPTED } else { 0 }),
    }
}

/// How it ended.
struct End {
    /// The user ended it before the end that was set.
    is_partial: bool,
    /// Why it could not go on.
    failure: Option<Failure>,
}

/// Follows until the end that was asked for, or the user's.
async fn until_end(
    follow: &mut Follow,
    args: &FollowArgs,
    started: Instant,
) -> Result<End, Ending> {
    let no_signal = |e| Ending::component(Failure::new("signals can't be caught").caused_by(&e));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let length = args.for_sec.map(Duration::from_secs_f64);
    let has_end = length.is_some() || args.stream.until_lsn.is_some();
    let (mut signals, mut is_partial, mut copied) = (0, false, Said::default());
    second.tick().await;
    loop {
        let left = length.map(|length| length.saturating_sub(started.elapsed()));
        tokio::select! {
            ended = follow.ended() => {
                if !args.stream.json {
                    copied.say(follow.copying());
                }
                return Ok(End { is_partial, failure: ended.err() });
            }
            Some(()) = signalled(&mut interrupt, &mut terminate) => {
                // One that goes on for ever is ended so, unless it has not come that far.
                is_partial |= has_end || is_copying(follow);
                signals += 1;
                follow.stop();
                if signals > 1 {
                    // The thread may be waiting for a server that says nothing.
                    return Err(Ending::interrupted());
                }
            }
            () = tokio::time::sleep(left.unwrap_or(Duration::MAX)), if left.is_some() => follow.stop(),
            _ = second.tick() => {
                let recent = follow.look();
                if !args.stream.json {
                    copied.say(follow.copying());
                    if !is_copying(follow) {
                        say_position(follow, started.elapsed(), &recent);
                    }
                }
            }
        }
    }
}

fn is_copying(follow: &Follow) -> bool {
    follow.copying().is_some_and(|copying| !copying.ended)
}

fn say_position(follow: &Follow, elapsed: Duration, recent: &Recent) {
    let (position, rows) = (follow.position(), follow.total().counts.rows);
    ending::say(&format!(
        "{:>4.0} s  {:>9} rows/s  {rows:>12} rows  lag p50 {}, p99 {}  confirmed {}  in flight {:.1} MB",
        elapsed.as_secs_f64(),
        recent.rows,
        ms(recent.lag.quantile_us(0.5)),
        ms(recent.lag.quantile_us(0.99)),
        lsn_text(position.confirmed_lsn),
        position.in_flight_bytes as f64 / 1e6,
    ));
}

fn ms(us: Option<u64>) -> String {
    us.map_or("–".into(), |us| format!("{:.1} ms", us as f64 / 1e3))
}

/// What was last said of the initial copy.
#[derive(Default)]
struct Said(Copying);

impl Said {
    /// Says how far the tables are that got further.
    fn say(&mut self, now: Option<Copying>) {
        let Some(now) = now else { return };
        let seconds = now.time.saturating_sub(self.0.time).as_secs_f64();
        for (index, table) in now.tables.iter().enumerate() {
            let before = self.0.tables.get(index);
            let rows_before = before.map_or(0, |before| before.rows);
            let pages_before = before.map_or(0, |before| before.pages_done);
            if (table.rows, table.pages_done) == (rows_before, pages_before) {
                continue;
            }
            let rate = per((table.rows - rows_before) as f64, seconds).unwrap_or_default();
            ending::say(&format!(
                "copying {}: {:.0} %, {} rows, {} rows/s",
                table.name,
                table.percent().floor(),
                count(table.rows),
                count(rate as u64),
            ));
        }
        self.0 = now;
    }
}

pub(crate) async fn signalled(interrupt: &mut Signal, terminate: &mut Signal) -> Option<()> {
    tokio::select! {
        asked = interrupt.recv() => asked,
        asked = terminate.recv() => asked,
    }
}

/// What flags of `walbench follow` say of the plan.
fn follow_overrides(args: &FollowArgs) -> Vec<Override> {
    let state = args.copy_state.as_ref().map(|path| path.display().to_string());
    let flags = [
        ("mock_level", "mock-level", args.level()),
        ("initial_copy", "initial-copy", args.initial_copy.then_some("true")),
        ("copy_state", "copy-state", state.as_deref()),
    ];
    let set = flags.into_iter().filter_map(|(key, flag, value)| {
        let (path, origin) = (format!("consumer.{key}"), format!("--{flag} {}", value?));
        Some(Override { path, value: Some(value?.into()), origin })
    });
    set.collect()
}

/// What is to be followed, up to a position or to where the WAL ends now.
pub(crate) fn following(
    args: &StreamArgs,
    until_lsn: Option<&str>,
    flags: &[Override],
) -> Result<Following, Ending> {
    let address = given_address("--postgres", &args.postgres).map_err(Ending::usage)?;
    let until_lsn = match until_lsn {
        None => None,
        Some("current") => Some(current_lsn(&address).map_err(start_failed)?),
        Some(text) => Some(parse_lsn(text).ok_or_else(|| {
            Ending::usage(
                Failure::new(format!("--until-lsn {text} is no WAL position"))
                    .hint("a position looks like 16/B374D848; `current` is where the WAL ends now"),
            )
        })?),
    };
    let (publication, slot) = (args.publication.clone(), args.slot.clone());
    let consumer = plan(&args.set, flags)?.consumer;
    Ok(Following { address, publication, slot, consumer, clickhouse: None, until_lsn })
}

/// The plan of a command that runs no phases, of which a part is used.
pub(crate) fn plan(sets: &[String], flags: &[Override]) -> Result<Plan, Ending> {
    let mut overrides = set_overrides(sets)?;
    // One process does not divide its work, and starts no other.
    let is_of_runs = |path: &str| {
        ["consumer.processes", "consumer.distribution", "consumer.launcher"].contains(&path)
    };
    // Where ClickHouse is, is what --clickhouse says.
    let is_clickhouse = |path: &str| {
        path.starts_with("clickhouse.") && !["clickhouse.mode", "clickhouse.url"].contains(&path)
    };
    let is_foreign = |set: &&Override| {
        !(set.path.starts_with("consumer.") || is_clickhouse(&set.path)) || is_of_runs(&set.path)
    };
    if let Some(set) = overrides.iter().find(is_foreign) {
        return Err(Ending::usage(
            Failure::new(format!("{}: that key means nothing here", set.origin))
                .hint("keys of [consumer] do, such as --set consumer.flush_batch_size=500"),
        ));
    }
    overrides.extend_from_slice(flags);
    let source = Source { name: "follow".into(), text: PLAN.into(), env: Env::here() };
    Ok(load(&source, &overrides)?)
}

/// Where the WAL ends. What was committed with `synchronous_commit = off` is written there and not
/// yet on disk: it is waited for, as nothing else is streamed.
fn current_lsn(address: &PostgresAddress) -> Result<u64, StartError> {
    let mut connection = Connection::open_for_queries(address, "walbench follow")?;
    let mut position = |function: &str| -> Result<u64, StartError> {
        let sql = format!(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE {function}() END"
        );
        let rows = connection.query("to look up its position", &sql)?;
        let text = rows.first().and_then(|row| row.first()?.as_deref());
        let lsn = text.and_then(parse_lsn);
        lsn.ok_or_else(|| Failure::new("PostgreSQL does not say where its WAL ends").into())
    };
    let written_lsn = position("pg_current_wal_insert_lsn")?;
    let deadline = Instant::now() + WAL_WRITER_PATIENCE;
    loop {
        let flushed_lsn = position("pg_current_wal_flush_lsn")?;
        if flushed_lsn >= written_lsn || Instant::now() >= deadline {
            return Ok(flushed_lsn);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A slot that was made.
struct Made {
    /// For an initial copy, the snapshot of its start.
    exported: Option<Exported>,
}

/// Makes the slot if it is not there.
fn create_slot(following: &Following, drop_slot: bool) -> Result<Option<Made>, StartError> {
    let Following { address, slot, consumer, publication, .. } = following;
    let mut connection = Connection::open(address, "walbench follow")?;
    if Slot::read(&mut connection, slot)?.is_some() {
        return Ok(None);
    }
    connection.check_publication(publication)?;
    let two_phase = consumer.two_phase;
    let wanted = CreateSlot { two_phase, ..CreateSlot::new(slot) };
    let (consistent_lsn, exported) = match consumer.initial_copy {
        false => (connection.create_slot(&wanted)?.consistent_lsn, None),
        true => {
            check_no_state(consumer)?;
            let exported = Exported::create(connection, &wanted)?;
            (exported.consistent_lsn(), Some(exported))
        }
    };
    let end = match drop_slot {
        true => " at the end".into(),
        false => format!(": SELECT pg_drop_replication_slot('{slot}')"),
    };
    ending::say(&format!(
        "made slot \"{slot}\" at {}; it keeps WAL until it is dropped{end}",
        lsn_text(consistent_lsn)
    ));
    Ok(Some(Made { exported }))
}

/// A slot that is of no use would keep WAL for ever.
fn drop_slot(following: &Following) {
    let slot = &following.slot;
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    let dropped =
        Connection::open(&following.address, "walbench follow").and_then(|mut connection| {
            loop {
                match connection.drop_slot(slot) {
                    Err(error) if error.is_slot_active() && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    dropped => return dropped,
                }
            }
        });
    ending::say(&match dropped {
        Ok(()) => format!("dropped slot \"{slot}\" again"),
        Err(error) => format!("slot \"{slot}\" is left behind: {error}"),
    });
}

/// There is a flag for what is missing.
fn with_flag(mut error: StartError) -> StartError {
    if let (Some(SlotTrouble::Missing), Some(hint)) = (error.slot, &mut error.failure.hint) {
        hint.push_str(", or use --create-slot");
    }
    error
}

pub(crate) fn start_failed(error: StartError) -> Ending {
    let StartError { failure, is_usage, .. } = error;
    if is_usage { Ending::usage(failure) } else { Ending::component(failure) }
}

/// What this process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) cpu_us: f64,
    pub(crate) max_rss_bytes: u64,
}

pub(crate) fn used() -> Used {
    Used { cpu_us: cpu_us() as f64, max_rss_bytes: peak_memory_bytes().unwrap_or_default() }
}

/// Most memory that was resident (proc(5), `VmHWM`). What getrusage says is at least what the
/// process had that started this one.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

pub(crate) fn per(of: f64, by: f64) -> Option<f64> {
    (by > 0.0).then_some(of / by)
}

struct Report {
    total: Total,
    destination: Option<Description>,
    copying: Copying,
    received_lsn: u64,
    confirmed_lsn: u64,
    used: Used,
    failure: Option<Failure>,
}

impl Report {
    /// What was done, at the end.
    fn of(follow: &Follow, failure: Option<Failure>) -> Self {
        let position = follow.position();
        Self {
            total: follow.total().clone(),
            destination: follow.destination(),
            copying: follow.copying().unwrap_or_default(),
            received_lsn: position.received_lsn,
            confirmed_lsn: position.confirmed_lsn,
            used: used(),
            failure,
        }
    }

    /// Until all of them were durable; nothing is no rate.
    fn rows_per_s(&self) -> Option<f64> {
        let Total { counts, draining, .. } = &self.total;
        per(counts.rows as f64, draining.as_secs_f64()).filter(|_| counts.rows > 0)
    }

    fn json(&self) -> Value {
        let Self { total, copying, received_lsn, confirmed_lsn, used, failure, .. } = self;
        let (counts, seconds) = (&total.counts, total.reading.as_secs_f64());
        let mut report = json!({
            "rows": counts.rows,
            "transactions": counts.transactions,
            "seconds": seconds,
            "draining_seconds": total.draining.as_secs_f64(),
            "rows_per_s": self.rows_per_s(),
            "bytes": counts.received_bytes,
            "encoded_bytes": counts.encoded_bytes,
            "sent_bytes": counts.sent_bytes,
            "batches": counts.batches,
            "retries": counts.retries,
            "errors": counts.errors,
            "clamped_values": counts.clamped_values,
            "rejected_rows": counts.rejected_rows,
            "reconnects": counts.reconnects,
            "flush_us": timing(&total.flush),
            "lag_us": {
                "commit_to_received": timing(&total.lag.commit_to_received),
                "received_to_flushed": timing(&total.lag.received_to_flushed),
                "commit_to_flushed": timing(&total.lag.commit_to_flushed),
            },
            "copied_rows": copying.rows(),
            "copied_bytes": copying.bytes(),
            "copy_seconds": copying.time.as_secs_f64(),
            "copy_complete": copying.complete,
            "cpu_us_per_row": per(used.cpu_us, (counts.rows + copying.rows()) as f64),
            "max_rss_bytes": used.max_rss_bytes,
            "received_lsn": lsn_text(*received_lsn),
            "confirmed_lsn": lsn_text(*confirmed_lsn),
        });
        if let Some(Description { version, endpoints, database, settings }) = &self.destination {
            report["clickhouse"] = json!({
                "version": version, "endpoints": endpoints, "database": database, "settings": settings,
            });
        }
        if let Some(failure) = failure {
            report["error"] = failure.line().into();
        }
        report
    }

    fn text(&self) -> String {
        let Self { total, copying, confirmed_lsn, used, .. } = self;
        let (counts, seconds) = (&total.counts, total.reading.as_secs_f64());
        let lag = &total.lag.commit_to_flushed;
        format!(
            "{}{} rows in {} transactions, {:.1} MB in {seconds:.3} s: {:.0} rows/s\n\
             lag commit → flushed: p50 {}, p99 {}, max {}\n\
             {} batches, {} retries, {} reconnects, {} values clamped{}\n\
             {:.2} µs of CPU a row, at most {:.1} MB of memory, confirmed {}\n",
            copy_text(copying),
            counts.rows,
            counts.transactions,
            counts.received_bytes as f64 / 1e6,
            self.rows_per_s().unwrap_or_default(),
            ms(lag.quantile_us(0.5)),
            ms(lag.quantile_us(0.99)),
            ms(lag.max_us()),
            counts.batches,
            counts.retries,
            counts.reconnects,
            counts.clamped_values,
            rejected_text(counts.rejected_rows),
            per(used.cpu_us, (counts.rows + copying.rows()) as f64).unwrap_or_default(),
            used.max_rss_bytes as f64 / 1e6,
            lsn_text(*confirmed_lsn),
        )
    }
}

/// Rows that were put aside; nothing where none were.
fn rejected_text(rows: u64) -> String {
    if rows > 0 { format!(", {rows} rows put aside") } else { String::new() }
}

/// What was copied, as a line; nothing where there was no copy.
fn copy_text(copying: &Copying) -> String {
    if !copying.ended {
        return String::new();
    }
    let seconds = copying.time.as_secs_f64();
    format!(
        "copied {} rows, {:.1} MB in {seconds:.3} s: {:.0} rows/s{}\n",
        copying.rows(),
        copying.bytes() as f64 / 1e6,
        per(copying.rows() as f64, seconds).unwrap_or_default(),
        if copying.complete { "" } else { "; not all of it, the rest is to come" },
    )
}

fn timing(timing: &Timing) -> Value {
    let at = |quantile| timing.quantile_us(quantile);
    json!({
        "count": timing.count(), "min": timing.min_us(), "p50": at(0.5), "p90": at(0.9),
        "p95": at(0.95), "p99": at(0.99), "p999": at(0.999), "max": timing.max_us(),
        "mean": timing.mean_us(),
    })
}
