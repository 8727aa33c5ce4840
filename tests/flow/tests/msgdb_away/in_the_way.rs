//! The server answers, but something is in the way: a lock, a setting, too many waiters, a conflict.

use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Which, wait_until};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};

use super::rig::{Expected, SHORT, impatient, read_only, through, under_load};

const LOCK: &str = "BEGIN; LOCK TABLE countersign_delivery IN ACCESS EXCLUSIVE MODE";
/// Waits for locks that are longer than the wait for a connection.
const PATIENT: &str = "connect_timeout_ms = 500\nstatement_timeout_ms = 60000\nlock_timeout_ms = 60000\nmax_connections = 2";
/// Each write of a delivery fails so often, by turns as a deadlock and as a failure to serialise; a sequence is not rolled back.
const CONFLICTS: i64 = 6;

async fn flow(test: &str, keys: &str) -> anyhow::Result<Flow> {
    let flow = Flow::new(test, Setup { postgres: true, max_batch: 256 }).await?;
    impatient(&flow, keys)?;
    Ok(flow)
}

async fn run(session: &DatabaseConnection, statements: &str) -> anyhow::Result<()> {
    Ok(session.execute_unprepared(statements).await.map(drop)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_time_out_behind_a_lock() -> anyhow::Result<()> {
    let flow = flow("msgdb_locked", SHORT).await?;
    let session = flow.msg_database().await?;
    let expected = Expected { dependency: "receipts", words: &["MSG DB", "lock timeout"], can_be_read: false };
    through(flow, expected, async || run(&session, LOCK).await, async || run(&session, "ROLLBACK").await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_wait() -> anyhow::Result<()> {
    let flow = flow("msgdb_pool", PATIENT).await?;
    let session = flow.msg_database().await?;
    let expected = Expected { dependency: "database", words: &["max_connections"], can_be_read: false };
    through(flow, expected, async || run(&session, LOCK).await, async || run(&session, "ROLLBACK").await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_read_only() -> anyhow::Result<()> {
    let flow = flow("msgdb_read_only", SHORT).await?;
    let session = flow.msg_database().await?;
    let expected = Expected { dependency: "database", words: &["read-only"], can_be_read: true };
    through(flow, expected, async || read_only(&session, "on").await, async || read_only(&session, "off").await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_and_failures_to_serialise_are_tried_again() -> anyhow::Result<()> {
    let mut flow = flow("msgdb_conflicts", SHORT).await?;
    flow.start(&Which::ALL).await?;
    let session = flow.msg_database().await?;
    let trigger = format!(
        "CREATE SEQUENCE fault; \
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('fault'); BEGIN \
         IF n <= {CONFLICTS} AND n % 2 = 0 THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END IF; \
         IF n <= {CONFLICTS} THEN RAISE EXCEPTION 'serialisation' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$; \
         CREATE TRIGGER fail AFTER INSERT OR UPDATE ON countersign_delivery FOR EACH STATEMENT EXECUTE FUNCTION fail()"
    );
    under_load(flow, async |_, _| {
        run(&session, &trigger).await?;
        let all = async || fired(&session).await.is_ok_and(|count| count > CONFLICTS);
        wait_until("all conflicts, and a write after them", PATIENCE, all).await
    })
    .await
}

async fn fired(session: &DatabaseConnection) -> anyhow::Result<i64> {
    let statement = Statement::from_string(DbBackend::Postgres, "SELECT last_value FROM fault");
    let row = session.query_one_raw(statement).await?;
    row.map_or(Ok(0), |row| Ok(row.try_get("", "last_value")?))
}
