//! A plan's way from text to [`Plan`] and back, as its users go it.

mod messages;
mod plans;
mod readme;
