//! Putting a downstream together: handlers, configuration, adapters. The one file that names the adapters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Context, Dependency, Stop};
use countersign_broker::Broker;
use countersign_dedup::RedisClaims;
use countersign_delivery::Topology;
use countersign_delivery::horizon::resend_horizon_ms;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumers, Publisher};
use countersign_delivery::topology::Subscription;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acknowledge::{Post, Signer};
use crate::arrived::Held;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::consume::{Bounds, Lane};
use crate::copies::Copies;
use crate::dead_letters::{Busy, DeadLetters};
use crate::desk::{Desk, Times};
use crate::error::Error;
use crate::gate::Gate;
use crate::handler::Handler;
use crate::http::HttpHandler;
use crate::receive::{Reception, Rules};
use crate::{dead, grpc, topology_check};
use countersign_telemetry::with_sources;

/// A downstream with its handlers.
pub struct Service {
    config: Config,
    handlers: Vec<(String, Arc<dyn Handler>)>,
}

impl Service {
    /// A downstream that delivers by HTTP what its configuration gives an endpoint.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, handlers: Vec::new() }
    }

    /// Has a subscription handled by `handler`, in this process.
    #[must_use]
    pub fn handle(mut self, subscription: &str, handler: impl Handler + 'static) -> Self {
        self.handlers.push((subscription.to_owned(), Arc::new(handler)));
        self
    }

    /// Sets it up and returns; its tasks live until the context stops. Servers that are away are waited for, and readiness says so.
    ///
    /// # Errors
    /// [`Error`] when code, configuration and topology contradict each other, or the address of gRPC is taken.
    pub async fn run(self, context: Context) -> Result<(), Error> {
        let config = self.config;
        let topology = config.topology.load()?;
        let handlers = handlers_of(&config, self.handlers, &topology)?;
        if handlers.is_empty() {
            tracing::warn!("no subscription has a handler: add [[downstream.subscription]] with name and endpoint");
        }
        let broker =
            Broker::connect(config.broker.clone(), &config.downstream.name, &TaskTracker::new(), context.stop.hard_token())?;
        watch_broker(&context, &broker);
        let all_there = topology_check::watch(&context, config.broker.clone(), topology.clone(), config.topology.apply);

        let claims = RedisClaims::connect(&config.claims(&topology.prefix))?;
        let gate = Gate::new(context.health.dependency("redis"));
        watch_redis(&context, claims.clone(), gate.clone(), Duration::from_millis(config.redis.retry_pause_ms));

        let consumers: Arc<dyn Consumers> = Arc::new(broker.clone());
        let publisher: Arc<dyn Publisher> = Arc::new(broker);
        let dead_letters = dead_letters(&context, &config, &topology, consumers.clone(), publisher.clone());
        let parts = Parts::new(&context, &config, &topology, publisher, claims, gate);
        for (subscription, handler) in handlers {
            let lane = Arc::new(parts.lane(&context, &config, subscription, handler, consumers.clone()));
            let name = lane.reception.subscription.name.clone();
            let dead_letters = dead::run(lane.clone(), consumers.clone(), context.stop.clone());
            context.tasks.critical(format!("dead letters of {name}"), once(&all_there, &context.stop, dead_letters));
            context.tasks.critical(format!("consume {name}"), once(&all_there, &context.stop, lane.run()));
        }
        context.serve_grpc(grpc::services(dead_letters)).await?;
        Ok(())
    }
}

/// Does `work` once every queue is there; nothing, if soft stop comes first.
fn once(
    all_there: &CancellationToken,
    stop: &Stop,
    work: impl Future<Output = Result<(), PortError>> + Send + 'static,
) -> impl Future<Output = Result<(), PortError>> + Send + 'static {
    let (all_there, stop) = (all_there.clone(), stop.clone());
    async move {
        tokio::select! {
            () = stop.soft() => Ok(()),
            () = all_there.cancelled() => work.await,
        }
    }
}

fn dead_letters(
    context: &Context,
    config: &Config,
    topology: &Topology,
    consumers: Arc<dyn Consumers>,
    publisher: Arc<dyn Publisher>,
) -> DeadLetters {
    let memory_ms = config.downstream.dedup_retention_ms;
    DeadLetters {
        consumers,
        publisher,
        memories_ms: topology.subscriptions.iter().map(|subscription| (subscription.name.to_string(), memory_ms)).collect(),
        topology: topology.clone(),
        clock: context.clock.clone(),
        tasks: context.tasks.clone(),
        stop: context.stop.clone(),
        busy: Busy::default(),
    }
}

/// What all subscriptions of a process share.
struct Parts {
    desk: Desk,
    copies: Copies,
    signer: Signer,
    gate: Gate,
    quarantine: String,
}

impl Parts {
    fn new(
        context: &Context,
        config: &Config,
        topology: &Topology,
        publisher: Arc<dyn Publisher>,
        claims: RedisClaims,
        gate: Gate,
    ) -> Self {
        let own = &config.downstream;
        let times = Times { lease_ms: own.lease_ms, retention_ms: own.dedup_retention_ms };
        let post = Post {
            publisher: publisher.clone(),
            ids: context.ids.clone(),
            queue: topology.receipts_queue(),
            name: own.name.clone(),
            stop: context.stop.clone(),
        };
        Self {
            desk: Desk::open(&context.tasks, &context.stop, Arc::new(claims), gate.clone(), times, own.max_batch),
            copies: Copies::new(publisher),
            signer: Signer::start(&context.tasks, post, own.max_batch, Duration::from_millis(own.receipt_linger_ms)),
            gate,
            quarantine: topology.quarantine_queue(),
        }
    }

