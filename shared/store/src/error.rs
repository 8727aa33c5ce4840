//! What can go wrong with a database, by what the caller can do about it.

use std::path::PathBuf;

use countersign_delivery::ports::PortError;
use sea_orm::sqlx;
use sea_orm::{ConnAcquireErr, DbBackend, DbErr, RuntimeErr};

/// Why a database could not be opened, migrated or reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names no database that this crate can open.
    #[error("the database URL is not valid: {0}")]
    Url(String),
    /// SQLite is for one process; another one has this file.
    #[error("the SQLite database {0} is in use by another process: stop that one, or use PostgreSQL for more than one replica")]
    InUse(PathBuf),
    /// The lock file beside a SQLite database could not be opened.
    #[error(
        "the lock file {0} of the SQLite database cannot be made: its directory must be there, and this user must be able to write in it"
    )]
    LockFile(PathBuf, #[source] std::io::Error),
    /// The tables lack migrations of this program, and this process is not to make them.
    #[error(
        "{tables} are not up to date, {pending} is missing: run this service with --migrate as a user who may create tables, or set \
         database.migrate = true"
    )]
    Outdated {
        /// Whose tables.
        tables: &'static str,
        /// The first migration that is missing.
        pending: &'static str,
    },
    /// The database could not be reached, or refused.
    #[error(transparent)]
    Database(#[from] PortError),
}

impl Error {
    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Url(_) | Self::LockFile(..) => false,
            Self::InUse(_) | Self::Outdated { .. } => true,
            Self::Database(error) => error.is_transient(),
        }
    }
}

/// What a pool means when it says that its time was over.
#[derive(Debug, thiserror::Error)]
#[error("no connection within database.connect_timeout_ms: the database is away, or all of database.max_connections are busy")]
struct NoConnection;

/// What is lost when a statement fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing was committed, and nothing will be: a read, or a statement inside a transaction.
    Open,
    /// A COMMIT, or a statement that commits by itself: it may have happened although no answer came.
    Commit,
}

/// What a failed statement says about the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The database answered: not now.
    Busy,
    /// No answer, or the last word of a dying server.
    Gone,
    /// The database, or the driver, answered: never.
    Wrong,
}

/// Sorts an error of `what` (a few words for the message, such as "inserting messages").
pub(crate) fn sort(what: &'static str, phase: Phase, error: DbErr) -> PortError {
    if is_pool_timeout(&error) {
        return PortError::Unavailable(what, NoConnection.into());
    }
    match (fault(&error), phase) {
        (Fault::Gone, Phase::Commit) => PortError::OutcomeUnknown(what, error.into()),
        (Fault::Busy | Fault::Gone, _) => PortError::Unavailable(what, error.into()),
        (Fault::Wrong, _) => PortError::Refused(what, error.into()),
    }
}

/// No answer within the bound.
pub(crate) fn timed_out(what: &'static str, phase: Phase, error: tokio::time::error::Elapsed) -> PortError {
    match phase {
        Phase::Open => PortError::Unavailable(what, error.into()),
        Phase::Commit => PortError::OutcomeUnknown(what, error.into()),
    }
}

/// Whether a statement has only waited for a lock, or for the one connection that writes to SQLite, for as long as it may.
pub(crate) fn is_contended(backend: DbBackend, error: &PortError) -> bool {
    let PortError::Unavailable(_, source) = error else { return false };
    if source.is::<NoConnection>() {
        return backend == DbBackend::Sqlite;
    }
    let Some(error) = statement_error(source.as_ref()) else { return false };
    let code = error.code().unwrap_or_default();
    match backend {
        // BUSY, LOCKED.
        DbBackend::Sqlite => matches!(code.parse::<u32>().unwrap_or_default() & 0xff, 5 | 6),
        // Lock not available.
        _ => code == "55P03",
    }
}

/// Whether a statement would have written a key that is there already.
pub(crate) fn is_duplicate(error: &PortError) -> bool {
    let PortError::Refused(_, source) = error else { return false };
    statement_error(source.as_ref()).is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// What the database itself said about a statement.
fn statement_error<'a>(
    source: &'a (dyn std::error::Error + Send + Sync + 'static),
) -> Option<&'a dyn sqlx::error::DatabaseError> {
    match source.downcast_ref() {
        Some(DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) => error.as_database_error(),
        _ => None,
    }
}

fn fault(error: &DbErr) -> Fault {
    match error {
        // No connection was handed over, so nothing was sent.
        DbErr::Conn(RuntimeErr::SqlxError(error)) => match driver_fault(error) {
            Fault::Gone => Fault::Busy,
            fault => fault,
        },
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Fault::Busy,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => driver_fault(error),
        _ => Fault::Wrong,
    }
}

