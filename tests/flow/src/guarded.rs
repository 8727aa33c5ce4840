//! A flow under one of the guards, with a business that counts its effects in its own database, and can be held in the middle of them.
//!
//! Where the handler runs within the guard's transaction the business is the shipped example `stock`, and an effect is a row of its table
//! `movement`; else it is the order handler behind HTTP. Either counts every effect and recognises none.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_delivery::topology::Guard;
use countersign_launcher::{Extras, Program, Running, SUBSCRIPTION, Which, binary, free_port, wait_until};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait as _,
};
use serde_json::json;

use crate::{Flow, PATIENCE, Setup, order};

/// Handlers at a time.
pub const CONCURRENCY: u32 = 4;
/// What is held comes free by itself only after the test.
const HOLD_MS: u64 = 600_000;
/// What is held for longer is reported, milliseconds: not while a test holds it, for a failpoint waits for another receipt.
const PROGRESS_AFTER_MS: u64 = 30_000;
/// Callback's patience must be longer than that.
const PROBE_GRACE_MS: u64 = 31_000;
/// The item of what is held begins so, and has its number behind; everything else is of the other one.
const HELD: &str = "held";
const FREE: &str = "free";
const POSSIBLE_DUPLICATES: &str = "countersign_possible_duplicates_total";
/// What is logged with each count.
const COUNTED: &str = "the effect may have happened twice";

/// The flow, its guard and its business.
#[derive(Debug)]
pub struct Guarded {
    /// Services and servers.
    pub flow: Flow,
    /// What the effect is guarded by.
    pub guard: Guard,
    stock: Option<String>,
    /// Whether there is enough of everything. Asked once: a row that a sleeper has locked would be waited for.
    stocked: bool,
    hold: Option<DatabaseTransaction>,
    sent: u32,
}

/// Where a message is sent to be held: the handler stands before its effect, or after it and before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It has had no effect.
    BeforeEffect,
    /// It has had its effect, for the order handler; comes free by itself after so many milliseconds.
    AfterEffect(u64),
}

impl Guarded {
    /// Wires everything, and starts callback and upstream.
    ///
    /// # Errors
    /// When a server or binary is missing.
    pub async fn new(test: &str, guard: Guard, setup: Setup) -> anyhow::Result<Self> {
        let extras = Extras {
            subscription: format!("guard = \"{}\"", guard.as_str()),
            downstream: format!("concurrency = {CONCURRENCY}\nprefetch = {}", CONCURRENCY * 2),
            ..Extras::default()
        };
        let mut flow = Flow::with_extras(test, setup, extras).await?;
        let mut stock = None;
        if guard.uses_database() {
            let database = if setup.postgres { flow.ground.database("stock").await? } else { flow.ground.sqlite("stock") };
            edit(&flow.ground.path("downstream.toml"), |text| format!("[database]\nurl = {database:?}\n\n{text}"))?;
            stock = guard.in_transaction().then_some(database);
        }
        let progress_after = format!("progress_after_ms = {PROGRESS_AFTER_MS}");
        edit(&flow.ground.path("downstream.toml"), |text| with_line(&text, "progress_after_ms =", &progress_after))?;
        let grace = format!("probe_grace_ms = {PROBE_GRACE_MS}");
        for which in Which::ALL {
            edit(&flow.ground.path(&format!("{}.toml", which.name())), |text| with_line(&text, "probe_grace_ms =", &grace))?;
        }
        if stock.is_some() {
            // The handler is in the program.
            edit(&flow.ground.path("downstream.toml"), |text| with_line(&text, "endpoint =", ""))?;
        }
        flow.start(&[Which::Callback, Which::Upstream]).await?;
        Ok(Self { flow, guard, stock, stocked: false, hold: None, sent: 0 })
    }

