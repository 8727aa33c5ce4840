//! Flow tests: the real binaries on real servers, one file of `tests/` per way to lose a message.
//!
//! Each test runs on both databases, and both in batches and in the plain scheme (one delayed message per message):
//! [`everywhere!`]. Effects are counted by the business service in its own database, so what is asserted owes nothing to
//! our books.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame; the ban is for the product")]

mod again;
mod book;
mod crew;
mod disturb;
mod either;
mod foreign;
mod gate;
mod guarded;
mod ledger;
pub mod spans;
mod standings;
mod straight;
mod usage;
mod verdicts;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use countersign_launcher::{Extras, Ground, SUBSCRIPTION, System, Which, Wiring, wait_until};
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use countersign_wire::proto::dead_letter_service_client::DeadLetterServiceClient;
use countersign_wire::proto::reconciliation_service_client::ReconciliationServiceClient;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{self, NewMessage, SendMessagesRequest};
use tonic::transport::{Channel, Endpoint};

pub use book::{Book, Table};
pub use crew::{Crew, counted_twice};
pub use either::is_final;
pub use foreign::{AUDIT, Language, audit, id_in, shipped};
pub use gate::{Gate, Side};
pub use guarded::{CONCURRENCY, Guarded, Hold, counted_by};
pub use ledger::Ledger;
pub use standings::{standings_at, subscriptions_at};
pub use straight::Straight;
pub use usage::Usage;
pub use verdicts::Said;

/// From the publish to the first look in these tests, milliseconds.
pub const CHECK_DELAY_MS: u64 = 1_000;
/// A queue without a consumer, which takes its messages while the orders' one is unbound.
pub const WITNESS: &str = r#"
[[subscription]]
name = "witness"
probes = false
retry_delays_ms = [250]
bind = [{ exchange = "orders", routing_key = "witness.#" }]
"#;
/// How long any one thing may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Where a test runs.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// PostgreSQL instead of SQLite.
    pub postgres: bool,
    /// Receipts and checks per message of the broker.
    pub max_batch: u32,
}

