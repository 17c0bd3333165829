//! A process whose CPU time goes where a test wants it.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// Not a test: what [`start`] runs.
#[test]
fn burn() {
    match std::env::var("WALBENCH_TEST_BURN").as_deref() {
        Ok("apart") => burn_on(|| {
            apart_seven();
            apart_three();
        }),
        Ok("inlined") => burn_on(both_inlined),
        _ => {}
    }
}

/// A burning process, which ends when this is dropped.
pub(crate) struct Burner(Child);

impl Burner {
    pub(crate) fn start(what: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "burner::burn", "--nocapture"])
            .env("WALBENCH_TEST_BURN", what)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
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
