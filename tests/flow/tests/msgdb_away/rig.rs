//! Services with an impatient callback, a steady stream of orders, and what has to hold while MSG DB is in trouble.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Postgres, Which, wait_until};
use countersign_wire::proto::RedriveDeliveryRequest;
use rustix::process::{Pid, Signal, kill_process};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tokio::time::interval;
use tonic::Code;

use crate::bad_input::private::{ready, unready};

/// Between two sends: a steady stream, and not a storm.
const PACE: Duration = Duration::from_millis(25);
/// Messages that are signed for before the fault: everything flows.
const FLOWING: f64 = 20.0;
/// So many more batches lie in a queue while MSG DB is away.
const MORE: u32 = 5;
const RECEIPTS: &str = "countersign_receipts_total";
const CHECKS: &str = "countersign_checks_total";
/// Few are handed out at a time, so that what waits is seen in the queue.
const FEW: &str = "receipts_prefetch = 2\nchecks_prefetch = 2";

/// What a fault is to look like from outside.
#[derive(Clone, Copy)]
pub struct Expected {
    /// Which of readiness' dependencies says so.
    pub dependency: &'static str,
    /// With these words, all of them.
    pub words: &'static [&'static str],
    /// Whether MSG DB can still be read: then checks of what is signed for are judged.
    pub can_be_read: bool,
}

/// Callback's time-outs, so short that a test sees them end; `keys` of `[database]` win.
pub fn impatient(flow: &Flow, keys: &str) -> anyhow::Result<()> {
    flow.configure(Which::Callback, "[database]", keys)?;
    flow.configure(Which::Callback, "[callback]", FEW)
}

/// The usual ones.
pub const SHORT: &str = "connect_timeout_ms = 500\nstatement_timeout_ms = 1000\nlock_timeout_ms = 500";

/// Has new sessions of MSG DB, which is on `PostgreSQL`, only read (`on`) or write again (`off`), and ends all but the test's own.
pub async fn read_only(session: &DatabaseConnection, value: &str) -> anyhow::Result<()> {
    // The test's own session stays as it is.
    let statements = format!(
        "SET default_transaction_read_only = off; DO $do$ BEGIN \
         EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}', current_database()); END $do$; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    );
    Ok(session.execute_unprepared(&statements).await.map(drop)?)
}

/// A server that stands still, with all sessions but the test's own: in the middle of whatever they were at, and nobody is told.
pub struct Frozen(Vec<Pid>);

impl Frozen {
    /// Freezes it.
    pub async fn freeze(postgres: &Postgres, session: &DatabaseConnection) -> anyhow::Result<Self> {
        const OTHERS: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        postgres.pause()?;
        let mut frozen = Vec::new();
        for row in session.query_all_raw(Statement::from_string(DbBackend::Postgres, OTHERS)).await? {
            let pid = Pid::from_raw(row.try_get("", "pid")?).context("pid 0")?;
            kill_process(pid, Signal::STOP)?;
            frozen.push(pid);
        }
        Ok(Self(frozen))
    }

    /// Lets it go on.
    pub fn thaw(&mut self, postgres: &Postgres) -> anyhow::Result<()> {
        for pid in self.0.drain(..) {
            kill_process(pid, Signal::CONT)?;
        }
        postgres.resume()
    }
}

/// Breaks MSG DB under load, asserts that nothing is judged and nothing acked meanwhile, mends it, and asserts that nothing came of it.
pub async fn through(
    mut flow: Flow,
    expected: Expected,
    break_it: impl AsyncFnOnce() -> anyhow::Result<()>,
    mend: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    under_load(flow, async |flow, first| {
        break_it().await?;
        unready(flow, &[Which::Callback], expected.dependency, expected.words).await?;
        stands_still(flow, expected, first).await?;
        mend().await
    })
    .await
}

/// Lets orders flow while `disturb` runs, which is given one that is signed for; then each is signed for, once done, and never sent again.
pub async fn under_load(flow: Flow, disturb: impl AsyncFnOnce(&Flow, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let first = flow.send(1_000_000, 1).await?;
    flow.all_signed(&first).await?;
    let over = AtomicBool::new(false);
    let disturbance = async {
        let disturbed = async {
            let flows = async || metric(&flow, RECEIPTS).await.is_ok_and(|count| count >= FLOWING);
            wait_until("messages to be signed for", PATIENCE, flows).await?;
            disturb(&flow, &first[0]).await?;
            ready(&flow).await
        };
        let outcome = disturbed.await;
        over.store(true, Ordering::Relaxed);
        outcome
    };
    let (ids, disturbed) = tokio::join!(send_until(&flow, &over), disturbance);
    disturbed?;
    let ids = [first, ids?].concat();
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for delivery in flow.deliveries().await? {
        ensure!(delivery.attempt.is_some_and(|attempt| attempt.number == 1), "sent again: {delivery:?}");
    }
    let resent = metric(&flow, "countersign_resend_orders_total").await?;
    ensure!(resent == 0.0, "{resent} resends were ordered, and nothing was lost");
    for queue in ["countersign.receipts", "countersign.checks", "countersign.quarantine"] {
        flow.queue_reaches(queue, 0).await?;
    }
    flow.finish().await
}

async fn metric(flow: &Flow, name: &str) -> anyhow::Result<f64> {
    flow.system.metric(Which::Callback, name).await
}

/// What comes lies in the queues, nothing is counted, and operators are told to try again.
async fn stands_still(flow: &Flow, expected: Expected, signed: &str) -> anyhow::Result<()> {
    let before = (metric(flow, RECEIPTS).await?, metric(flow, CHECKS).await?);
    let queues: &[&str] =
        if expected.can_be_read { &["countersign.receipts"] } else { &["countersign.receipts", "countersign.checks"] };
    for queue in queues {
        let depth = flow.ground.queue_depth(queue).await?;
        let what = format!("{queue} to grow");
        let grown = async || flow.ground.queue_depth(queue).await.is_ok_and(|now| now >= depth + MORE);
        wait_until(&what, PATIENCE, grown).await?;
    }
    let request = RedriveDeliveryRequest { message_id: signed.to_owned(), by: "ann".into(), ..Default::default() };
    let answer = flow.callback().await?.redrive_delivery(request).await;
    ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::Unavailable), "{answer:?}");
    let after = (metric(flow, RECEIPTS).await?, metric(flow, CHECKS).await?);
    ensure!(after.0 <= before.0, "receipts were recorded: {before:?}, then {after:?}");
    ensure!(expected.can_be_read || after.1 <= before.1, "checks were judged: {before:?}, then {after:?}");
    unready(flow, &[Which::Callback], expected.dependency, expected.words).await
}

/// Sends one order after the other until told to stop.
async fn send_until(flow: &Flow, over: &AtomicBool) -> anyhow::Result<Vec<String>> {
    let (mut ids, mut pace) = (Vec::new(), interval(PACE));
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        ids.extend(flow.send(number, 1).await?);
    }
    ensure!(!ids.is_empty(), "nothing was sent");
    Ok(ids)
}
