//! What each mode writes into the business database: a measurement, not a test; it prints. On a server that nobody else uses:
//!
//! ```sh
//! cargo build --workspace --bins --examples --features countersign-boot/failpoints
//! target/debug/with-servers rabbitmq redis postgres -- cargo nextest run --workspace --test flow \
//!   --features countersign-boot/failpoints --run-ignored only --no-capture -E 'test(modes_cost)'
//! ```

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, order};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement, TryGetable};

const MESSAGES: u32 = 10_000;
const BATCH: u32 = 500;
const BODY_BYTES: usize = 256;
const RUNS: usize = 5;
const MODES: [&str; 3] = ["verified", "outbox", "confirmed"];

const ROUTES: &str = r#"
[[route]]
exchange = "orders"
routing_key = "order.created.outbox"
mode = "outbox"

[[route]]
exchange = "orders"
routing_key = "order.created.confirmed"
mode = "confirmed"
"#;

/// One reading of the server's own books.
#[derive(Clone, Copy, Debug)]
struct Books {
    wal_bytes: i64,
    inserted: i64,
    updated: i64,
}

async fn value<T: TryGetable>(database: &DatabaseConnection, sql: &str) -> anyhow::Result<T> {
    let row = database.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?.context("no row")?;
    Ok(row.try_get("", "value")?)
}

async fn books(database: &DatabaseConnection) -> anyhow::Result<Books> {
    // What other connections have counted shows up within a second of their idleness; it is awaited until nothing moves.
    let rows = "SELECT COALESCE(SUM(n_tup_ins), 0)::bigint AS value FROM pg_stat_user_tables WHERE relname LIKE 'countersign_%'";
    let updates = rows.replace("n_tup_ins", "n_tup_upd");
    Ok(Books {
        wal_bytes: value(database, "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS value").await?,
        inserted: value(database, rows).await?,
        updated: value(database, &updates).await?,
    })
}

async fn one_run(flow: &Flow, database: &DatabaseConnection, mode: &str, first: u32) -> anyhow::Result<[f64; 3]> {
    let before = books(database).await?;
    let mut upstream = flow.upstream().await?;
    for batch in 0..MESSAGES / BATCH {
        let message = |n| NewMessage {
            routing_key: format!("order.created.{mode}"),
            body: vec![b'x'; BODY_BYTES].into(),
            idempotency_key: String::new(),
            ..order(n)
        };
        let messages = (0..BATCH).map(|n| message(first + batch * BATCH + n)).collect();
        let results = upstream.send_messages(SendMessagesRequest { messages }).await?.into_inner().results;
        ensure!(results.iter().all(|result| matches!(result.result, Some(Sent::Accepted(_)))), "{mode}: not all were accepted");
    }
    let settled = async || {
        let unwritten = "SELECT COUNT(*) AS value FROM countersign_message WHERE status = 0";
        flow.system.metric(Which::Upstream, "countersign_unconfirmed_messages").await.is_ok_and(|count| count == 0.0)
            && value::<i64>(database, unwritten).await.is_ok_and(|count| count == 0)
    };
    wait_until("everything to be settled", PATIENCE, settled).await?;
    let stored = if mode == "confirmed" { 0 } else { i64::from(MESSAGES) };
    let updated = if mode == "outbox" { stored } else { 0 };
    let counted = async || {
        books(database).await.is_ok_and(|now| now.inserted - before.inserted >= stored && now.updated - before.updated >= updated)
    };
    wait_until("the server to have counted", PATIENCE, counted).await?;
    let after = books(database).await?;
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let each = |after: i64, before: i64| (after - before) as f64 / f64::from(MESSAGES);
    Ok([each(after.wal_bytes, before.wal_bytes), each(after.inserted, before.inserted), each(after.updated, before.updated)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test; it prints"]
async fn modes_cost() -> anyhow::Result<()> {
    let extras = Extras { topology: ROUTES.into(), ..Extras::default() };
    let mut flow = Flow::with_extras("modes_cost", Setup { postgres: true, max_batch: 256 }, extras).await?;
    let configuration = std::fs::read_to_string(flow.ground.dir().join("upstream.toml"))?;
    let url = configuration.lines().filter(|line| line.starts_with("url = ")).nth(1).context("no database")?;
    let database = Database::connect(url.trim_start_matches("url = ").trim_matches('"')).await?;
    flow.start(&[Which::Upstream]).await?;
    let mut runs = MODES.map(|_| Vec::new());
    let mut first = 0;
    for run in 0..=RUNS {
        for (mode, runs) in MODES.iter().zip(&mut runs) {
            let figures = one_run(&flow, &database, mode, first).await?;
            first += MESSAGES;
            flow.ground.purge(SUBSCRIPTION).await?;
            // The first round fills caches and plans.
            if run > 0 {
                runs.push(figures);
            }
        }
    }
    println!("{MESSAGES} messages of {BODY_BYTES} bytes in batches of {BATCH}, {RUNS} runs: median (range) a message");
    for (mode, runs) in MODES.iter().zip(&runs) {
        let figure = |index: usize| {
            let mut sorted: Vec<f64> = runs.iter().map(|run| run[index]).collect();
            sorted.sort_by(f64::total_cmp);
            format!("{:.2} ({:.2} to {:.2})", sorted[RUNS / 2], sorted[0], sorted[RUNS - 1])
        };
        println!("{mode}: WAL bytes {}, rows inserted {}, rows updated {}", figure(0), figure(1), figure(2));
    }
    flow.finish().await
}
