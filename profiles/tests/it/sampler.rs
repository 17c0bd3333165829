//! What the samplers find in a process whose shares are known.

use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use walbench_profiles::profile::Profile;
use walbench_profiles::sampler::{Backend, Sampler};
use walbench_profiles::symbols::Symbols;
use walbench_profiles::{ProcessMeter, recording::Recording};

use crate::burner::Burner;

const RATE_HZ: u32 = 499;

/// CPU time that a burner is sampled for, in µs.
const CPU_US: u64 = 2_000_000;

/// A burner that has not used it by then does not burn.
const PATIENCE: Duration = Duration::from_secs(90);

static TURN: Mutex<()> = Mutex::new(());

/// Attaches to a burner and takes the profile of its next CPU time.
fn profiled(backend: Backend, what: &str) -> (Profile, Recording) {
    // Two cores are little for many burners at once.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sampler = Sampler::start(backend, RATE_HZ).unwrap();
    let burner = Burner::start(what);
    let mut meter = ProcessMeter::open(burner.pid()).unwrap();
    let start = Instant::now();
    let mut until = |cpu_us: u64| {
        while meter.read().unwrap().cpu_us < cpu_us {
            assert!(start.elapsed() < PATIENCE, "it does not burn");
            std::thread::sleep(Duration::from_millis(10));
        }
        meter.read().unwrap().cpu_us
    };
    let before = until(100_000);
    sampler.attach(what, burner.pid()).unwrap();
    until(before + CPU_US);
    let recording = sampler.take().remove(0);
    let cpu_us = meter.read().unwrap().cpu_us - before;
    let mut symbols = Symbols::default();
    let profile = Profile::of(
        std::slice::from_ref(&recording),
        (0, i64::MAX),
        cpu_us * 1_000,
        RATE_HZ,
        &mut symbols,
    );
    (profile, recording)
}

/// The profile of a burner that samples itself.
fn profiled_by_itself(what: &str) -> Profile {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sampler = Sampler::start(Backend::Pprof, RATE_HZ).unwrap();
    let mut burner = Burner::start(what);
    let stacks = serde_json::from_str(&burner.said()).unwrap();
    sampler.attach(what, burner.pid()).unwrap();
    sampler.add(burner.pid(), stacks);
    let recordings = sampler.take();
    let cpu_us = ProcessMeter::open(burner.pid()).unwrap().read().unwrap().cpu_us;
    let rate_hz = sampler.rate_hz();
    assert!(rate_hz < RATE_HZ, "{rate_hz}");
    Profile::of(&recordings, (0, i64::MAX), cpu_us * 1_000, rate_hz, &mut Symbols::default())
}

/// The share of samples in whose stack a function is, in percent.
fn share(profile: &Profile, function: &str) -> f64 {
    let has = |name: &str| name.ends_with(function);
    let inside = profile.stacks.iter().filter(|s| s.functions().any(|f| has(&f.name)));
    let samples: u64 = inside.map(|stack| stack.samples).sum();
    profile.quality.share(samples) * 100.0
}

fn assert_shares(profile: &Profile, functions: [&str; 2]) {
    let shares = functions.map(|function| share(profile, function));
    let near = |share: f64, wanted: f64| (share - wanted).abs() < 5.0;
    assert!(
        near(shares[0], 70.0) && near(shares[1], 30.0),
        "{functions:?}: {shares:?} {profile:#?}"
    );
}

/// What tests are permitted, of what there is: nothing in most containers, and then it says so.
fn backends() -> Vec<Backend> {
    let permitted = match Backend::perf_event() {
        Ok(permitted) => permitted,
        Err(error) => {
            let refused = [ErrorKind::PermissionDenied, ErrorKind::Unsupported];
            assert!(refused.contains(&error.kind()), "{error}");
            return Vec::new();
        }
    };
    let by_thread = Backend::PerfEventThreads { kernel: false };
    if permitted == by_thread { vec![by_thread] } else { vec![permitted, by_thread] }
}

#[test]
fn functions_have_their_true_shares() {
    for backend in backends() {
        let (profile, _) = profiled(backend, "apart");
        assert_eq!(profile.quality.flaw(), None, "{backend}: {:?}", profile.quality);
        assert_shares(&profile, ["::apart_seven", "::apart_three"]);
    }
}

/// Two that were inlined into one function are told apart by their addresses.
#[test]
fn inlined_functions_have_their_true_shares() {
    for backend in backends() {
        let (profile, _) = profiled(backend, "inlined");
        assert_eq!(profile.quality.flaw(), None, "{backend}: {:?}", profile.quality);
        assert_shares(&profile, ["inlined_seven", "inlined_three"]);
    }
}

#[test]
fn a_process_that_samples_itself_finds_true_shares_of_whole_stacks() {
    let profile = profiled_by_itself("own-apart");
    let quality = profile.quality;
    assert_eq!(quality.flaw(), None, "{quality:?}");
    assert_shares(&profile, ["::apart_seven", "::apart_three"]);
    assert!(quality.share(quality.truncated) < 0.05, "{quality:?} {:#?}", profile.stacks);
    let of_other = profile.stacks.iter().filter(|stack| stack.thread == "other");
    let of_other = quality.share(of_other.map(|stack| stack.samples).sum());
    assert!((of_other - 0.5).abs() < 0.1, "{of_other}");
}

/// pprof by itself puts all of both where it first saw one of them.
#[test]
fn a_process_that_samples_itself_tells_inlined_functions_apart() {
    let profile = profiled_by_itself("own-inlined");
    assert_eq!(profile.quality.flaw(), None, "{:?}", profile.quality);
    assert_shares(&profile, ["inlined_seven", "inlined_three"]);
}

/// The unwinder, built within the allocator by the first signal that comes there, would wait for ever.
#[test]
fn no_process_hangs_that_samples_itself_while_it_allocates() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for start in 0..150 {
        let burner = Burner::start("own-allocating");
        let said = burner.said_within(PATIENCE);
        assert!(said.is_some_and(|samples| samples != "0"), "start {start} hangs");
    }
}

#[test]
fn stacks_reach_the_threads_beginning() {
    for backend in backends() {
        let (profile, recording) = profiled(backend, "apart");
        let quality = profile.quality;
        assert!(quality.share(quality.truncated) < 0.05, "{quality:?} {:#?}", profile.stacks);
        assert!(quality.empty == 0 && quality.share(quality.lost) < 0.05, "{quality:?}");
        let whole = profile.stacks.iter().max_by_key(|stack| stack.samples).unwrap();
        assert_eq!(whole.thread, "burner::burn", "{:?}", recording.threads);
        let source = whole.functions().find_map(|function| function.source.clone()).unwrap();
        assert!(source.0.ends_with("burner.rs"), "{source:?}");
        let all: u64 = profile.stacks.iter().map(|stack| stack.value).sum();
        assert!(profile.total - all < profile.stacks.len() as u64);
    }
}

#[test]
fn a_process_that_is_not_there_is_refused() {
    for backend in backends() {
        let sampler = Sampler::start(backend, RATE_HZ).unwrap();
        let burner = Burner::start("apart");
        let gone = burner.pid();
        drop(burner);
        assert!(sampler.attach("gone", gone).is_err());
        assert!(sampler.take().is_empty());
    }
}
