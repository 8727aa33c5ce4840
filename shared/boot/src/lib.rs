//! One launch frame for all binaries: configuration, clock, signals, health, shutdown.
//!
//! A binary is one line, and a team that embeds a service in its own binary writes the same line with its own closure:
//!
//! ```no_run
//! use countersign_boot::{AccessSection, Context, Frame, Grpc, Http, Log, Settings, Shutdown, Tls, Traces};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     log: Log,
//!     traces: Traces,
//!     http: Http,
//!     grpc: Grpc,
//!     tls: Tls,
//!     access: AccessSection,
//!     shutdown: Shutdown,
//! }
//! # impl Default for Config {
//! #     fn default() -> Self {
//! #         Self {
//! #             log: Log::default(),
//! #             traces: Traces::default(),
//! #             http: Http::loopback(7111),
//! #             grpc: Grpc::loopback(7101),
//! #             tls: Tls::default(),
//! #             access: AccessSection::default(),
//! #             shutdown: Shutdown::default(),
//! #         }
//! #     }
//! # }
//! impl Settings for Config {
//!     fn frame(&self) -> Frame<'_> {
//!         let Self { log, traces, http, grpc, tls, access, shutdown } = self;
//!         Frame { log, traces, http, grpc, tls, access, shutdown }
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     countersign_boot::launch("upstream", async |config: Config, context: Context| {
//!         # let _ = config;
//!         let broker = context.health.dependency("broker");
//!         let stop = context.stop.clone();
//!         context.tasks.critical("publisher", async move {
//!             broker.ready();
//!             stop.soft().await; // takes no new work from here on; what is in flight is finished
//!             anyhow::Ok(())
//!         });
//!         Ok(())
//!     })
//! }
//! ```
//!
//! The story: [`launch()`] reads the command line and the [`config`], starts logs, traces and metrics, opens the HTTP
//! server ([`health`], metrics) behind the gate ([`access`]), calls the service's `run` with a [`Context`], and stays until a signal or a failed task.
//! Then it stops everything in the one order that loses nothing ([`shutdown`]).
//!
//! **Invariant:** wall clock, random ids, the process's environment and detached tasks are touched here and nowhere else.

pub mod access;
mod addresses;
mod ask;
pub mod client;
pub mod clock;
pub mod config;
mod context;
mod error;
pub mod failpoints;
pub mod grpc;
pub mod health;
mod http;
mod launch;
mod listener;
pub mod shutdown;
pub mod stop;
pub mod tasks;
mod tls;
pub mod topology;
mod watched;

pub use access::gate::{Forbidden, OnForbidden};
pub use access::{AccessSection, Caller, Role, Tls};
pub use client::Client;
pub use clock::{RandomIds, SystemClock};
pub use config::{Frame, Grpc, Http, Log, Secret, Settings, Shutdown, Traces};
pub use context::Context;
pub use error::Error;
pub use failpoints::{Failpoint, failpoint};
pub use grpc::GrpcServices;
pub use health::{Dependency, Health};
pub use launch::{launch, launch_from};
pub use stop::Stop;
pub use tasks::Tasks;
