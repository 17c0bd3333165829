//! A process whose CPU time goes where a test wants it.

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use walbench_metrics::stacks::{OwnSampler as _, SampledStacks};
use walbench_profiles::sampler::own::{MOST_HZ, OwnSampler};

const ROUNDS: u64 = 20_000;

/// Work that can't be left out, and that differs from another's by its seed alone.
macro_rules! work {
    ($rounds:expr, $seed:expr) => {{
        let mut x = $seed;
        for _ in 0..$rounds {
            x = black_box(x ^ (x << 13) ^ (x >> 7));
        }
        black_box(x);
    }};
}

#[inline(never)]
fn apart_seven() {
    work!(7 * ROUNDS, 0x1234_5678_u64);
}

#[inline(never)]
fn apart_three() {
    work!(3 * ROUNDS, 0x8765_4321_u64);
}

#[inline(always)]
fn inlined_seven() {
    work!(7 * ROUNDS, 0x1111_2222_u64);
}

#[inline(always)]
fn inlined_three() {
    work!(3 * ROUNDS, 0x3333_4444_u64);
}

#[inline(never)]
fn both_inlined() {
    inlined_seven();
    inlined_three();
}

/// For as long as a test can take: one that is killed leaves its burner behind.
fn burn_on(mut once: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(120) {
        once();
    }
}

/// What comes before the line that a burner says.
const SAID: &str = "burner: ";

/// CPU time that each of a burner's two threads uses while it samples itself.
const OWN_CPU: Duration = Duration::from_secs(7);

/// Says what is sampled of this process while two threads do that. Waits until it is killed, so that
/// what it has mapped can be looked at.
fn burn_and_sample(once: fn()) {
    let folder = tempfile::tempdir().unwrap();
    let mut sampler = OwnSampler::prepare(MOST_HZ, folder.path()).unwrap();
    assert_eq!(sampler.take(), Ok(SampledStacks::default()));
    let burn = move || {
        let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let start = cpu();
        while cpu() - start < OWN_CPU {
            once();
        }
    };
    let other = std::thread::Builder::new().name("other".into()).spawn(burn).unwrap();
    burn();
    other.join().unwrap();
    let taken = sampler.take().unwrap();
    println!("{SAID}{}", serde_json::to_string(&taken).unwrap());
    std::thread::sleep(Duration::from_secs(120));
}

/// Begins to sample a process whose threads do nothing but allocate, and says so.
fn allocate_and_sample() {
    let folder = tempfile::tempdir().unwrap();
    let mut sampler = OwnSampler::prepare(MOST_HZ, folder.path()).unwrap();
    let is_over = AtomicBool::new(false);
    let allocate = || {
        let mut kept: Vec<Vec<u8>> = vec![Vec::new(); 64];
        for n in 0_usize.. {
            kept[n % 64] = black_box(vec![1; 16 + n % 5_000]);
            if is_over.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    let taken = std::thread::scope(|scope| {
        let threads = [scope.spawn(allocate), scope.spawn(allocate)];
        let mut taken = 0;
        let start = Instant::now();
        while taken == 0 && start.elapsed() < Duration::from_secs(60) {
            taken += sampler.take().unwrap().samples.len();
            std::thread::sleep(Duration::from_millis(25));
        }
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        taken
    });
    println!("{SAID}{taken}");
}

/// Not a test: what [`Burner`]s run.
#[test]
fn burn() {
    match std::env::var("WALBENCH_TEST_BURN").as_deref() {
        Ok("own-apart") => burn_and_sample(|| {
            apart_seven();
            apart_three();
        }),
        Ok("own-inlined") => burn_and_sample(both_inlined),
        Ok("own-allocating") => allocate_and_sample(),
        Ok("apart") => burn_on(|| {
            apart_seven();
            apart_three();
        }),
        Ok("inlined") => burn_on(both_inlined),
        _ => {}
    }
}

/// What a burner says. libtest says the test's name before it, on the same line.
fn line_of(output: ChildStdout) -> String {
    let lines = BufReader::new(output).lines().map(Result::unwrap);
    let mut said = lines.filter_map(|line| Some(line.split_once(SAID)?.1.to_owned()));
    said.next().expect("it says what it has to")
}

/// A burning process, which ends when this is dropped.
pub(crate) struct Burner(Child);

impl Burner {
    pub(crate) fn start(what: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "burner::burn", "--nocapture"])
            .env("WALBENCH_TEST_BURN", what)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits for the line that it says.
    pub(crate) fn said(&mut self) -> String {
        line_of(self.0.stdout.take().unwrap())
    }

    /// The same, for one that may hang, which ends it.
    pub(crate) fn said_within(mut self, patience: Duration) -> Option<String> {
        let (say, heard) = channel();
        let output = self.0.stdout.take().unwrap();
        std::thread::spawn(move || say.send(line_of(output)));
        heard.recv_timeout(patience).ok()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
