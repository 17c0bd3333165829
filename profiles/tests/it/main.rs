//! Real processes, sampled.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod burner;
mod sampler;
