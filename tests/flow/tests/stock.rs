//! The effect happens once because a database says so: the guards `inbox`, `tiered` and `redis+archive`, and a Redis that forgets everything.
//!
//! Under the first two the handler runs within the guard's transaction: the example that is shipped. It notes each call without recognising
//! what comes twice, so a second effect would be seen.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};

const EXAMPLE: &str = "stock";
/// Pieces of each order, and on stock at first.
const PIECES: i64 = 3;
const STOCKED: i64 = 1_000;
const ORDERS: u32 = 8;

const AFTER_EFFECT: &str = "downstream.after_effect";
const BEFORE_COMMIT: &str = "downstream.before_commit";
const AFTER_ARCHIVE: &str = "downstream.after_archive";
const RECOGNISED: &str = "countersign_inbox_recognised_total";
const DEDUP: &str = "countersign_dedup_total";
const DONE: &str = "result=\"done\"";
const DUPLICATES: &str = "countersign_possible_duplicates_total";

/// Makes two tests of one: the guard's database is SQLite, or PostgreSQL.
macro_rules! on_both {
    ($test:ident) => {
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() -> anyhow::Result<()> {
                super::$test(false).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() -> anyhow::Result<()> {
                super::$test(true).await
            }
        }
    };
}

/// A system whose subscription has this guard, with a database for it.
struct Shop {
    flow: Flow,
    url: String,
}

