//! PostgreSQL: a pool whose every session is set up the way the protocol needs it.

use std::str::FromStr as _;
use std::time::Duration;

use countersign_delivery::ports::PortError;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _, Executor};
use sea_orm::{ConnectOptions, DbBackend, DbErr, RuntimeErr};

use crate::config::Config;
use crate::error::{Error, Phase, sort};
use crate::sql::Sql;

/// A connection that was idle for longer is asked whether it lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);

/// How many statement time-outs a session may sit idle inside a transaction. A process that is stopped in the middle of an insert
/// holds the lock that its successor's fence waits for; the server then ends that session, which rolls it back.
const IDLE_TRANSACTION_FACTOR: u64 = 2;

/// Who is spoken of in errors.
const SERVER: &str = "PostgreSQL";

/// Opens the pool, and one connection to see that it can be opened.
pub(super) async fn open(url: &str, config: &Config) -> Result<Sql, Error> {
    // sea-orm knows only the shorter name of the scheme.
    let url = url.replacen("postgresql://", "postgres://", 1);
    knock(&url, Duration::from_millis(config.connect_timeout_ms)).await?;
    let session = session(config);
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_millis(config.connect_timeout_ms))
        .test_before_acquire_if_idle_for(TRUSTED_IDLE)
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        .map_sqlx_postgres_opts(|options| options.application_name("countersign"))
        .map_sqlx_postgres_pool_opts(move |pool| {
            let session = session.clone();
            pool.after_connect(move |connection, _| {
                let session = session.clone();
                Box::pin(async move { connection.execute(sqlx::AssertSqlSafe(session)).await.map(drop) })
            })
        });
    let connection = sea_orm::Database::connect(options).await;
    let pool = connection.map_err(|error| Error::Database(sort(SERVER, Phase::Open, error)))?;
    let patience = Duration::from_millis(config.connect_timeout_ms + config.statement_timeout_ms);
    Ok(Sql { write: pool.clone(), read: pool, backend: DbBackend::Postgres, patience })
}

/// Connects once without a pool, which would only say that its time was over, and not why.
async fn knock(url: &str, limit: Duration) -> Result<(), Error> {
    let options = PgConnectOptions::from_str(url).map_err(|error| Error::Url(error.to_string()))?;
    let unavailable = |why: String| {
        let place = format!("{}:{}", options.get_host(), options.get_port());
        Error::Database(PortError::Unavailable(SERVER, format!("nothing answers at {place}: {why}").into()))
    };
    match tokio::time::timeout(limit, options.connect()).await {
        // It was only asked whether it is there.
        Ok(Ok(connection)) => drop(connection.close().await),
        Ok(Err(sqlx::Error::Io(error))) => return Err(unavailable(error.to_string())),
        Ok(Err(error)) => {
            return Err(Error::Database(sort(SERVER, Phase::Open, DbErr::Conn(RuntimeErr::SqlxError(error.into())))));
        }
        Err(_) => return Err(unavailable(format!("no answer within {} ms", limit.as_millis()))),
    }
    Ok(())
}

/// Every statement here goes by key, for a batch of keys. Over a small table the planner prefers to read all of it, and keeps such
/// a plan while the table grows; so it is told not to. Statements this short are not worth compiling either.
pub(crate) const BY_KEY: [&str; 4] = ["enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"];

/// What each session is told. Read committed: a key conflict is resolved by reading what another transaction has just committed.
/// A commit that does not wait for its own disk would be no promise; stronger settings of the server are left alone.
fn session(config: &Config) -> String {
    let (statement, lock) = (config.statement_timeout_ms, config.lock_timeout_ms);
    let idle = statement * IDLE_TRANSACTION_FACTOR;
    let by_key = BY_KEY.map(|setting| format!("set_config('{setting}', 'off', false)")).join(", ");
    format!(
        "SELECT {by_key}, set_config('statement_timeout', '{statement}', false), \
                set_config('lock_timeout', '{lock}', false), \
                set_config('idle_in_transaction_session_timeout', '{idle}', false), \
                set_config('default_transaction_isolation', 'read committed', false), \
                CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END"
    )
}
