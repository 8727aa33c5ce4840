//! Upstream: stores each message with one INSERT, publishes it and its delayed check, and sends it again when nobody signed for it.
//!
//! The story in order: callers come by [`grpc`] or [`http`]; [`accept`] judges what they mean; [`send`](mod@send) stores it ([`commit`]),
//! publishes it ([`publish`]) and awaits the confirm; [`schedule_check`] publishes its delayed check, in batches ([`check_queue`]). Both
//! confirmed: settled ([`ledger`]). What is not confirmed is published again from the table ([`catch_up`]). Once a second the watermark is
//! written ([`keeper`], [`incarnations`]), so that the successor of a dead process knows where to begin ([`adopt`]).
//! What the broker nacks is kept; a route may have its like refused meanwhile ([`fullness`]).
//! [`resend`](mod@resend) is callback's order. [`confirmed`] is the way of a message that is not stored at all, [`outbox`] that
//! of one whose row has a status instead of a place below the watermark. What is settled and old is deleted ([`retention`]);
//! what is stored is summed up for reconciliation ([`digest`]).
//!
//! The stock binary is [`run`]; a team that embeds it in its own process takes [`Service::start`] and sends through [`Upstream`]; its
//! business rows and its messages in one commit: [`Upstream::transaction`]; bodies that its own tables can give again: [`MessageSource`].
//!
//! **Invariant:** one INSERT a message and one UPDATE a second (mode `verified`); nothing is published that was not committed.

mod accept;
mod adopt;
mod catch_up;
mod check_queue;
mod clocks;
mod commit;
pub mod config;
mod confirmed;
mod counters;
mod desk;
mod digest;
mod error;
mod fullness;
mod grpc;
mod http;
mod incarnations;
mod keeper;
mod ledger;
mod lookup;
mod outbox;
mod publish;
mod refusal;
mod resend;
mod retention;
mod room;
mod schedule_check;
mod send;
mod service;
mod source;
mod topology;
mod trace;
mod transaction;
mod upstream;

#[cfg(test)]
mod stage;

pub use async_trait::async_trait;

pub use accept::{AnswerWhen, NewMessage};
pub use config::Config;
pub use error::Error;
pub use lookup::{By, Found};
pub use refusal::Refusal;
pub use resend::{Order, Outcome as ResendOutcome};
pub use send::{Accepted, Outcome};
pub use service::{Service, run};
pub use source::{MessageSource, Rebuilt, SourceError, Wanted};
pub use transaction::{Committed, Transaction, TransactionError};
pub use upstream::Upstream;