impl Shop {
    async fn open(test: &str, postgres: bool, guard: &str) -> anyhow::Result<Self> {
        let extras = Extras { subscription: format!("guard = {guard:?}"), ..Extras::default() };
        let flow = Flow::with_extras(test, Setup { postgres, max_batch: 256 }, extras).await?;
        let url = if postgres { flow.ground.database("stock").await? } else { flow.ground.sqlite("stock") };
        let file = flow.ground.path("downstream.toml");
        let rest = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("[database]\nurl = {url:?}\n\n{rest}"))?;
        Ok(Self { flow, url })
    }

    /// The handler is in the program, so the configuration names no endpoint.
    fn without_endpoint(&self) -> anyhow::Result<()> {
        self.rewrite("downstream.toml", |text| {
            let (before, rest) = text.split_once("[[downstream.subscription]]").context("no subscription")?;
            let (_, policy) = rest.split_once("[policy]").context("no policy")?;
            Ok(format!("{before}[policy]{policy}"))
        })
    }

    fn rewrite(&self, file: &str, change: impl FnOnce(&str) -> anyhow::Result<String>) -> anyhow::Result<()> {
        let file = self.flow.ground.path(file);
        let text = change(&std::fs::read_to_string(&file)?)?;
        Ok(std::fs::write(&file, text)?)
    }

    async fn start_stock(&mut self, failpoints: &str) -> anyhow::Result<()> {
        self.flow.system.spawn_as(Which::Downstream, EXAMPLE, failpoints)?;
        self.flow.system.ready(Which::Downstream).await
    }

    async fn database(&self) -> anyhow::Result<DatabaseConnection> {
        let mut options = ConnectOptions::new(&self.url);
        options.max_connections(1).sqlx_logging(false);
        Ok(Database::connect(options).await?)
    }

    /// Puts pears on stock; the example has made the tables.
    async fn fill(&self) -> anyhow::Result<()> {
        let fill = format!("INSERT INTO stock (item, pieces) VALUES ('pears', {STOCKED})");
        let database = self.database().await?;
        database.execute_unprepared(&fill).await?;
        Ok(database.close().await?)
    }

    async fn order(&self, first: u32, count: u32) -> anyhow::Result<Vec<String>> {
        let order = |number: u32| NewMessage {
            exchange: "orders".into(),
            routing_key: "order.created".into(),
            r#type: "order.created".into(),
            content_type: "application/json".into(),
            body: format!("{{\"item\":\"pears\",\"pieces\":{PIECES},\"order\":{number}}}").into(),
            idempotency_key: format!("order-{number}"),
            ..NewMessage::default()
        };
        let messages = (first..first + count).map(order).collect();
        let answer = self.flow.upstream().await?.send_messages(SendMessagesRequest { messages }).await?;
        let ids = answer.into_inner().results.into_iter().map(|result| match result.result {
            Some(Sent::Accepted(accepted)) => Ok(accepted.id),
            other => bail!("not accepted: {other:?}"),
        });
        ids.collect()
    }

    /// Asserts that each of these orders was taken off the stock once, and nothing else was.
    async fn each_moved_once(&self, ids: &[String]) -> anyhow::Result<()> {
        let database = self.database().await?;
        let backend = database.get_database_backend();
        let query = "SELECT message_id, count(*) AS calls FROM movement GROUP BY message_id";
        let rows = database.query_all_raw(Statement::from_string(backend, query)).await?;
        let moved = rows.iter().map(|row| Ok((row.try_get("", "message_id")?, row.try_get("", "calls")?)));
        let moved: BTreeMap<String, i64> = moved.collect::<anyhow::Result<_>>()?;
        let wanted = ids.iter().map(|id| (id.clone(), 1)).collect();
        ensure!(moved == wanted, "moved {moved:?}, wanted {wanted:?}");
        let query = Statement::from_string(backend, "SELECT pieces FROM stock");
        let pieces: i64 = database.query_one_raw(query).await?.context("no stock")?.try_get("", "pieces")?;
        ensure!(pieces == STOCKED - PIECES * i64::try_from(ids.len())?, "{pieces} pieces are left of {} orders", ids.len());
        Ok(database.close().await?)
    }

    /// The ids that the guard's own table says are done.
    async fn recorded(&self) -> anyhow::Result<u64> {
        let database = self.database().await?;
        let query = "SELECT count(*) AS rows FROM countersign_inbox";
        let row = database.query_one_raw(Statement::from_string(database.get_database_backend(), query)).await?;
        let rows: i64 = row.context("no count")?.try_get("", "rows")?;
        database.close().await?;
        Ok(u64::try_from(rows)?)
    }

    /// What a counter of downstream counts.
    async fn count(&self, name: &str, label: &str) -> anyhow::Result<u64> {
        let value = self.flow.system.look().metric(Which::Downstream, name, label).await?;
        Ok(format!("{value:.0}").parse()?)
    }

    /// Starts the program anew with nothing in the work queue, not even in somebody's hands: its metrics begin with what comes then.
    async fn start_with_nothing_left(&mut self, program: &str) -> anyhow::Result<()> {
        loop {
            self.flow.queue_reaches(SUBSCRIPTION, 0).await?;
            self.flow.system.stop(Which::Downstream).await?;
            // Nobody holds any now.
            let left = self.flow.work_queue_depth().await?;
            self.flow.system.spawn_as(Which::Downstream, program, "")?;
            self.flow.system.ready(Which::Downstream).await?;
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Publishes these messages again, and waits until as many more are recognised by what `name` and `label` count.
    async fn again(&self, ids: &[String], name: &str, label: &str) -> anyhow::Result<()> {
        let before = self.count(name, label).await?;
        self.flow.send_again(ids).await?;
        let wanted = before + u64::try_from(ids.len())?;
        let reached = async || self.count(name, label).await.is_ok_and(|now| now >= wanted);
        wait_until("the duplicates to be recognised", PATIENCE, reached).await?;
        let now = self.count(name, label).await?;
        ensure!(now == wanted, "{name} counts {now}, wanted {wanted}");
        Ok(())
    }
}

/// Orders through the example, which is killed with an open transaction, and again between commit and mark; then every message once more.
async fn each_order_is_taken_once(postgres: bool, guard: &str) -> anyhow::Result<()> {
    let mut shop = Shop::open(&format!("stock_{guard}"), postgres, guard).await?;
    shop.without_endpoint()?;
    if guard == "inbox" {
        // Nothing connects to Redis.
        let redis = format!("url = {:?}\nresponse", shop.flow.ground.redis_url());
        shop.rewrite("downstream.toml", |text| {
            ensure!(text.contains(&redis), "no {redis} in {text}");
            Ok(text.replace(&redis, "url = \"redis://127.0.0.1:9\"\nresponse"))
        })?;
    }
    shop.flow.start(&[Which::Callback, Which::Upstream]).await?;
    shop.start_stock(&format!("{BEFORE_COMMIT}=2*off->1*return")).await?;
    shop.fill().await?;
    let ids = shop.order(0, ORDERS).await?;
    shop.flow.system.dies_at(Which::Downstream, BEFORE_COMMIT, PATIENCE).await?;
    // It finds messages waiting, and may be dead before anybody sees it ready.
    shop.flow.system.spawn_as(Which::Downstream, EXAMPLE, &format!("{AFTER_EFFECT}=2*off->1*return"))?;
    shop.flow.system.dies_at(Which::Downstream, AFTER_EFFECT, PATIENCE).await?;
    shop.start_stock("").await?;
    shop.flow.all_signed(&ids).await?;
    shop.each_moved_once(&ids).await?;

    shop.start_with_nothing_left(EXAMPLE).await?;
    shop.again(&ids, DEDUP, DONE).await?;
    shop.each_moved_once(&ids).await?;
    ensure!(shop.recorded().await? == u64::from(ORDERS));
    ensure!(shop.count(DUPLICATES, "").await? == 0, "no effect may have come twice");
    shop.flow.finish().await
}

on_both!(each_order_is_taken_once_under_inbox);
async fn each_order_is_taken_once_under_inbox(postgres: bool) -> anyhow::Result<()> {
    each_order_is_taken_once(postgres, "inbox").await
}

on_both!(each_order_is_taken_once_under_tiered);
async fn each_order_is_taken_once_under_tiered(postgres: bool) -> anyhow::Result<()> {
    each_order_is_taken_once(postgres, "tiered").await
}

/// Redis loses all it knows, between the effect and its mark, and later as a whole: the database tells, and Redis learns it again.
async fn redis_and_database_stay_consistent(postgres: bool) -> anyhow::Result<()> {
    let mut shop = Shop::open("redis_and_database", postgres, "tiered").await?;
    shop.without_endpoint()?;
    shop.flow.start(&[Which::Callback, Which::Upstream]).await?;
    shop.start_stock(&format!("{AFTER_EFFECT}=3*off->1*return")).await?;
    shop.fill().await?;
    let ids = shop.order(0, ORDERS).await?;
    shop.flow.system.dies_at(Which::Downstream, AFTER_EFFECT, PATIENCE).await?;
    shop.flow.ground.empty_redis().await?;
    shop.start_stock("").await?;
    shop.flow.all_signed(&ids).await?;
    shop.each_moved_once(&ids).await?;
    ensure!(shop.count(RECOGNISED, "").await? >= 1, "the database has told what was committed");

    shop.start_with_nothing_left(EXAMPLE).await?;
    shop.flow.ground.empty_redis().await?;
    shop.again(&ids, RECOGNISED, "").await?;
    // What Redis has learned again costs no transaction.
    let recognised = shop.count(RECOGNISED, "").await?;
    shop.again(&ids, DEDUP, DONE).await?;
    ensure!(shop.count(RECOGNISED, "").await? == recognised, "the database was asked although Redis knew");
    shop.each_moved_once(&ids).await?;
    ensure!(shop.count(DUPLICATES, "").await? == 0, "no effect may have come twice");
    shop.flow.finish().await
}

on_both!(redis_and_database_stay_consistent);

/// What was done under guard `redis` is in Redis alone. Under `redis+archive` it is written to the database when it comes again, and what is
/// done is written there before it is signed for; so a Redis that has lost everything costs no second effect.
async fn what_is_only_in_redis_gets_into_the_database(postgres: bool) -> anyhow::Result<()> {
    let mut shop = Shop::open("only_in_redis", postgres, "redis").await?;
    shop.flow.start(&Which::ALL).await?;
    let mut ids = shop.order(0, ORDERS).await?;
    shop.flow.all_signed(&ids).await?;
    shop.flow.system.stop(Which::Downstream).await?;
    shop.rewrite("topology.toml", |text| Ok(text.replace("guard = \"redis\"", "guard = \"redis+archive\"")))?;

    shop.flow.start(&[Which::Downstream]).await?;
    ensure!(shop.recorded().await? == 0, "nothing but Redis knows them");
    shop.again(&ids, DEDUP, DONE).await?;
    wait_until("what only Redis knew to be written", PATIENCE, async || {
        shop.recorded().await.is_ok_and(|rows| rows == u64::from(ORDERS))
    })
    .await?;
    // New ones are written before they are signed for; it dies between the two records.
    shop.flow.system.stop(Which::Downstream).await?;
    shop.flow.system.start(Which::Downstream, &format!("{AFTER_ARCHIVE}=1*return")).await?;
    ids.extend(shop.order(ORDERS, 1).await?);
    shop.flow.system.dies_at(Which::Downstream, AFTER_ARCHIVE, PATIENCE).await?;

    shop.flow.ground.empty_redis().await?;
    shop.flow.start(&[Which::Downstream]).await?;
    shop.flow.all_signed(&ids).await?;
    shop.start_with_nothing_left("downstream").await?;
    shop.flow.ground.empty_redis().await?;
    shop.again(&ids, RECOGNISED, "").await?;
    shop.flow.each_effected_once(&ids).await?;
    ensure!(shop.flow.system.effects().await?.calls == u64::from(ORDERS) + 1, "a duplicate reached the handler");
    ensure!(shop.count(DUPLICATES, "").await? == 0, "no effect may have come twice");
    shop.flow.finish().await
}

on_both!(what_is_only_in_redis_gets_into_the_database);

/// Delivery over HTTP cannot be part of a transaction, and start-up says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_cannot_have_a_guard_with_a_transaction() -> anyhow::Result<()> {
    let mut shop = Shop::open("endpoint_inbox", false, "inbox").await?;
    shop.flow.system.spawn(Which::Downstream, "")?;
    let status = shop.flow.system.process(Which::Downstream)?.wait(PATIENCE).await?;
    ensure!(!status.success(), "it started");
    let log = shop.flow.system.log_of(Which::Downstream)?;
    ensure!(log.contains("needs a handler within a transaction"), "{log}");
    Ok(())
}
