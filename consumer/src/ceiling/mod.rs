//! Ceilings: what each part of the way can do by itself, measured with the same rows of one stretch of
//! the stream, again and again. Nothing is confirmed, so that a slot brings all of it each time.
//!
//! ```text
//! bare reader ─► where the stretch ends ─► consumer ─► blocks kept in memory ─┐
//!         ┌──────────────────────────────────────────────────────────────────┘
//!         └► rounds of: bare reader, eager │ bare reader, late │ consumer, no sink │ blocks ─► sink
//! ```

mod blocks;
mod reader;
mod sink;

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use walbench_metrics::Failure;
use walbench_metrics::ceiling::{Ceilings, Contestant, Turn};
use walbench_phases::plan::{Consumer, MockLevel};

use crate::follow::{Follow, Following};
use crate::news::News;
use crate::sink::Sink;
use crate::thread::StartError;
pub(crate) use blocks::Blocks;
pub use reader::{BareRead, Reading, read_bare};
use reader::{Bounds, read_within};
use sink::SinkAlone;

/// Rows of a stretch, over all streams.
const ROWS: u64 = 500_000;

/// What reading it may take. Those who do more with it take longer.
const READING: Duration = Duration::from_secs(5);

/// The walsender of the turn before holds the slot for a moment longer.
const SLOT_PATIENCE_SEC: f64 = 10.0;

/// What is to be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// The streams, each with its slot; all are read at once, as the consumers of a run do, and into
    /// the same sink.
    pub streams: Vec<Following>,
    /// Rounds, in each of which all have a turn.
    pub rounds: u32,
    /// What the sink is called in a sentence; `None`: it is left out.
    pub sink: Option<String>,
}

/// Measures all there is, one after the other.
///
/// # Errors
/// A stream can't be read, or has no rows; the sink does not take them.
pub async fn measure(measure: Measure) -> Result<Ceilings, StartError> {
    let Measure { mut streams, rounds, sink } = measure;
    for stream in &mut streams {
        stream.consumer = of_a_turn(&stream.consumer);
    }
    let (until_lsn, is_bounded) = stretch(&streams).await?;
    streams.iter_mut().for_each(|stream| stream.until_lsn = Some(until_lsn));
    let mut sink = match sink {
        Some(name) => SinkAlone::open(&streams, &name).await?,
        None => None,
    };
    let mut contestants =
        vec![Contestant::EagerReader, Contestant::LateReader, Contestant::Consumer];
    contestants.extend(sink.is_some().then_some(Contestant::Sink));
    let mut ceilings = Ceilings { until_lsn, is_bounded, ..Ceilings::default() };
    for round in 0..rounds as usize {
        let mut turns = Vec::new();
        for step in 0..contestants.len() {
            // Nobody always comes first.
            let contestant = contestants[(round + step) % contestants.len()];
            let turn = match (contestant, &mut sink) {
                (Contestant::Sink, Some(sink)) => sink.turn().await?,
                _ => read_by(contestant, &streams).await?,
            };
            turns.push((contestant, turn));
        }
        turns.sort_by_key(|(contestant, _)| *contestant);
        ceilings.rounds.push(turns);
    }
    ceilings.sink = sink.map(SinkAlone::described);
    Ok(ceilings)
}

/// CPU time that this process has used, in µs.
#[must_use]
pub fn cpu_us() -> u64 {
    let us = |time: TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| us(usage.user_time()) + us(usage.system_time()))
}

/// A slot may be held by the turn before, whatever the plan says, and a copy is none of it.
fn of_a_turn(consumer: &Consumer) -> Consumer {
    let reconnect_sec = consumer.reconnect_sec.max(SLOT_PATIENCE_SEC);
    Consumer { reconnect_sec, initial_copy: false, ..consumer.clone() }
}

