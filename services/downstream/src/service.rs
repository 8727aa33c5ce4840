//! Putting a downstream together: handlers, configuration, adapters. The one file that names the adapters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Context, Dependency, Secret, Stop};
use countersign_broker::Broker;
use countersign_dedup::RedisClaims;
use countersign_delivery::Topology;
use countersign_delivery::horizon::resend_horizon_ms;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumers, Publisher};
use countersign_delivery::topology::Subscription as InTopology;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acknowledge::{Post, Signer};
use crate::arrived::Held;
use crate::breaker::{Breaker, Breakers};
use crate::config::Config;
use crate::consume::{Bounds, Lane};
use crate::copies::Copies;
use crate::desk::{Desk, Times};
use crate::error::Error;
use crate::gate::Gate;
use crate::handler::Handler;
use crate::http::HttpHandler;
use crate::pause::{Paused, Watch};
use crate::receive::{Reception, Rules};
use crate::standing::Standing;
use crate::subscription::Subscription;
use crate::{dead, grpc, topology_check};
use countersign_telemetry::with_sources;

/// A downstream with its handlers.
pub struct Service {
    config: Config,
    handlers: Vec<(Subscription, Arc<dyn Handler>)>,
}

impl Service {
    /// A downstream that delivers by HTTP what its configuration gives an endpoint.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, handlers: Vec::new() }
    }

    /// Has a subscription handled by `handler`, in this process; all else about it is said by topology and configuration.
    #[must_use]
    pub fn handle(self, subscription: &str, handler: impl Handler + 'static) -> Self {
        self.subscribe(Subscription::named(subscription), handler)
    }

    /// Has a subscription handled by `handler`, in this process, with what the code says of it.
    #[must_use]
    pub fn subscribe(mut self, subscription: Subscription, handler: impl Handler + 'static) -> Self {
        self.handlers.push((subscription, Arc::new(handler)));
        self
    }

    /// Sets it up and returns; its tasks live until the context stops. Servers that are away are waited for, and readiness says so.
    ///
    /// # Errors
    /// [`Error`] when code, configuration and topology contradict each other, or the address of gRPC is taken.
    pub async fn run(self, context: Context) -> Result<(), Error> {
        let mut config = self.config;
        let topology = config.topology.load()?;
        let handlers = handlers_of(&mut config, self.handlers, &topology)?;
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
        let (mut watch, mut standings) = (Watch::new(Arc::new(claims.clone())), Vec::new());
        let parts = Parts::new(&context, &config, &topology, Arc::new(broker), claims, gate);
        for handled in handlers {
            let paused = paused_by(&mut watch, &handled.subscription);
            let lane = Arc::new(parts.lane(&context, &config, handled, paused, consumers.clone()));
            standings.push(Standing::of(&lane));
            let name = lane.reception.subscription.name.clone();
            let dead_letters = dead::run(lane.clone(), consumers.clone(), context.stop.clone());
            context.tasks.critical(format!("dead letters of {name}"), once(&all_there, &context.stop, dead_letters));
            context.tasks.critical(format!("consume {name}"), once(&all_there, &context.stop, lane.run()));
        }
        let looking = watch.clone().run(Duration::from_millis(config.redis.retry_pause_ms), context.health.dependency("pauses"));
        drop(context.tasks.spawn("look at pauses", context.stop.soft_token().run_until_cancelled_owned(looking)));
        context.serve_grpc(grpc::services(standings, watch, context.clock.clone())).await?;
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

    fn lane(&self, context: &Context, config: &Config, handled: Handling, paused: Paused, consumers: Arc<dyn Consumers>) -> Lane {
        let own = &config.downstream;
        let Handling { subscription, handler, breaker } = handled;
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
            held: Arc::new(Held::default()),
            breaker,
            clock: context.clock.clone(),
            ids: context.ids.clone(),
        };
        let bounds = Bounds {
            prefetch: figures.prefetch,
            concurrency: figures.concurrency,
            max_batch: own.max_batch,
            rate_per_second: figures.rate_per_second,
            lease: Duration::from_millis(own.lease_ms),
            progress_after: Duration::from_millis(own.progress_after_ms),
        };
        let (stop, tasks) = (context.stop.clone(), context.tasks.clone());
        Lane { reception, consumers, gate: self.gate.clone(), paused, bounds, stop, tasks }
    }
}

/// Pauses are kept in Redis, with the claims; a subscription that claims nothing there cannot be paused.
fn paused_by(watch: &mut Watch, subscription: &InTopology) -> Paused {
    if subscription.guard.uses_redis() { watch.over(&subscription.name) } else { Paused::never(subscription.name.clone()) }
}

/// Who handles one subscription, behind which breaker.
struct Handling {
    subscription: InTopology,
    handler: Arc<dyn Handler>,
    breaker: Arc<Breaker>,
}

/// Who handles what, checked against the topology. What code says of its subscriptions is in the configuration afterwards.
fn handlers_of(
    config: &mut Config,
    in_process: Vec<(Subscription, Arc<dyn Handler>)>,
    topology: &Topology,
) -> Result<Vec<Handling>, Error> {
    let mut problems = Vec::new();
    let mut named: BTreeMap<String, Arc<dyn Handler>> = BTreeMap::new();
    for (declared, handler) in in_process {
        problems.extend(declare(&declared, config, topology));
        if named.insert(declared.name().to_owned(), handler).is_some() {
            problems.push(format!("subscription {} has two handlers in code: keep one", declared.name()));
        }
    }
    let own = &config.downstream;
    for section in &own.subscriptions {
        match (&section.endpoint, named.contains_key(&section.name)) {
            (Some(_), true) => {
                problems.push(format!("subscription {} has a handler in code and an endpoint: keep one", section.name));
            }
            (None, false) => {
                problems.push(format!("subscription {} has neither endpoint nor handler: give it an endpoint", section.name));
            }
            (None, true) => {}
            (Some(endpoint), false) => {
                let figures = own.figures(&section.name);
                let connections = usize::try_from(figures.concurrency).unwrap_or(usize::MAX);
                match HttpHandler::new(endpoint, Duration::from_millis(figures.timeout_ms), connections) {
                    Ok(handler) => drop(named.insert(section.name.clone(), Arc::new(handler))),
                    Err(problem) => problems.push(format!("subscription {}: {problem}", section.name)),
                }
            }
        }
    }
    let mut breakers = Breakers::new(own.breaker_failures, Duration::from_millis(own.breaker_pause_ms));
    let mut handlers = Vec::new();
    for (name, handler) in named {
        let endpoint = own.subscription(&name).and_then(|section| section.endpoint.as_ref());
        let breaker = breakers.of(&name, endpoint.map(Secret::expose));
        match subscription_of(&name, config, topology) {
            Ok(subscription) => handlers.push(Handling { subscription, handler, breaker }),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(handlers) } else { Err(Error::Unsound(problems)) }
}

/// Takes over what code says of a subscription; answers what is wrong with it.
fn declare(declared: &Subscription, config: &mut Config, topology: &Topology) -> Vec<String> {
    let mut problems = declared.figures().problems("in code: subscription");
    if let Some(subscription) = in_topology(topology, declared.name()) {
        problems.extend(declared.differences(subscription));
    }
    config.downstream.declare(declared.figures());
    problems
}

fn in_topology<'a>(topology: &'a Topology, name: &str) -> Option<&'a InTopology> {
    topology.subscriptions.iter().find(|subscription| subscription.name.as_str() == name)
}

fn subscription_of(name: &str, config: &Config, topology: &Topology) -> Result<InTopology, String> {
    let Some(subscription) = in_topology(topology, name) else {
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
