//! Opening at the start of a service: a database that is away is waited for.

use std::time::Duration;

use countersign_boot::Dependency;
use countersign_telemetry::with_sources;

use crate::config::Config;
use crate::database::Database;
use crate::error::Error;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Whose tables a service needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Upstream's.
    Messages,
    /// MSG DB's.
    Deliveries,
    /// Downstream's.
    Inbox,
}

impl Database {
    /// Opens a database and brings its tables up to date; waits while it is away, and `shown` says why.
    ///
    /// # Errors
    /// [`Error`] when waiting will not help.
    pub async fn open(config: &Config, tables: Tables, shown: &Dependency) -> Result<Self, Error> {
        loop {
            match Self::try_to_open(config, tables).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(error = with_sources(&error), "the database cannot be opened yet");
                    shown.unready(with_sources(&error));
                }
                outcome => return outcome,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_to_open(config: &Config, tables: Tables) -> Result<Self, Error> {
        let database = Self::connect(config).await?;
        match tables {
            Tables::Messages => database.migrate_messages().await?,
            Tables::Deliveries => database.migrate_deliveries().await?,
            Tables::Inbox => database.migrate_inbox().await?,
        }
        Ok(database)
    }
}
