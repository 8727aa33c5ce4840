//! SQLite: one file, one process, one writer.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, DbBackend};

use crate::config::Config;
use crate::error::{Error, Phase, sort};
use crate::sql::Sql;

/// Opens the file, having locked it first.
pub(super) async fn open(url: &str, config: &Config) -> Result<(Sql, Option<File>), Error> {
    let parsed = SqliteConnectOptions::from_str(url).map_err(|error| Error::Url(error.to_string()))?;
    let path = parsed.get_filename();
    if url.contains(":memory:") || url.contains("mode=memory") || path.as_os_str().is_empty() {
        return Err(Error::Url("a database in memory keeps no promise: name a file".to_owned()));
    }
    let lock = lock(path)?;
    let write = connect(url, config, 1).await?;
    let read = connect(url, config, config.max_connections).await?;
    let patience = Duration::from_millis(config.connect_timeout_ms + config.statement_timeout_ms);
    Ok((Sql { write, read, backend: DbBackend::Sqlite, patience }, Some(lock)))
}

/// Takes `<file>.lock` for as long as the handle lives. The operating system gives it back when the process dies, however it dies.
fn lock(database: &Path) -> Result<File, Error> {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| Error::LockFile(path.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(database.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::LockFile(path, error)),
    }
}

async fn connect(url: &str, config: &Config, connections: u32) -> Result<sea_orm::DatabaseConnection, Error> {
    let wait = Duration::from_millis(config.lock_timeout_ms);
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(Duration::from_millis(config.connect_timeout_ms))
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        .map_sqlx_sqlite_opts(move |options| {
            // FULL: a commit that was answered is on the disk, even if the power fails next.
            options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(wait)
        });
    let connection = sea_orm::Database::connect(options).await;
    connection.map_err(|error| Error::Database(sort("opening the SQLite database", Phase::Open, error)))
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

    use super::*;

    async fn pragma(connection: &DatabaseConnection, name: &str) -> String {
        let sql = format!("SELECT CAST({name} AS TEXT) AS value FROM pragma_{name}");
        let row = connection.query_one_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap().unwrap();
        row.try_get("", "value").unwrap()
    }

    #[tokio::test]
    async fn a_commit_is_on_the_disk_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("store.db").display());
        let (sql, _lock) = open(&url, &Config::from(url.as_str())).await.unwrap();
        assert_eq!(pragma(&sql.write, "journal_mode").await, "wal");
        assert_eq!(pragma(&sql.write, "synchronous").await, "2", "FULL");
    }
}
