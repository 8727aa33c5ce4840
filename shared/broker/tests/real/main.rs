//! The adapter against a real broker: what the in-memory double cannot show.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame that could hand out tasks")]

mod checkup;
mod connecting;
mod consuming;
mod outage;
mod publishing;
mod rig;
mod routing;
mod topology;
mod traps;