/// Where the stretch ends, and whether the streams go on behind it.
async fn stretch(streams: &[Following]) -> Result<(u64, bool), StartError> {
    let rows = ROWS.div_ceil(streams.len() as u64);
    let read = read_all(streams, Reading::Coalescing, Bounds { rows, reading: READING }).await?;
    if read.iter().all(|read| read.rows == 0) {
        let slots: Vec<_> = streams.iter().map(|s| format!("\"{}\"", s.slot)).collect();
        let text = format!("there are no rows to measure with in slot {}", slots.join(", "));
        let hint = "write rows after the slot was made, and before anybody confirms them";
        return Err(StartError::usage(Failure::new(text).hint(hint)));
    }
    let reached_lsn = read.iter().map(|read| read.reached_lsn).min().unwrap_or_default();
    let wanted_lsn = streams.iter().filter_map(|stream| stream.until_lsn).min();
    let is_bounded = wanted_lsn.is_none_or(|wanted_lsn| reached_lsn < wanted_lsn);
    Ok((reached_lsn, is_bounded))
}

/// One turn at the streams.
async fn read_by(contestant: Contestant, streams: &[Following]) -> Result<Turn, StartError> {
    let no_bounds = Bounds { rows: u64::MAX, reading: Duration::MAX };
    let before_us = cpu_us();
    let (rows, time) = match contestant {
        Contestant::Consumer => consume_all(streams).await?,
        _ => {
            let reading = match contestant {
                Contestant::EagerReader => Reading::Eager,
                _ => Reading::Coalescing,
            };
            let read = read_all(streams, reading, no_bounds).await?;
            let slowest = read.iter().map(|read| read.reading).max();
            (read.iter().map(|read| read.rows).sum(), slowest.unwrap_or_default())
        }
    };
    Ok(Turn { rows, seconds: time.as_secs_f64(), cpu_us: cpu_us() - before_us })
}

/// Bare readers, one a stream, each in its thread.
async fn read_all(
    streams: &[Following],
    reading: Reading,
    bounds: Bounds,
) -> Result<Vec<BareRead>, StartError> {
    let mut ends = Vec::new();
    for stream in streams {
        let (told, end) = oneshot::channel();
        let stream = stream.clone();
        let read = move || _ = told.send(read_within(&stream, reading, bounds));
        std::thread::Builder::new()
            .name("bare-reader".into())
            .spawn(read)
            .map_err(|e| Failure::new("a reading thread can't be started").caused_by(&e))?;
        ends.push(end);
    }
    let mut all = Vec::new();
    for end in ends {
        all.push(end.await.map_err(|_| Failure::new("a reading thread died"))??);
    }
    Ok(all)
}

/// The consumers, which do all but to send what they have made of the rows. Row versions, and how long
/// the slowest took.
async fn consume_all(streams: &[Following]) -> Result<(u64, Duration), StartError> {
    let level = match streams.first().map(|stream| stream.consumer.mock_level) {
        Some(MockLevel::Discard) if streams[0].clickhouse.is_none() => MockLevel::Discard,
        _ => MockLevel::Encode,
    };
    let plan = Consumer { mock_level: level, mock_delay_ms: 0, ..streams[0].consumer.clone() };
    let sinks: Result<Vec<_>, _> = streams.iter().map(|_| Sink::mock(&plan)).collect();
    follow_all(streams, sinks?).await
}

/// Consumers into those sinks, one each.
async fn follow_all(
    streams: &[Following],
    sinks: Vec<Sink>,
) -> Result<(u64, Duration), StartError> {
    let mut following = JoinSet::new();
    for (stream, sink) in streams.iter().cloned().zip(sinks) {
        following.spawn(async move {
            let started = Follow::into_sink(stream, sink, None, false, News::default()).await;
            started?.ended().await.map_err(StartError::from)
        });
    }
    let (mut rows, mut slowest) = (0, Duration::ZERO);
    while let Some(ended) = following.join_next().await {
        let total = ended.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        rows += total.counts.rows;
        slowest = slowest.max(total.draining);
    }
    Ok((rows, slowest))
}
