//! The protocol by tables and properties: every row of `state::next` and `decide`, and a small world that loses things.

mod decide;
mod digest;
mod events;
mod expiry;
mod horizon;
mod ids;
mod model;
mod outbox;
mod probes;
mod reconcile;
mod redrive;
mod refusals;
mod routes;
mod state;
mod support;
mod topology;
mod watermark;
