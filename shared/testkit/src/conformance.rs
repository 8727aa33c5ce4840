//! What every adapter of a port promises, one function a promise, named as a sentence; each panics when it is broken.
//!
//! Each suite is also a macro ([`claims_suite!`](crate::claims_suite) and its like) that makes one test of each promise from a
//! set-up function, so that the in-memory adapters and the real ones cannot be held to different lists. The set-up gives each
//! test an adapter with nothing in it.

#![allow(clippy::missing_panics_doc, reason = "a broken promise panics; the top of this module says so once for all")]

pub mod archive;
pub mod audit;
pub mod broker;
pub mod claims;
pub mod dead_letters;
pub mod deliveries;
pub mod events;
pub mod forgetting;
pub mod leases;
pub mod messages;
pub mod outbox;
pub mod pauses;
pub mod reconciliation;
pub mod retention;
pub mod stored;
pub mod walk;

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::ManualClock;

/// Lets time pass: by moving the manual clock, or by waiting where a real server keeps the time.
#[async_trait]
pub trait Waiting: Send + Sync {
    /// Lets `millis` milliseconds pass.
    async fn pass(&self, millis: u64);
}

#[async_trait]
impl Waiting for ManualClock {
    async fn pass(&self, millis: u64) {
        self.advance(millis);
    }
}

/// Waits in earnest: leases in Redis and tiers in the broker end by their servers' clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealTime;

#[async_trait]
impl Waiting for RealTime {
    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}
