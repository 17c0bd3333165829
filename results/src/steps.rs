//! The steps of time that a phase is told in.

/// Steps of a phase at most: the size of what has them must not depend on how long it lasts.
pub(crate) const STEPS: i64 = 600;

/// A step is not shorter than the interval of a sample, in µs.
const SHORTEST_STEP_US: i64 = 1_000_000;

/// Numbers the steps of a phase, warm-up and drain included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    start_us: i64,
    /// Length of a step.
    pub(crate) step_us: i64,
}

impl Steps {
    /// Of a phase of this length.
    pub(crate) fn new(length_us: i64) -> Self {
        Self { start_us: 0, step_us: (length_us / STEPS).max(SHORTEST_STEP_US) }
    }

    /// The phase starts then.
    pub(crate) fn starts(&mut self, start_us: i64) {
        self.start_us = start_us;
    }

    /// The step that a moment is in.
    pub(crate) fn number(&self, at_us: i64) -> i64 {
        // Long drains have a step in the end that holds all that is left of them.
        (at_us - self.start_us).div_euclid(self.step_us).clamp(-1, 2 * STEPS)
    }
}
