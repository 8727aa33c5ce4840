//! What the inbox costs, on both databases. Figures, not promises; run it with
//! `target/debug/with-servers postgres -- cargo nextest run -p countersign-store --run-ignored only -E 'test(inbox_cost)' --no-capture`.

use std::time::{Duration, Instant};

use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claims};
use countersign_store::SqlInbox;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};

use crate::handlers::{act, claim, committed, take, with_effects};
use crate::support::Ground;

/// What is done before anything is measured.
const DONE: u64 = 100_000;
/// One batch of claims.
const BATCH: u64 = 256;
/// How often each thing is done.
const ROUNDS: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes a minute"]
async fn on_sqlite() {
    measure(&Ground::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes a minute"]
async fn on_postgres() {
    measure(&Ground::postgres("cost").await).await;
}

async fn measure(ground: &Ground) {
    let (inbox, session) = (with_effects(ground).await, ground.session().await);
    let done: Vec<ClaimKey> = (1..=DONE).map(|n| claim(n, "genuine", "a").key).collect();
    let before = written(&session).await;
    for part in done.chunks(256) {
        inbox.record(part).await.unwrap();
    }
    let rows = written(&session).await - before;
    println!("record, batches of 256: {} bytes of WAL a message (SQLite does not tell)", rows / DONE.cast_signed());
    let settle: &[&str] = if is_sqlite(&session) { &["ANALYZE"] } else { &["VACUUM ANALYZE", "CHECKPOINT"] };
    for statement in settle {
        session.execute_unprepared(statement).await.unwrap();
    }
    println!("a row takes {} bytes, its index included", size(&session).await / DONE.cast_signed());

    look_up(&inbox, "claim, nothing comes again", DONE + 1, false).await;
    look_up(&inbox, "claim, all done before", 1, false).await;
    look_up(&inbox, "claim, all come again", DONE + 1, true).await;

    let write = ground.session().await;
    let plain = cost(&session, async |_| {
        let tx = write.begin().await.unwrap();
        tx.execute_unprepared("INSERT INTO effect VALUES (1)").await.unwrap();
        tx.commit().await.unwrap();
    });
    let (plain_ms, plain_bytes) = plain.await;
    let within = cost(&session, async |n| {
        let transaction = take(&inbox, &claim(2 * DONE + n, "genuine", "a")).await;
        act(&transaction).await;
        committed(transaction).await;
    });
    let (within_ms, within_bytes) = within.await;
    println!(
        "a transaction with one effect: {plain_ms:.2} ms and {plain_bytes} bytes of WAL; with the inbox {within_ms:.2} ms and {within_bytes}"
    );
}

/// Milliseconds for a batch of 256, the median.
async fn look_up(inbox: &SqlInbox, what: &str, first: u64, again: bool) {
    let mut times = Vec::new();
    for round in 0..ROUNDS / 40 {
        let batch = (0..BATCH).map(|n| claim(first + round * BATCH + n, "genuine", "a"));
        let batch: Vec<_> = batch.map(|claim| Claim { again, ..claim }).collect();
        let started = Instant::now();
        inbox.claim(&batch, 0).await.unwrap();
        times.push(started.elapsed());
    }
    println!("{what}: {:.2} ms for 256", median_ms(times));
}

/// The median in milliseconds, and bytes of WAL for each.
async fn cost(session: &DatabaseConnection, each: impl AsyncFn(u64)) -> (f64, i64) {
    let (before, mut times) = (written(session).await, Vec::new());
    for n in 0..ROUNDS {
        let started = Instant::now();
        each(n).await;
        times.push(started.elapsed());
    }
    (median_ms(times), (written(session).await - before) / ROUNDS.cast_signed())
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

fn is_sqlite(session: &DatabaseConnection) -> bool {
    session.get_database_backend() == DbBackend::Sqlite
}

/// Bytes of WAL so far; SQLite does not tell.
async fn written(session: &DatabaseConnection) -> i64 {
    if is_sqlite(session) {
        return 0;
    }
    number(session, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint AS n").await
}

async fn size(session: &DatabaseConnection) -> i64 {
    let pages = "SELECT page_count * page_size AS n FROM pragma_page_count, pragma_page_size";
    let relation = "SELECT pg_total_relation_size('countersign_inbox') AS n";
    number(session, if is_sqlite(session) { pages } else { relation }).await
}

async fn number(session: &DatabaseConnection, sql: &str) -> i64 {
    let statement = Statement::from_string(session.get_database_backend(), sql);
    session.query_one_raw(statement).await.unwrap().unwrap().try_get("", "n").unwrap()
}
