//! Every promise of every port, on the in-memory adapter and on the real one.

#![allow(clippy::unused_async, reason = "every set-up has one shape, whether it has something to await or not")]

mod archive;
mod broker;
mod claims;
mod deliveries;
mod inbox;
mod messages;
mod pauses;
mod reconciliation;
mod redis_away;
mod redis_refuses;
