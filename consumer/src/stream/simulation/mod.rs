//! A deterministic simulation: the machine against a server, a sink and a clock that one seed
//! decides. It is cut off, killed, restarted and overtaken at every boundary, and what it promises
//! is checked after each step; see [`check::Promise`].

#[macro_use]
mod trace;

mod boundary;
mod cases;
mod check;
mod database;
mod draw;
mod driver;
mod message;
mod plan;
mod replay;
mod server;
mod sink;

use boundary::{BOUNDARIES, Counts, ENDS, End};
pub(super) use cases::{machine, settings};
use check::Promise;
use driver::run;
pub(super) use plan::writing;

use super::fault::{Fault, Planted};

/// Runs one seed alone and prints all of it.
const SEED_VARIABLE: &str = "WALBENCH_SIMULATION_SEED";

/// Runs more cycles, or fewer.
const CYCLES_VARIABLE: &str = "WALBENCH_SIMULATION_CYCLES";

/// Cycles that are run unless it says otherwise.
const CYCLES: u64 = if cfg!(debug_assertions) { 5_000 } else { 100_000 };

/// Steps that are printed of a seed that fails.
const PRINTED_STEPS: usize = 150;

/// Prints what a seed did, at least its end.
fn print(seed: u64, trace: &[String], steps: usize) {
    let from = trace.len().saturating_sub(steps);
    println!("{}", trace[..1.min(from)].join("\n"));
    println!("{}", trace[from..].join("\n"));
    println!("{SEED_VARIABLE}={seed} shows all of it");
}

/// Runs a seed; one that fails is run again to show how.
fn run_or_show(seed: u64) -> Counts {
    let ran = run(seed, false);
    if let Err(broken) = ran.result {
        print(seed, &run(seed, true).trace, PRINTED_STEPS);
        panic!("seed {seed}: {broken}");
    }
    ran.counts
}

/// How many seeds it takes to find a planted fault, and what it breaks.
fn find(fault: Fault, seeds: u64) -> (u64, Promise) {
    let _planted = Planted::new(fault);
    let found = (0..seeds).find_map(|seed| Some((seed + 1, run(seed, false).result.err()?)));
    let (seeds, broken) = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
    println!("{fault:?}: {seeds} seeds, {broken}");
    (seeds, broken.promise)
}

fn add(counts: &mut Counts, more: &Counts) {
    counts.cycles += more.cycles;
    counts.messages += more.messages;
    counts.transactions += more.transactions;
    counts.refusals += more.refusals;
    counts.at.iter_mut().zip(more.at).for_each(|(sum, n)| *sum += n);
    counts.ends.iter_mut().zip(more.ends).for_each(|(sum, n)| *sum += n);
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..30 {
        let [first, second] = [run(seed, true), run(seed, true)];
        assert!(first.trace == second.trace, "seed {seed} ran in two ways");
    }
}

#[test]
fn a_hundred_thousand_cycles() {
    if let Ok(seed) = std::env::var(SEED_VARIABLE) {
        let seed = seed.parse().unwrap();
        let ran = run(seed, true);
        print(seed, &ran.trace, usize::MAX);
        println!("{:?}\n{:?}", ran.counts, ran.result);
        return assert!(ran.result.is_ok());
    }
    let wanted = std::env::var(CYCLES_VARIABLE).map_or(CYCLES, |cycles| cycles.parse().unwrap());
    let started = std::time::Instant::now();
    let mut counts = Counts::default();
    for seed in 0.. {
        add(&mut counts, &run_or_show(seed));
        if counts.cycles >= wanted {
            break;
        }
    }
    println!("{} messages, {} transactions", counts.messages, counts.transactions);
    println!("{} cycles in {:?}", counts.cycles, started.elapsed());
    for boundary in BOUNDARIES {
        let cycles = counts.at[boundary as usize];
        println!("{cycles:8} ended at {boundary:?}");
        assert!(cycles * 100 >= wanted, "{boundary:?} ended {cycles} of {wanted} cycles");
    }
    for end in ENDS {
        let cycles = counts.ends[end as usize];
        println!("{cycles:8} ended with {end:?}");
        assert!(cycles * 200 >= wanted, "{end:?} ended {cycles} of {wanted} cycles");
    }
    let refusals = counts.refusals;
    println!("{refusals:8} servers refused that had lost WAL");
    assert!(refusals * 500 >= wanted, "{refusals} servers refused in {wanted} cycles");
    let followed = counts.ends[End::Rewind as usize] - refusals;
    assert!(followed * 1_000 >= wanted, "{followed} older servers followed in {wanted} cycles");
}

/// Seeds in which every planted fault has to be found.
const FAULTY_SEEDS: u64 = 1_000;

#[test]
fn every_planted_fault_is_found() {
    use Promise::*;
    let expected: [(Fault, &[Promise]); 21] = [
        (Fault::ConfirmEarly, &[ConfirmedIsDurable]),
        (Fault::MarkEarly, &[ConfirmedIsDurable]),
        (Fault::ConfirmOutOfOrder, &[ConfirmedIsDurable, LedgerIsTrue]),
        (Fault::DropRetry, &[ConfirmedIsDurable, StatesAreEqual, LedgerIsTrue]),
        (Fault::ReorderFlushes, &[ConfirmedIsDurable, StatesAreEqual, LedgerIsTrue]),
        (Fault::RetryForever, &[RetriesEnd]),
        (Fault::ResumeAtConfirmed, &[ConfirmedIsDurable]),
        (Fault::ForgetHold, &[ConfirmedIsDurable]),
        (Fault::KeepSpool, &[MemoryIsBounded, LedgerIsTrue, StreamIsUnderstood]),
        (Fault::KeepAborted, &[StatesAreEqual, LedgerIsTrue]),
        (Fault::DescribeLate, &[StreamIsUnderstood]),
        (Fault::ReadAnew, &[StreamIsUnderstood]),
        (Fault::KeepBatch, &[ConfirmedIsDurable]),
        (Fault::ForgetHoldWhenCut, &[ConfirmedIsDurable]),
        (Fault::KeepReceived, &[EverythingEnds]),
        (Fault::IgnoreRoom, &[MemoryIsBounded]),
        (Fault::PassOverUnanswered, &[StreamIsUnderstood, ConfirmedIsDurable]),
        (Fault::ConfirmGivenUp, &[ConfirmedIsDurable]),
        (Fault::EndWhenReceived, &[EverythingEnds]),
        (
            Fault::FollowOlderServer,
            &[ConfirmedRises, ConfirmedIsDurable, StatesAreEqual, LedgerIsTrue],
        ),
        (Fault::ForgetBegun, &[ConfirmedIsDurable, StatesAreEqual]),
    ];
    for (fault, promises) in expected {
        let (_, promise) = find(fault, FAULTY_SEEDS);
        assert!(promises.contains(&promise), "{fault:?} breaks {promise:?}");
    }
}
