//! Real processes, sampled.

mod burner;
mod sampler;