/// Nothing was sent: the pool could not hand a connection over.
fn is_pool_timeout(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => true,
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => matches!(**error, sqlx::Error::PoolTimedOut),
        _ => false,
    }
}

fn driver_fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Fault::Busy,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Fault::Gone,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                sqlite_fault(code.parse().unwrap_or_default())
            } else {
                postgres_fault(&code)
            }
        }
        _ => Fault::Wrong,
    }
}

/// By SQLSTATE; see the appendix "PostgreSQL Error Codes" of its manual.
fn postgres_fault(code: &str) -> Fault {
    match code {
        // Completion unknown; the server or an administrator ends the session; its idle transaction took too long.
        "40003" | "57P01" | "57P02" | "57P04" | "57P05" | "25P03" => Fault::Gone,
        // Lock not available, statement time-out, starting up, standby.
        "55P03" | "57014" | "57P03" | "25006" => Fault::Busy,
        _ => match code.get(..2) {
            // Connection; system (disk) error; internal error.
            Some("08" | "58" | "XX") => Fault::Gone,
            // Serialization and deadlock; too many connections, disk full, out of memory.
            Some("40" | "53") => Fault::Busy,
            _ => Fault::Wrong,
        },
    }
}

/// By result code; the low byte is the class.
fn sqlite_fault(code: u32) -> Fault {
    match code & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, FULL, CANTOPEN.
        5 | 6 | 7 | 9 | 13 | 14 => Fault::Busy,
        // IOERR: the commit record may have reached the disk.
        10 => Fault::Gone,
        _ => Fault::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_codes_fall_where_the_caller_needs_them() {
        for code in ["40001", "40P01", "55P03", "57014", "53100", "53300", "25006"] {
            assert_eq!(postgres_fault(code), Fault::Busy, "{code}");
        }
        for code in ["57P01", "57P02", "08006", "40003", "25P03"] {
            assert_eq!(postgres_fault(code), Fault::Gone, "{code}");
        }
        for code in ["23505", "42P01", "42501", "22021", "28P01", ""] {
            assert_eq!(postgres_fault(code), Fault::Wrong, "{code}");
        }
    }

    #[test]
    fn sqlite_codes_fall_by_their_class() {
        assert_eq!(sqlite_fault(517), Fault::Busy, "SQLITE_BUSY_SNAPSHOT");
        assert_eq!(sqlite_fault(1034), Fault::Gone, "SQLITE_IOERR_FSYNC");
        assert_eq!(sqlite_fault(2067), Fault::Wrong, "SQLITE_CONSTRAINT_UNIQUE");
    }

    #[test]
    fn a_pool_whose_time_was_over_says_what_that_means() {
        let over = DbErr::Query(RuntimeErr::SqlxError(sqlx::Error::PoolTimedOut.into()));
        for error in [over, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)] {
            let sorted = sort("a test", Phase::Commit, error);
            let PortError::Unavailable(_, why) = sorted else { panic!("nothing was sent: {sorted:?}") };
            assert!(why.to_string().contains("max_connections"), "{why}");
        }
    }

    #[test]
    fn only_sqlite_lets_writers_wait_for_a_connection() {
        let waited = sort("a test", Phase::Open, DbErr::Query(RuntimeErr::SqlxError(sqlx::Error::PoolTimedOut.into())));
        assert!(is_contended(DbBackend::Sqlite, &waited) && !is_contended(DbBackend::Postgres, &waited));
        let gone = sort("a test", Phase::Open, DbErr::Query(RuntimeErr::SqlxError(sqlx::Error::WorkerCrashed.into())));
        assert!(!is_contended(DbBackend::Sqlite, &gone) && !is_contended(DbBackend::Postgres, &gone));
    }

    #[test]
    fn only_a_commit_without_an_answer_is_unknown() {
        let lost = || DbErr::Query(RuntimeErr::SqlxError(sqlx::Error::WorkerCrashed.into()));
        assert!(matches!(sort("a test", Phase::Open, lost()), PortError::Unavailable(..)));
        assert!(matches!(sort("a test", Phase::Commit, lost()), PortError::OutcomeUnknown(..)));
        let never_sent = DbErr::Conn(RuntimeErr::SqlxError(sqlx::Error::WorkerCrashed.into()));
        assert!(matches!(sort("a test", Phase::Commit, never_sent), PortError::Unavailable(..)));
    }
}
