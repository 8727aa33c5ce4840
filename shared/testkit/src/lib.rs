//! In-memory adapters, a manual clock, builders and conformance suites: what a test of a step needs instead of servers.
//!
//! [`build`] makes plain values; [`clock`] and [`ids`] replace what is ambient; [`archive`], [`audit`], [`claims`], [`messages`], [`deliveries`], [`dead_letters`],
//! [`pauses`] and [`broker`] fill the ports of `delivery`, each with switches that break it; [`conformance`] says what every adapter promises,
//! one function a promise, and runs on the real adapters as well as on these.
//!
//! **Invariant:** nothing here sleeps or reads a clock, [`conformance::Waiting`] for real servers apart.

pub mod archive;
pub mod audit;
pub mod broker;
pub mod build;
pub mod claims;
pub mod clock;
pub mod conformance;
pub mod dead_letters;
pub mod deliveries;
pub mod ids;
pub mod messages;
pub mod pauses;
mod switch;
