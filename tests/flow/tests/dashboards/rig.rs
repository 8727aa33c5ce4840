//! Services on a broker and a Redis of the test's own, and the Prometheus that scrapes them.

use std::time::SystemTime;

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, order, standings_at, subscriptions_at};
use countersign_launcher::{Prometheus, RabbitMq, Redis, SUBSCRIPTION, Target, Which, wait_until};
use countersign_wire::proto::{
    NewMessage, ParkDeliveryRequest, PauseSubscriptionRequest, ResumeSubscriptionRequest, SendMessagesRequest,
};
use serde_json::json;
use tempfile::TempDir;

use crate::bad_input::private::{Own, flow, ready, unready};

const VHOST: &str = "shop";
const BY: &str = "ann";
/// Messages that flow before and after everything.
const FLOWING: u32 = 40;
/// Messages that each fault hits.
const HIT: u32 = 3;

/// All of it.
pub struct Rig {
    pub prometheus: Prometheus,
    pub since: SystemTime,
    flow: Flow,
    redis: Redis,
    broker: RabbitMq,
    _dir: TempDir,
}

impl Rig {
    /// Starts everything, and waits until all of it has been scraped.
    pub async fn start(test: &str) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let (broker, redis) = tokio::try_join!(RabbitMq::start_with_metrics(dir.path()), Redis::start(dir.path()))?;
        broker.create_vhost(VHOST).await?;
        let own = Own { amqp: Some(broker.amqp_url(VHOST)), redis: Some(redis.url()), ..Own::default() };
        let mut flow = flow(test, own).await?;
        flow.configure(Which::Callback, "[callback]", "reconcile_interval_ms = 1000\ncanary_interval_ms = 1000")?;
        flow.start(&Which::ALL).await?;
        let service = |which: Which| Target { job: which.name().into(), url: format!("{}/metrics", flow.system.http_url(which)) };
        let mut targets = Vec::from(Which::ALL.map(service));
        targets.extend(broker.metrics_url().map(|url| Target { job: "rabbitmq".into(), url: format!("{url}/metrics") }));
        let prometheus = Prometheus::start(dir.path(), &targets).await?;
        let since = SystemTime::now();
        prometheus.targets_up().await?;
        Ok(Self { prometheus, since, flow, redis, broker, _dir: dir })
    }

    /// Messages lost, a receipt lost, a duplicate, a message that the handler rejects, acts of operators, a refused send, and Redis away.
    pub async fn everything_goes_wrong_once(&mut self) -> anyhow::Result<()> {
        let first = self.flow.send(0, FLOWING).await?;
        self.flow.all_signed(&first).await?;
        self.messages_are_lost().await?;
        self.receipts_are_lost().await?;
        self.flow.send_again(&first[..3]).await?;
        self.handler_rejects().await?;
        self.sends_are_refused().await?;
        self.redis_is_away().await?;
        let last = self.flow.send(1_000, FLOWING).await?;
        self.flow.all_signed(&last).await
    }

    /// While an operator has paused the subscription, so that they lie in the queue.
    async fn messages_are_lost(&self) -> anyhow::Result<()> {
        let mut desk = subscriptions_at(&self.flow.system.grpc_url(Which::Downstream)).await?;
        let (name, by) = (SUBSCRIPTION.to_owned(), BY.to_owned());
        desk.pause_subscription(PauseSubscriptionRequest { name: name.clone(), by: by.clone(), reason: "a purge".into() })
            .await?;
        let still = async || {
            let standings = standings_at(&self.flow.system.grpc_url(Which::Downstream)).await.unwrap_or_default();
            standings.iter().any(|one| one.name == SUBSCRIPTION && one.paused.is_some() && one.in_flight + one.waiting == 0)
        };
        wait_until("the subscription to stand still", PATIENCE, still).await?;
        let lost = self.flow.send(100, HIT).await?;
        self.waiting(SUBSCRIPTION, HIT).await?;
        // The broker's own figures are to be seen, too.
        self.sees("sum(rabbitmq_queue_messages_ready) > 0").await?;
        ensure!(self.broker.purge(VHOST, SUBSCRIPTION).await? >= HIT, "there was nothing to lose");
        desk.resume_subscription(ResumeSubscriptionRequest { name, by }).await?;
        self.flow.all_signed(&lost).await
    }

    async fn receipts_are_lost(&mut self) -> anyhow::Result<()> {
        self.flow.system.kill9(Which::Callback);
        let before = self.flow.system.effects().await?.distinct;
        let unsigned = self.flow.send(200, HIT).await?;
        self.flow.effects_reach(before + u64::from(HIT)).await?;
        self.waiting("countersign.receipts", 1).await?;
        self.flow.deliveries_settled(FLOWING + 2 * HIT).await?;
        self.broker.purge(VHOST, "countersign.receipts").await?;
        self.flow.start(&[Which::Callback]).await?;
        self.flow.all_signed(&unsigned).await
    }

    /// One message is rejected by the handler, another is parked by an operator.
    async fn handler_rejects(&self) -> anyhow::Result<()> {
        self.flow.system.behave(&json!({"status": 422})).await?;
        let rejected = self.flow.send(300, 1).await?;
        self.flow.all_in_state(&rejected, "parked").await?;
        self.flow.system.behave(&json!({"status": 503})).await?;
        let stuck = self.flow.send(301, 1).await?;
        self.flow.all_in_state(&stuck, "retrying").await?;
        let park = ParkDeliveryRequest { message_id: stuck[0].clone(), by: BY.into(), ..Default::default() };
        self.flow.callback().await?.park_delivery(park).await?;
        self.flow.system.behave(&json!({})).await?;
        self.flow.all_signed(&stuck).await
    }

    async fn sends_are_refused(&self) -> anyhow::Result<()> {
        let nobodys = NewMessage { routing_key: "nobody.wants.this".into(), ..order(400) };
        let request = SendMessagesRequest { messages: vec![nobodys] };
        let answer = self.flow.upstream().await?.send_messages(request).await?.into_inner();
        ensure!(answer.results.len() == 1, "{answer:?}");
        Ok(())
    }

    async fn redis_is_away(&self) -> anyhow::Result<()> {
        self.redis.pause()?;
        unready(&self.flow, &[Which::Downstream], "redis", &[]).await?;
        // For longer than the step of a dashboard: between two values nobody would see it.
        self.sees("max_over_time(countersign_dependency_ready{dependency=\"redis\"}[4s]) == 0").await?;
        self.redis.resume()?;
        ready(&self.flow).await
    }

    /// Waits until so many messages lie in a queue.
    async fn waiting(&self, queue: &str, least: u32) -> anyhow::Result<()> {
        let there = async || self.broker.queue_depth(VHOST, queue).await.is_ok_and(|depth| depth >= least);
        wait_until(&format!("{queue} to hold {least} messages"), PATIENCE, there).await
    }

    /// Waits until Prometheus has a figure for this.
    async fn sees(&self, expression: &str) -> anyhow::Result<()> {
        let seen = async || self.prometheus.query(expression).await.is_ok_and(|answer| !answer.is_empty());
        wait_until(expression, PATIENCE, seen).await
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.flow.finish().await
    }
}
