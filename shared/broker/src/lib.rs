//! The `RabbitMQ` adapter: the only crate that knows lapin.
//!
//! In the order of the story: [`Config`] says where the broker is. [`Broker::connect`] starts supervised connections (one for publishing,
//! one for consuming, so that a blocked publisher never holds up acks) and never fails because the broker is away; [`Broker::state`] says
//! in clear words how it stands. [`topology`] declares and verifies queues, [`checkup`] asks what an operator wants to know. A [`Broker`] is the port `Publisher` (every publication
//! answered, in order, within the deadline) and the port `Consumers`.
//!
//! **Invariants:** a channel is published to by one task only. A confirm is judged only when it is certain that the message's return, if
//! there is one, has been seen. After any error on a publishing channel everything unconfirmed on it is `Unknown`. No delivery is settled
//! by another delivery's multiple-ack unless it was in the same call.

mod broker;
pub mod checkup;
mod config;
mod consumer;
mod convert;
mod depth;
mod error;
mod handshake;
mod link;
mod publisher;
mod session;
mod state;
pub mod topology;

pub use broker::Broker;
pub use config::{Config, Login};
pub use error::Error;
pub use state::{DownReason, State, reconnected};
