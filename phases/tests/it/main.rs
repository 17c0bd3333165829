//! A plan's way from text to [`Plan`] and back, as its users go it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod messages;
mod plans;
mod readme;
