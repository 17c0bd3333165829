//! What shall happen: the plan.
pub mod plan;
pub use plan::Plan;