    fn lane(
        &self,
        context: &Context,
        config: &Config,
        subscription: Subscription,
        handler: Arc<dyn Handler>,
        consumers: Arc<dyn Consumers>,
    ) -> Lane {
        let own = &config.downstream;
        let figures = own.figures(subscription.name.as_str());
        let rules = Rules {
            on_unknown: figures.on_unknown,
            max_crashes: figures.max_crashes,
            dedup_retention_ms: own.dedup_retention_ms,
        };
        let reception = Reception {
            subscription,
            quarantine: self.quarantine.clone(),
            handler,
            timeout_ms: figures.timeout_ms,
            rules,
            name: own.name.clone(),
            desk: self.desk.clone(),
            copies: self.copies.clone(),
            signer: self.signer.clone(),
            held: Held::default(),
            breaker: Arc::new(Breaker::new(own.breaker_failures, Duration::from_millis(own.breaker_pause_ms))),
            clock: context.clock.clone(),
            ids: context.ids.clone(),
        };
        let bounds = Bounds {
            prefetch: figures.prefetch,
            concurrency: figures.concurrency,
            max_batch: own.max_batch,
            lease: Duration::from_millis(own.lease_ms),
            progress_after: Duration::from_millis(own.progress_after_ms),
        };
        let (stop, tasks) = (context.stop.clone(), context.tasks.clone());
        Lane { reception, consumers, gate: self.gate.clone(), bounds, stop, tasks }
    }
}

type Handlers = Vec<(Subscription, Arc<dyn Handler>)>;

/// Who handles what, checked against the topology.
fn handlers_of(config: &Config, in_process: Vec<(String, Arc<dyn Handler>)>, topology: &Topology) -> Result<Handlers, Error> {
    let mut problems = Vec::new();
    let mut named: BTreeMap<String, Arc<dyn Handler>> = BTreeMap::new();
    for (name, handler) in in_process {
        if named.insert(name.clone(), handler).is_some() {
            problems.push(format!("subscription {name} has two handlers in code: keep one"));
        }
    }
    for section in &config.downstream.subscriptions {
        let figures = config.downstream.figures(&section.name);
        match (&section.endpoint, named.contains_key(&section.name)) {
            (Some(_), true) => {
                problems.push(format!("subscription {} has a handler in code and an endpoint: keep one", section.name));
            }
            (None, false) => {
                problems.push(format!("subscription {} has neither endpoint nor handler: give it an endpoint", section.name));
            }
            (None, true) => {}
            (Some(endpoint), false) => {
                let connections = usize::try_from(figures.concurrency).unwrap_or(usize::MAX);
                match HttpHandler::new(endpoint, Duration::from_millis(figures.timeout_ms), connections) {
                    Ok(handler) => drop(named.insert(section.name.clone(), Arc::new(handler))),
                    Err(problem) => problems.push(format!("subscription {}: {problem}", section.name)),
                }
            }
        }
    }
    let mut handlers = Vec::new();
    for (name, handler) in named {
        match subscription_of(&name, config, topology) {
            Ok(subscription) => handlers.push((subscription, handler)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(handlers) } else { Err(Error::Unsound(problems)) }
}

fn subscription_of(name: &str, config: &Config, topology: &Topology) -> Result<Subscription, String> {
    let Some(subscription) = topology.subscriptions.iter().find(|subscription| subscription.name.as_str() == name) else {
        return Err(format!("subscription {name} is not in the topology: add [[subscription]] there, or correct topology.file"));
    };
    if !subscription.probes {
        return Err(format!(
            "subscription {name} has `probes = false` in the topology, but this consumer signs probes: remove it"
        ));
    }
    let own = &config.downstream;
    let horizon = resend_horizon_ms(topology, subscription, &config.policy, own.figures(name).timeout_ms, own.lease_ms);
    if own.dedup_retention_ms < horizon {
        return Err(format!(
            "downstream.dedup_retention_ms is {}, but a message of {name} can be sent again after {horizon} ms: raise it above that",
            own.dedup_retention_ms
        ));
    }
    Ok(subscription.clone())
}

fn watch_broker(context: &Context, broker: &Broker) {
    let (shown, mut state, stop) = (context.health.dependency("broker"), broker.state(), context.stop.clone());
    let show = |shown: &Dependency, state: &countersign_broker::State| {
        if state.is_up() { shown.ready() } else { shown.unready(state.to_string()) }
    };
    let watching = async move {
        loop {
            show(&shown, &state.borrow_and_update().clone());
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    drop(context.tasks.spawn("watch the broker", async move { stop.soft_token().run_until_cancelled_owned(watching).await }));
}

/// Opens the gate while Redis accepts writes; closes it when it is found away although nobody made a claim.
fn watch_redis(context: &Context, claims: RedisClaims, gate: Gate, pause: Duration) {
    let watching = async move {
        loop {
            match claims.ping().await {
                Ok(()) => gate.open(),
                Err(error) => {
                    gate.close(&with_sources(&error));
                    claims.up().await;
                    continue;
                }
            }
            tokio::time::sleep(pause).await;
        }
    };
    drop(context.tasks.spawn("watch Redis", context.stop.soft_token().run_until_cancelled_owned(watching)));
}
