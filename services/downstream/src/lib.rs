//! Downstream: has each message handled once, however often it arrives, and signs a receipt for it.
//!
//! In the order of the story. A delivery is taken in at the consumer's edge (`consume`), read (`arrived`), and taken through the third step
//! (`receive`): claimed (`desk`) by its guard's rules (`guard`), judged, handled ([`handler`], or over HTTP), completed. The fourth (`acknowledge`) publishes its receipt, and
//! only when that is confirmed the edge acks it. What fails goes through retry tiers and ends in the dead-letter queue (`copies`); what the broker
//! itself gives up on is signed for by `dead`. While a record that the guard needs (`records`) is away nothing is consumed (`gate`, `reopen`); while a handler fails again and
//! again its messages wait (`breaker`); how many start in a second can be bounded (`rate`), and operators see how subscriptions stand
//! (`standing`) and pause them (`pause`, `grpc`).
//!
//! A Rust team writes its own binary:
//!
//! ```no_run
//! use countersign_downstream::{Config, Event, Failure, Handled, Handler, HandlerContext, Service, async_trait};
//!
//! struct Inventory;
//!
//! #[async_trait]
//! impl Handler for Inventory {
//!     async fn handle(&self, message: &Event, _: &HandlerContext) -> Result<Handled, Failure> {
//!         println!("{}: {} bytes", message.id, message.body.len());
//!         Ok(Handled::Done)
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     countersign_boot::launch("inventory", async |config: Config, context| {
//!         Ok(Service::new(config).handle("inventory.orders", Inventory).run(context).await?)
//!     })
//! }
//! ```
//!
//! Under the guards `inbox` and `tiered` its handler is a [`TransactionHandler`], whose effect is committed together with the mark that it
//! happened: [`Service::handle_in_transaction`].
//!
//! **Invariant:** claim → handle → complete → receipt confirmed → ack, in that order, always.
//!
//! **Invariant:** nothing is handled without a claim, and nothing is nacked.

mod acknowledge;
mod arrived;
mod batcher;
mod breaker;
pub mod config;
mod consume;
mod copies;
mod counters;
mod dead;
mod desk;
mod error;
mod gate;
mod grpc;
mod guard;
pub mod handler;
mod http;
mod meters;
mod pause;
mod rate;
mod receive;
mod records;
mod reopen;
mod retention;
mod service;
mod standing;
mod subscription;
mod topology_check;

#[cfg(test)]
mod tests;

pub use async_trait::async_trait;
pub use config::{Config, OnUnknown};
pub use countersign_delivery::topology::Guard;
pub use error::Error;
pub use handler::{Event, Failure, Handled, Handler, HandlerContext, Transaction, TransactionHandler};
pub use service::Service;
pub use subscription::Subscription;

/// The stock binary: delivers by HTTP what the configuration gives an endpoint.
///
/// # Errors
/// What [`Service::run`] says.
pub async fn run(config: Config, context: countersign_boot::Context) -> anyhow::Result<()> {
    Ok(Service::new(config).run(context).await?)
}
