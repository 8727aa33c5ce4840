//! What the broker can make of a publish, each with its defined end: confirmed, refused, returned, silent, blocked, cut off.
//!
//! In each, a send is answered within a bound, the metrics prove that the fault was there, and every accepted order is handled once.

mod backlog;
mod blocked;
mod cut_off;
mod refused;
pub mod rig;
mod silent;
