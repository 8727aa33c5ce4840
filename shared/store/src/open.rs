//! Opening at the start of a service: a database that is away, or whose tables somebody else has to bring up to date, is waited for.

use std::time::Duration;

use countersign_boot::Dependency;
use countersign_telemetry::with_sources;

use crate::config::Config;
use crate::database::Database;
use crate::error::Error;
use crate::migrate;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// How long `--migrate` waits for a database that is away.
const PATIENCE: Duration = Duration::from_mins(1);

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
    /// Opens a database and brings its tables up to date or, with `migrate = false`, holds them against this program; waits while it is away
    /// or its tables are outdated, and `shown` says why.
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

    /// Brings tables up to date, whatever `migrate` says, and closes the database: a service's `--migrate`. A database that is away is waited
    /// for, a minute at most.
    ///
    /// # Errors
    /// [`Error`] of the last try.
    pub async fn bring_up_to_date(config: &Config, tables: Tables) -> Result<(), Error> {
        let config = Config { migrate: true, ..config.clone() };
        let given_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Self::try_to_open(&config, tables).await {
                Ok(database) => {
                    database.close().await;
                    return Ok(());
                }
                Err(error) if !error.is_transient() || tokio::time::Instant::now() >= given_up => return Err(error),
                Err(error) => tracing::warn!(error = with_sources(&error), "the database cannot be migrated yet"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_to_open(config: &Config, tables: Tables) -> Result<Self, Error> {
        let database = Self::connect(config).await?;
        if config.migrate {
            migrate::up(database.sql(), tables).await?;
        } else {
            migrate::verify(database.sql(), tables).await?;
        }
        Ok(database)
    }
}
