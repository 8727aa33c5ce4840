//! Callback: records receipts, judges checks and orders resends.
//!
//! In the order of the story. Receipts come in and are written down ([`record`](mod@record)). Checks come due and are judged by what was written
//! ([`check`](mod@check)); what only looks lost is found out by [`probe`]s; what is lost is ordered from its upstream
//! ([`command_resend`](mod@command_resend), over [`upstreams`] and their [`lines`]); what must wait is armed again. Rows that fell silent are
//! found by the [`sweep`](mod@sweep), what the broker lost together with its check by [`reconcile`]. That checks come due at all is what a
//! [`canary`] proves. What nobody could process is taken in
//! from the dead-letter queues and quarantine ([`mod@take_in`]) and waits for an operator ([`dead_letters`]). What became of a delivery is
//! told by [`events`]; what is settled and old is deleted ([`retention`]). Operators ask over [`grpc`], and [`operate`](mod@operate) does
//! what they want done. [`intake`] is the edge to the broker's queues, [`run`] puts it all together.
//!
//! **Invariant:** a state is written before the call it stands for, and nothing is acked before what follows from it is stored or confirmed.
//!
//! **Invariant:** there is no leader; any number of callbacks share the queues and MSG DB.

pub mod canary;
pub mod check;
pub mod command_resend;
pub mod config;
mod counters;
pub mod dead_letters;
pub mod desk;
mod error;
pub mod events;
pub mod grpc;
pub mod intake;
pub mod lines;
pub mod operate;
pub mod probe;
mod quarantine;
mod rearm;
pub mod reconcile;
pub mod record;
pub mod retention;
pub mod sweep;
pub mod take_in;
pub mod upstreams;
mod watch;
mod wiring;

pub use config::Config;
pub use error::Error;
pub use wiring::run;
