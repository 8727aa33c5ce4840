//! One message for three subscriptions: each signs for itself, and what one loses is sent again to that one alone.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Ledger, PATIENCE, Setup};
use countersign_launcher::{Extras, Program, Running, SUBSCRIPTION, Which, binary, wait_until};
use serde_json::json;

/// Beside the one that there always is, each with a business of its own.
const OTHERS: [&str; 2] = ["billing.orders", "mailing.orders"];
const ORDERS: u32 = 5;

struct FanOut {
    flow: Flow,
    businesses: Vec<(Running, String)>,
}

impl FanOut {
    async fn new(test: &str) -> anyhow::Result<Self> {
        let subscription = |name| {
            format!(
                "[[subscription]]\nname = \"{name}\"\nretry_delays_ms = [250]\n\
                 bind = [{{ exchange = \"orders\", routing_key = \"order.created.#\" }}]\n"
            )
        };
        let topology = OTHERS.map(subscription).join("\n");
        let extras = Extras { topology, ..Extras::default() };
        let flow = Flow::with_extras(test, Setup { postgres: false, max_batch: 256 }, extras).await?;
        flow.figure("probe_grace_ms", 4_000)?;
        let file = flow.ground.path("downstream.toml");
        let mut parts = vec![std::fs::read_to_string(&file)?];
        let mut businesses = Vec::new();
        for name in OTHERS {
            let business = Program::new(binary("order-handler")?)
                .arg("--database")
                .arg(flow.ground.path(&format!("{name}.db")))
                .log_to(flow.ground.path(&format!("{name}.log")))
                .spawn()?;
            let line = business.wait_for_log("listening on ", PATIENCE).await?;
            let url = format!("http://{}", line.trim_start_matches("listening on "));
            parts.push(format!("\n[[downstream.subscription]]\nname = \"{name}\"\nendpoint = \"{url}/orders\"\n"));
            businesses.push((business, url));
        }
        std::fs::write(&file, parts.concat())?;
        Ok(Self { flow, businesses })
    }

    /// Sends orders, and loses them in these queues before anybody is there.
    async fn lose_in(&mut self, losers: &[&str]) -> anyhow::Result<Vec<String>> {
        self.flow.start(&[Which::Upstream]).await?;
        let ids = self.flow.send(0, ORDERS).await?;
        for name in all() {
            self.flow.queue_reaches(name, ORDERS).await?;
        }
        for name in losers {
            ensure!(self.flow.ground.purge(name).await? == ORDERS, "the purge of {name} did not hit all");
        }
        self.flow.start(&[Which::Downstream, Which::Callback]).await?;
        Ok(ids)
    }

    async fn stands(&self, ids: &[String], name: &str, state: &str) -> anyhow::Result<()> {
        for id in ids {
            let what = format!("{id} to be {state} for {name}");
            wait_until(&what, PATIENCE, async || self.flow.state_of(id, name).await.is_ok_and(|is| is == state)).await?;
        }
        Ok(())
    }

    /// How often downstream was given something for this subscription, duplicates included.
    async fn delivered(&self, name: &str) -> anyhow::Result<f64> {
        let label = format!("subscription=\"{name}\"");
        self.flow.system.look().metric(Which::Downstream, "countersign_consume_total", &label).await
    }

    /// Each business had each order once, by its own database.
    async fn each_business_had_each_once(&self, ids: &[String]) -> anyhow::Result<()> {
        for (name, file) in all().zip(["orders.db", "billing.orders.db", "mailing.orders.db"]) {
            let calls = Ledger::open(&self.flow.ground.path(file)).await?.calls().await?;
            let once = ids.iter().all(|id| calls.get(id).is_some_and(|times| times.len() == 1));
            ensure!(once && calls.len() == ids.len(), "{name} was called {calls:?}");
        }
        Ok(())
    }
}

fn all() -> impl Iterator<Item = &'static str> {
    std::iter::once(SUBSCRIPTION).chain(OTHERS)
}

async fn lost_by(test: &str, losers: &[&str]) -> anyhow::Result<()> {
    let mut fan_out = FanOut::new(test).await?;
    let ids = fan_out.lose_in(losers).await?;
    for name in all() {
        fan_out.stands(&ids, name, "done").await?;
    }
    fan_out.each_business_had_each_once(&ids).await?;
    for name in all() {
        for id in &ids {
            if losers.contains(&name) {
                fan_out.flow.resent_once_because(id, name, "lost: what was sent before probe ").await?;
            } else {
                fan_out.flow.never_resent(id, name).await?;
            }
        }
        let delivered = fan_out.delivered(name).await?;
        ensure!((delivered - f64::from(ORDERS)).abs() < f64::EPSILON, "{name} was given {delivered} deliveries of {ORDERS}");
    }
    fan_out.flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sign_for_themselves() -> anyhow::Result<()> {
    lost_by("fan_out_none", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_of_three_loses_is_sent_again_to_that_one_alone() -> anyhow::Result<()> {
    lost_by("fan_out_one", &OTHERS[..1]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_of_three_lose_is_sent_again_to_those_two() -> anyhow::Result<()> {
    lost_by("fan_out_two", &OTHERS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_of_three_refuses_is_parked_for_that_one_and_done_for_the_others() -> anyhow::Result<()> {
    let mut fan_out = FanOut::new("fan_out_parked").await?;
    let (_, url) = fan_out.businesses.first().context("no business")?;
    reqwest::Client::new().post(format!("{url}/behave")).json(&json!({"status": 422})).send().await?.error_for_status()?;
    let ids = fan_out.lose_in(&[]).await?;
    fan_out.stands(&ids, OTHERS[0], "parked").await?;
    for id in &ids {
        fan_out.flow.parked_because(id, OTHERS[0], "rejected").await?;
    }
    for name in [SUBSCRIPTION, OTHERS[1]] {
        fan_out.stands(&ids, name, "done").await?;
        for id in &ids {
            fan_out.flow.never_resent(id, name).await?;
        }
    }
    fan_out.flow.finish().await
}