    /// The binary that has this handler.
    const fn program(&self) -> &'static str {
        if self.guard.in_transaction() { "stock" } else { Which::Downstream.binary() }
    }

    /// Whether what is held within the handler holds nobody else up: on SQLite a handler's transaction is the only one.
    #[must_use]
    pub fn can_hold(&self) -> bool {
        self.stock.as_ref().is_none_or(|url| url.starts_with("postgres"))
    }

    /// Starts downstream with this prefetch and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn start(&mut self, prefetch: u32, failpoints: &str) -> anyhow::Result<()> {
        self.spawn(prefetch, failpoints)?;
        self.flow.system.ready(Which::Downstream).await?;
        self.put_on_stock().await
    }

    /// Has callback stand still, until [`Self::checks`], and waits until nothing of it is in the work queue or its retry tiers: what downstream
    /// takes in and signs from now on are messages.
    ///
    /// # Errors
    /// When something still is there after [`PATIENCE`].
    pub async fn nobody_checks(&self) -> anyhow::Result<()> {
        self.flow.system.process(Which::Callback)?.pause()?;
        for delay in self.flow.system.retry_delays_ms() {
            self.flow.queue_reaches(&format!("{SUBSCRIPTION}.retry.{delay}"), 0).await?;
        }
        self.flow.queue_reaches(SUBSCRIPTION, 0).await
    }

    /// Ends [`Self::nobody_checks`].
    ///
    /// # Errors
    /// When callback has ended.
    pub fn checks(&self) -> anyhow::Result<()> {
        self.flow.system.process(Which::Callback)?.resume()
    }

    /// Starts downstream as [`Self::start`] does, without waiting for it.
    ///
    /// # Errors
    /// When its binary is missing.
    pub fn spawn(&mut self, prefetch: u32, failpoints: &str) -> anyhow::Result<()> {
        let prefetch = format!("prefetch = {prefetch}");
        edit(&self.flow.ground.path("downstream.toml"), |text| with_line(&text, "prefetch =", &prefetch))?;
        let program = self.program();
        self.flow.system.spawn_as(Which::Downstream, program, failpoints)
    }

    /// Starts a further downstream beside the one of [`Self::start`], whose address it leaves free, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn start_another(&mut self, name: &str, keys: &[(&str, &str)], failpoints: &str) -> anyhow::Result<Running> {
        let file = self.flow.ground.path(&format!("{name}.toml"));
        std::fs::copy(self.flow.ground.path("downstream.toml"), &file)?;
        edit(&file, |text| {
            keys.iter().fold(text, |text, (section, keys)| text.replacen(section, &format!("{section}\n{keys}"), 1))
        })?;
        let http = free_port()?;
        for (section, port) in [("[http]", http), ("[grpc]", free_port()?)] {
            edit(&file, |text| at_port(&text, section, port))?;
        }
        let program = Program::new(binary(self.program())?)
            .arg("--config")
            .arg(&file)
            .env("FAILPOINTS", failpoints)
            .current_dir(self.flow.ground.dir())
            .log_to(self.flow.ground.path(&format!("{name}.log")))
            .spawn()?;
        let url = format!("http://127.0.0.1:{http}/health/ready");
        let ready = async || reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success());
        wait_until(&format!("{name} to be ready"), PATIENCE, ready).await.with_context(|| program.log_text())?;
        self.put_on_stock().await?;
        Ok(program)
    }

    /// Enough of everything for the business to take.
    async fn put_on_stock(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.stocked, true) {
            return Ok(());
        }
        let Some(database) = self.stock().await? else { return Ok(()) };
        for item in (0..CONCURRENCY).map(held_item).chain([FREE.to_owned()]) {
            let insert = format!("INSERT INTO stock (item, pieces) VALUES ('{item}', 1000000) ON CONFLICT DO NOTHING");
            database.execute_unprepared(&insert).await?;
        }
        Ok(database.close().await?)
    }

    async fn stock(&self) -> anyhow::Result<Option<DatabaseConnection>> {
        let Some(url) = &self.stock else { return Ok(None) };
        let mut options = ConnectOptions::new(url);
        options.max_connections(1).sqlx_logging(false);
        Ok(Some(Database::connect(options).await?))
    }

    /// The first so many of the next messages stay in the handler, as far as that can be ([`Self::can_hold`]); at most [`CONCURRENCY`].
    ///
    /// # Errors
    /// When the business does not take the wish.
    pub async fn hold(&mut self, count: u32, hold: Hold) -> anyhow::Result<()> {
        match (self.stock().await?, hold) {
            (None, Hold::BeforeEffect) => self.behave(json!({"for": count, "delay_ms": HOLD_MS})).await,
            (None, Hold::AfterEffect(ms)) => self.behave(json!({"for": count, "delay_after_ms": ms})).await,
            (Some(database), _) if self.can_hold() => {
                // Their handlers wait for the lock on the row of their item.
                let transaction = database.begin().await?;
                for number in 0..count {
                    let lock = format!("UPDATE stock SET pieces = pieces WHERE item = '{}'", held_item(number));
                    transaction.execute_unprepared(&lock).await?;
                }
                self.hold = Some(transaction);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn behave(&self, wish: serde_json::Value) -> anyhow::Result<()> {
        self.flow.system.behave(&wish).await
    }

    /// How many messages are in the handler, held there.
    ///
    /// # Errors
    /// When the business does not answer.
    pub async fn held(&self) -> anyhow::Result<u64> {
        let Some(database) = self.stock().await? else { return Ok(self.flow.system.look().counts().await?.in_flight) };
        let query =
            "SELECT count(*) AS held FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let row = database.query_one_raw(sql(&database, query)).await?.context("no row")?;
        Ok(u64::try_from(row.try_get::<i64>("", "held")?)?)
    }

    /// Whether a transaction that writes is open in the business's `SQLite` database.
    ///
    /// # Errors
    /// When there is no such database, or it answers something else.
    pub async fn is_writing(&self) -> anyhow::Result<bool> {
        let mut options = ConnectOptions::new(self.stock.as_ref().context("no database")?);
        options.max_connections(1).sqlx_logging(false).map_sqlx_sqlite_opts(|options| options.busy_timeout(Duration::ZERO));
        let database = Database::connect(options).await?;
        match database.execute_unprepared("BEGIN IMMEDIATE").await {
            Ok(_) => database.execute_unprepared("ROLLBACK").await.map(|_| false).context("rolling back"),
            Err(error) if error.to_string().contains("locked") => Ok(true),
            Err(error) => Err(error).context("beginning"),
        }
    }

    /// Holds nothing any more; of a handler whose caller is dead nothing is under way when this returns.
    ///
    /// # Errors
    /// When something still is after [`PATIENCE`].
    pub async fn let_go(&mut self) -> anyhow::Result<()> {
        if let Some(transaction) = self.hold.take() {
            transaction.rollback().await?;
        }
        if self.guard.in_transaction() {
            return Ok(());
        }
        self.behave(json!({})).await?;
        wait_until("the calls of the dead to end", PATIENCE, async || self.held().await.is_ok_and(|held| held == 0)).await
    }

    /// Sends messages, of which the first [`CONCURRENCY`] are those that can be held; their ids.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn send(&mut self, count: u32) -> anyhow::Result<Vec<String>> {
        self.send_with(count, |number| if number < CONCURRENCY { held_item(number) } else { FREE.to_owned() }).await
    }

    /// Sends messages that are not held; their ids.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn send_free(&mut self, count: u32) -> anyhow::Result<Vec<String>> {
        self.send_with(count, |_| FREE.to_owned()).await
    }

    async fn send_with(&mut self, count: u32, item: fn(u32) -> String) -> anyhow::Result<Vec<String>> {
        let first = self.sent;
        self.sent += count;
        let messages = (0..count).map(|number| {
            let item = item(number);
            let body = json!({"order": first + number, "item": item, "pieces": 1});
            NewMessage { body: body.to_string().into(), ..order(first + number) }
        });
        let request = SendMessagesRequest { messages: messages.collect() };
        let results = self.flow.upstream().await?.send_messages(request).await?.into_inner().results;
        let accepted = results.into_iter().map(|result| match result.result {
            Some(Sent::Accepted(accepted)) => Ok(accepted.id),
            other => bail!("not accepted: {other:?}"),
        });
        accepted.collect()
    }

    /// The effects of each of these messages, as the business has them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn effects(&self, ids: &[String]) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut effects = match self.stock().await? {
            None => self.flow.system.effects().await?.effects,
            Some(database) => {
                let query = "SELECT message_id, count(*) AS effects FROM movement GROUP BY message_id";
                let rows = database.query_all_raw(sql(&database, query)).await?;
                let read = |row: &sea_orm::QueryResult| {
                    anyhow::Ok((row.try_get("", "message_id")?, u64::try_from(row.try_get::<i64>("", "effects")?)?))
                };
                rows.iter().map(read).collect::<anyhow::Result<_>>()?
            }
        };
        Ok(ids.iter().map(|id| (id.clone(), effects.remove(id).unwrap_or_default())).collect())
    }

    /// Waits until so many of these messages have had an effect.
    ///
    /// # Errors
    /// When they have not after [`PATIENCE`].
    pub async fn effects_reach(&self, ids: &[String], count: usize) -> anyhow::Result<()> {
        let what = format!("{count} of {} messages to have an effect", ids.len());
        let reached = async || {
            let effects = self.effects(ids).await;
            effects.is_ok_and(|effects| effects.values().filter(|effects| **effects > 0).count() >= count)
        };
        wait_until(&what, PATIENCE, reached).await
    }

    /// The possible duplicates that the downstream of [`Self::start`] has counted in its present life.
    ///
    /// # Errors
    /// When it does not answer, or its log tells of another number.
    pub async fn counted(&self) -> anyhow::Result<u64> {
        let metric = self.flow.system.metric(Which::Downstream, POSSIBLE_DUPLICATES).await?;
        let logged = counted_by(self.flow.system.process(Which::Downstream)?);
        #[allow(clippy::cast_precision_loss, reason = "a few dozen")]
        let agree = (metric - logged as f64).abs() < f64::EPSILON;
        ensure!(agree, "{metric} possible duplicates counted, {logged} logged");
        Ok(logged)
    }

    /// Loses all that Redis has for this test.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn lose_redis(&self) -> anyhow::Result<()> {
        self.flow.ground.empty_redis().await
    }
}

fn held_item(number: u32) -> String {
    format!("{HELD}-{number}")
}

fn sql(database: &DatabaseConnection, query: &str) -> Statement {
    Statement::from_string(database.get_database_backend(), query)
}

/// The possible duplicates of a process by its log: one line each.
#[must_use]
pub fn counted_by(process: &Running) -> u64 {
    process.log_text().matches(COUNTED).count() as u64
}

fn edit(file: &PathBuf, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    Ok(std::fs::write(file, change(text))?)
}

/// The text with another line in the place of each that begins so.
fn with_line(text: &str, beginning: &str, line: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|old| if old.starts_with(beginning) { line } else { old }).collect();
    lines.join("\n") + "\n"
}

/// The configuration with another port to listen at in one section.
fn at_port(text: &str, section: &str, port: u16) -> String {
    let Some((before, after)) = text.split_once(section) else { return text.to_owned() };
    let lines: Vec<&str> = after.splitn(3, '\n').collect();
    let rest = lines.get(2).copied().unwrap_or_default();
    format!("{before}{section}\nlisten = \"127.0.0.1:{port}\"\n{rest}")
}
