//! The SQL adapter: what upstream, downstream and callback keep, on SQLite (built in, one process) and PostgreSQL.
//!
//! Begin with [`Database::connect`]. Upstream calls [`Database::migrate_messages`] and works with [`SqlMessages`], the fenced
//! table of messages; callback calls [`Database::migrate_deliveries`] and works with [`SqlDeliveries`], which is MSG DB. What they
//! promise is written at the ports they fill, [`countersign_delivery::ports::messages`] and
//! [`countersign_delivery::ports::deliveries`]. A process that keeps its business rows in upstream's database stores both in one
//! transaction by [`Database::enlist`]. Downstream calls [`Database::migrate_inbox`] and works with [`SqlInbox`]: what is done, in the
//! handler's own transaction ([`SqlInbox::begin`]) or behind Redis.
//!
//! **Invariant:** no rule of the protocol is decided here; `apply` asks [`countersign_delivery::state::next`].
//! **Invariant:** a write that was answered survives the end of the process and of the power.
//! **Invariant:** every call ends within `connect_timeout_ms + statement_timeout_ms` a statement, whatever the server does.

mod clock;
mod config;
mod database;
mod deliveries;
mod error;
mod inbox;
mod messages;
mod migrate;
mod open;
mod rows;
mod sql;

pub use config::Config;
pub use database::Database;
pub use deliveries::{SqlDeliveries, SqlReconciliation};
pub use error::Error;
pub use inbox::{Committed, InboxTransaction, SqlInbox, Taking, TransactionLimits};
pub use messages::{Enlisted, SqlMessages};
pub use open::Tables;
pub use sea_orm::DatabaseTransaction;
