//! A profile as other tools read it.

pub mod firefox;
pub mod flamegraph;
pub mod folded;
pub mod pprof;
#[cfg(test)]
pub(crate) mod testing;

/// Which profile it is: what a file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Title {
    /// The phase's name.
    pub phase: String,
    /// Its part: `warmup`, `measured`, `drain`.
    pub window: String,
    /// When the window begins, in µs since the Unix epoch.
    pub start_us: i64,
    /// How long it is, in µs.
    pub length_us: i64,
}
