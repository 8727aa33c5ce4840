//! Logs, traces and metrics: installation, context propagation, and every name.
//!
//! The story of one process: [`install()`] starts logging and, when an endpoint is configured, the export of traces;
//! [`Metrics::install`] starts the recorder that a scrape reads. While the process works, [`propagate`] carries a trace
//! from one service to the next inside message headers, and every span, attribute and metric is called by its constant
//! in [`names`]. At the end [`Guard::shutdown`] sends what is still queued, under a time-out.
//!
//! **Invariant:** nothing here blocks a caller. The queue of spans is bounded; a full queue drops spans, never work, and counts them.
//!
//! **Invariant:** this crate reads no configuration by itself; [`Log`] and [`Traces`] are handed in.

mod config;
mod error;
mod export;
mod install;
pub mod invariants;
pub mod names;
mod prometheus;
pub mod propagate;
mod queue;
mod sampler;
mod sources;
mod status;
mod zero;

pub use config::{Log, LogFormat, LogOutput, Traces};
pub use error::Error;
pub use install::{Guard, install};
pub use names::describe_all;
pub use prometheus::Metrics;
pub use sources::with_sources;
pub use status::failed;
pub use zero::at_zero;