/// Makes four tests of one: on SQLite and on PostgreSQL, in batches and plain.
#[macro_export]
macro_rules! everywhere {
    ($test:ident) => {
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite_in_batches() -> anyhow::Result<()> {
                super::$test($crate::Flow::new(stringify!($test), $crate::Setup { postgres: false, max_batch: 256 }).await?).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite_plain() -> anyhow::Result<()> {
                super::$test($crate::Flow::new(stringify!($test), $crate::Setup { postgres: false, max_batch: 1 }).await?).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres_in_batches() -> anyhow::Result<()> {
                super::$test($crate::Flow::new(stringify!($test), $crate::Setup { postgres: true, max_batch: 256 }).await?).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres_plain() -> anyhow::Result<()> {
                super::$test($crate::Flow::new(stringify!($test), $crate::Setup { postgres: true, max_batch: 1 }).await?).await
            }
        }
    };
}

/// A test's own corner of the servers with the services wired to it; none of them is started.
#[derive(Debug)]
pub struct Flow {
    /// The services.
    pub system: System,
    /// The servers.
    pub ground: Ground,
}

impl Flow {
    /// Takes a corner of the servers and wires the services to it.
    ///
    /// # Errors
    /// When a server or binary is missing.
    pub async fn new(test: &str, setup: Setup) -> anyhow::Result<Self> {
        Self::wired(test, setup, None, Extras::default()).await
    }

    /// As [`Self::new`], with further subscriptions, or another handler.
    ///
    /// # Errors
    /// When a server or binary is missing.
    pub async fn with_extras(test: &str, setup: Setup, extras: Extras) -> anyhow::Result<Self> {
        Self::wired(test, setup, None, extras).await
    }

    /// As [`Self::new`], with traces exported to this OTLP address.
    ///
    /// # Errors
    /// When a server or binary is missing.
    pub async fn with_traces(test: &str, setup: Setup, otlp: Option<String>) -> anyhow::Result<Self> {
        Self::wired(test, setup, otlp, Extras::default()).await
    }

    async fn wired(test: &str, setup: Setup, otlp: Option<String>, extras: Extras) -> anyhow::Result<Self> {
        let ground = Ground::new(test).await?;
        let (upstream_database, callback_database) = if setup.postgres {
            (ground.database("up").await?, ground.database("msg").await?)
        } else {
            (ground.sqlite("upstream"), ground.sqlite("msg"))
        };
        let wiring = Wiring {
            dir: ground.dir().to_owned(),
            amqp: ground.amqp_url(),
            redis: ground.redis_url().to_owned(),
            upstream_database,
            callback_database,
            max_batch: setup.max_batch,
            check_delay_ms: CHECK_DELAY_MS,
            handler_mode: "count",
            otlp,
        };
        Ok(Self { system: System::prepare_with(wiring, extras).await?, ground })
    }

    /// Starts services without failpoints.
    ///
    /// # Errors
    /// When one is not ready in time.
    pub async fn start(&mut self, which: &[Which]) -> anyhow::Result<()> {
        for which in which {
            self.system.start(*which, "").await?;
        }
        Ok(())
    }

    /// A client of upstream.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn upstream(&self) -> anyhow::Result<UpstreamServiceClient<Channel>> {
        Ok(UpstreamServiceClient::new(self.channel_to(Which::Upstream).await?))
    }

    /// A client of callback.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn callback(&self) -> anyhow::Result<CallbackServiceClient<Channel>> {
        Ok(CallbackServiceClient::new(self.channel_to(Which::Callback).await?))
    }

    /// A client of callback's third net.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reconciliation(&self) -> anyhow::Result<ReconciliationServiceClient<Channel>> {
        Ok(ReconciliationServiceClient::new(self.channel_to(Which::Callback).await?))
    }

    pub(crate) async fn channel_to(&self, which: Which) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(self.system.grpc_url(which))?.timeout(PATIENCE).connect().await?)
    }

    /// Sends orders `first..first + count`, each under its own idempotency key, and returns their ids.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn send(&self, first: u32, count: u32) -> anyhow::Result<Vec<String>> {
        let messages = (first..first + count).map(order).collect();
        let answer = self.upstream().await?.send_messages(SendMessagesRequest { messages }).await?;
        let accepted = answer.into_inner().results.into_iter().map(|result| match result.result {
            Some(Sent::Accepted(accepted)) => Ok(accepted.id),
            other => bail!("not accepted: {other:?}"),
        });
        accepted.collect()
    }

    /// Every delivery that callback knows, whatever its state.
    ///
    /// # Errors
    /// When callback does not answer.
    pub async fn deliveries(&self) -> anyhow::Result<Vec<proto::Delivery>> {
        let mut callback = self.callback().await?;
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListDeliveriesRequest { page_size: 1_000, page_token, ..Default::default() };
            let page = callback.list_deliveries(request).await?.into_inner();
            found.extend(page.deliveries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Waits until callback has a `done` receipt for each of these messages.
    ///
    /// # Errors
    /// When one is missing after [`PATIENCE`]; the error says how they stand.
    pub async fn all_signed(&self, ids: &[String]) -> anyhow::Result<()> {
        self.all_in_state(ids, "done").await
    }

    /// Waits until callback has each of these messages in this state.
    ///
    /// # Errors
    /// When one is not after [`PATIENCE`]; the error says how they stand.
    pub async fn all_in_state(&self, ids: &[String], state: &str) -> anyhow::Result<()> {
        let wanted: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        let what = format!("{} messages to be {state}", ids.len());
        let reached = wait_until(&what, PATIENCE, async || {
            let Ok(deliveries) = self.deliveries().await else { return false };
            let there = deliveries.iter().filter(|delivery| delivery.state == state).map(|delivery| delivery.message_id.as_str());
            wanted.is_subset(&there.collect())
        });
        if let Err(error) = reached.await {
            let deliveries = self.deliveries().await?;
            let stand =
                deliveries.iter().map(|delivery| format!("{} {} {}", delivery.message_id, delivery.state, delivery.reason));
            bail!("{error}; they stand: {:?}; wanted {ids:?}", stand.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Waits until the business service has seen at least so many distinct orders.
    ///
    /// # Errors
    /// When it has not after [`PATIENCE`].
    pub async fn effects_reach(&self, distinct: u64) -> anyhow::Result<()> {
        let what = format!("{distinct} effects");
        wait_until(&what, PATIENCE, async || self.system.effects().await.is_ok_and(|effects| effects.distinct >= distinct)).await
    }

    /// Asserts that each of these messages has had exactly one effect, and nothing else has had any.
    ///
    /// # Errors
    /// When one has none or several.
    pub async fn each_effected_once(&self, ids: &[String]) -> anyhow::Result<()> {
        let effects = self.system.effects().await?.effects;
        for id in ids {
            ensure!(effects.get(id) == Some(&1), "message {id} has {:?} effects", effects.get(id));
        }
        ensure!(effects.len() == ids.len(), "{} messages have effects, {} were sent", effects.len(), ids.len());
        Ok(())
    }

    /// How many messages are ready in the work queue.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn work_queue_depth(&self) -> anyhow::Result<u32> {
        self.ground.queue_depth(SUBSCRIPTION).await
    }

    /// Waits until a queue holds exactly so many ready messages.
    ///
    /// # Errors
    /// When it does not after [`PATIENCE`].
    pub async fn queue_reaches(&self, queue: &str, depth: u32) -> anyhow::Result<()> {
        let what = format!("queue {queue} to hold {depth} messages");
        wait_until(&what, PATIENCE, async || self.ground.queue_depth(queue).await.is_ok_and(|found| found == depth)).await
    }

    /// Waits until exactly so many dead letters of a subscription (empty: anywhere) have been taken in and wait.
    ///
    /// # Errors
    /// When they have not after [`PATIENCE`].
    pub async fn dead_letters_reach(&self, subscription: &str, count: usize) -> anyhow::Result<()> {
        let what = format!("{count} dead letters of {subscription:?} to wait");
        let waited =
            wait_until(&what, PATIENCE, async || self.dead_letters(subscription).await.is_ok_and(|found| found.len() == count))
                .await;
        let Err(error) = waited else { return Ok(()) };
        let found = self.dead_letters(subscription).await.context("and they cannot be listed")?;
        let words: Vec<_> = found
            .iter()
            .map(|letter| format!("{} {} at {}: {}", letter.message_id, letter.reason, letter.died_at_ms, letter.detail))
            .collect();
        let queued = self.ground.queue_depth(&format!("{subscription}.dead")).await;
        Err(error.context(format!("these wait: {words:#?}; in the queue: {queued:?}")))
    }

    /// The dead letters of a subscription (empty: anywhere) that wait for an operator, 1,000 at most.
    ///
    /// # Errors
    /// When callback does not answer.
    pub async fn dead_letters(&self, subscription: &str) -> anyhow::Result<Vec<proto::DeadLetter>> {
        let filter = proto::DeadLetterFilter { subscription: subscription.to_owned(), ..Default::default() };
        let request = proto::ListDeadLettersRequest { filter: Some(filter), page_size: 1_000, ..Default::default() };
        let channel = self.channel_to(Which::Callback).await?;
        Ok(DeadLetterServiceClient::new(channel).list_dead_letters(request).await?.into_inner().letters)
    }

    /// How often history says `what` of one message.
    ///
    /// # Errors
    /// When callback does not know it.
    pub async fn history(&self, id: &str, what: &str) -> anyhow::Result<usize> {
        let request = proto::GetDeliveryRequest { message_id: id.to_owned() };
        let deliveries = self.callback().await?.get_delivery(request).await?.into_inner().deliveries;
        let lines = deliveries.iter().flat_map(|delivery| &delivery.history);
        Ok(lines.filter(|line| line.what == what).count())
    }

    /// Asserts that nobody has seen an invariant violated, and stops every service that runs, gracefully.
    ///
    /// # Errors
    /// When an invariant was violated, or a service does not stop as it should.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        for which in Which::REPLICATED {
            if self.system.process(which).is_ok() {
                let violations = self.system.metric(which, "countersign_invariant_violations_total").await?;
                ensure!(violations == 0.0, "{} counted {violations} violated invariants", which.name());
            }
        }
        for which in [Which::Upstream, Which::Replica, Which::Downstream, Which::Callback] {
            self.system.stop(which).await.with_context(|| format!("stopping {}", which.name()))?;
        }
        Ok(())
    }
}

/// Order number `number` as a message.
#[must_use]
pub fn order(number: u32) -> NewMessage {
    NewMessage {
        exchange: "orders".into(),
        routing_key: "order.created".into(),
        r#type: "order.created".into(),
        content_type: "application/json".into(),
        body: format!("{{\"order\":{number}}}").into(),
        idempotency_key: format!("order-{number}"),
        ..NewMessage::default()
    }
}
