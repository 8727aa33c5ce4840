//! Putting a downstream together: handlers, configuration, adapters. The one file that names the adapters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::Auditor;
use countersign_boot::{Context, Dependency, Secret, Stop};
use countersign_broker::Broker;
use countersign_delivery::Topology;
use countersign_delivery::horizon::resend_horizon_ms;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumers, Publisher};
use countersign_delivery::topology::{Guard, Subscription as InTopology};
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
use crate::handler::{AnyHandler, Handler, TransactionHandler};
use crate::http::HttpHandler;
use crate::meters::Meters;
use crate::pause::Paused;
use crate::receive::{Reception, Rules};
use crate::records::Records;
use crate::standing::Standing;
use crate::subscription::Subscription;
use crate::{counters, dead, grpc, topology_check};

/// A downstream with its handlers.
pub struct Service {
    config: Config,
    handlers: Vec<(Subscription, AnyHandler)>,
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
        self.handlers.push((subscription, AnyHandler::Direct(Arc::new(handler))));
        self
    }

    /// Has a subscription of guard `inbox` or `tiered` handled by `handler`, in this process and within the guard's transaction in the
    /// database of `[database]`; all else about it is said by topology and configuration.
    #[must_use]
    pub fn handle_in_transaction(self, subscription: &str, handler: impl TransactionHandler + 'static) -> Self {
        self.subscribe_in_transaction(Subscription::named(subscription), handler)
    }

    /// As [`Self::handle_in_transaction`], with what the code says of the subscription.
    #[must_use]
    pub fn subscribe_in_transaction(mut self, subscription: Subscription, handler: impl TransactionHandler + 'static) -> Self {
        self.handlers.push((subscription, AnyHandler::InTransaction(Arc::new(handler))));
        self
    }

    /// Sets it up and returns; its tasks live until the context stops. Servers that are away are waited for, and readiness says so.
    ///
    /// # Errors
    /// [`Error`] when code, configuration and topology contradict each other, the database refuses for good, or the address of gRPC is taken.
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
        let all_there = topology_check::watch(&context, &broker, config.broker.clone(), topology.clone(), config.topology.apply);

        counters::start_at_zero(handlers.iter().map(|served| &served.subscription.name));
        let mut records = Records::default();
        let names_in_redis = handlers.iter().filter(|served| served.subscription.guard.uses_redis());
        let names_in_redis: Vec<_> = names_in_redis.map(|served| served.subscription.name.clone()).collect();
        if !names_in_redis.is_empty() {
            records = records.with_redis(&context, &config, &topology.prefix)?;
        }
        let watch = records.watch_pauses(&context, &names_in_redis, Duration::from_millis(config.redis.retry_pause_ms));
        let (publisher, consumers): (Arc<dyn Publisher>, Arc<dyn Consumers>) = (Arc::new(broker.clone()), Arc::new(broker));
        let auditor = Auditor::new(&context, ("downstream", &config.downstream.name), publisher.clone(), &topology);
        let mut parts = Parts::new(&context, &config, &topology, publisher, consumers);
        let (late, early): (Vec<Served>, Vec<Served>) =
            handlers.into_iter().partition(|served| served.subscription.guard.uses_database());
        let mut standings = Vec::new();
        for served in early {
            let paused = watch.of(&served.subscription.name);
            standings.push(start(parts.lane(&context, &config, &records, served, paused)?, &context, &all_there));
        }
        // While the database is away the others work.
        if !late.is_empty() {
            records = records.with_database(&context, &config).await?;
            let subscriptions = late.iter().map(|served| served.subscription.name.clone()).collect();
            records.start_forgetting(&context, subscriptions, config.downstream.inbox_retention_ms);
        }
        for served in late {
            let paused = watch.of(&served.subscription.name);
            standings.push(start(parts.lane(&context, &config, &records, served, paused)?, &context, &all_there));
        }
        context.serve_grpc(grpc::services(standings, watch, context.clock.clone(), auditor)).await?;
        Ok(())
    }
}

/// Starts the consumers of one subscription once every queue is there; answers where it can be seen how it stands.
fn start(lane: Lane, context: &Context, all_there: &CancellationToken) -> Standing {
    let lane = Arc::new(lane);
    let standing = Standing::of(&lane);
    let name = lane.reception.subscription.name.clone();
    let dead_letters = dead::run(lane.clone(), lane.consumers.clone(), context.stop.clone());
    context.tasks.critical(format!("dead letters of {name}"), once(all_there, &context.stop, dead_letters));
    context.tasks.critical(format!("consume {name}"), once(all_there, &context.stop, lane.run()));
    standing
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
    /// One for each guard in use.
    desks: HashMap<Guard, Desk>,
    copies: Copies,
    signer: Signer,
    consumers: Arc<dyn Consumers>,
    quarantine: String,
}

impl Parts {
    fn new(
        context: &Context,
        config: &Config,
        topology: &Topology,
        publisher: Arc<dyn Publisher>,
        consumers: Arc<dyn Consumers>,
    ) -> Self {
        let own = &config.downstream;
        let linger = Duration::from_millis(own.receipt_linger_ms);
        let post = Post {
            publisher: publisher.clone(),
            ids: context.ids.clone(),
            queue: topology.receipts_queue(),
            name: own.name.clone(),
            stop: context.stop.clone(),
        };
        Self {
            desks: HashMap::new(),
            copies: Copies::new(publisher),
            signer: Signer::start(&context.tasks, post, own.max_batch, linger, own.enough_receipts()),
            consumers,
            quarantine: topology.quarantine_queue(),
        }
    }

    fn lane(
        &mut self,
        context: &Context,
        config: &Config,
        records: &Records,
        served: Served,
        paused: Paused,
    ) -> Result<Lane, Error> {
        let own = &config.downstream;
        let Served { subscription, handler, breaker } = served;
        let figures = own.figures(subscription.name.as_str());
        let guard = subscription.guard;
        let unsound = || Error::Unsound(vec![does_not_fit(&subscription)]);
        let ground = records.ground(guard, own.dedup_retention_ms).ok_or_else(unsound)?;
        let handling = records.handling(guard, handler, figures.timeout_ms).ok_or_else(unsound)?;
        let rules =
            Rules { guard, on_unknown: figures.on_unknown, max_crashes: figures.max_crashes, memory_ms: own.memory_ms(guard) };
        let times = Times { lease_ms: own.lease_ms, retention_ms: own.dedup_retention_ms };
        let desk = self.desks.entry(guard);
        let desk = desk.or_insert_with(|| Desk::open(&context.tasks, &context.stop, ground.claims, times, own.max_batch)).clone();
        let reception = Reception {
            meters: Meters::of(&subscription.name),
            subscription,
            quarantine: self.quarantine.clone(),
            handling,
            timeout_ms: figures.timeout_ms,
            rules,
            retry_jitter: figures.retry_jitter,
            name: own.name.clone(),
            desk,
            copies: self.copies.clone(),
            signer: self.signer.clone(),
            held: Arc::new(Held::default()),
            breaker,
            clock: context.clock.clone(),
            ids: context.ids.clone(),
        };
        let bounds = Bounds {
            prefetch: figures.prefetch,
            concurrency: records.concurrency(guard, figures.concurrency),
            max_batch: own.max_batch,
            rate_per_second: figures.rate_per_second,
            lease: Duration::from_millis(own.lease_ms),
            progress_after: Duration::from_millis(own.progress_after_ms),
        };
        let (stop, tasks) = (context.stop.clone(), context.tasks.clone());
        Ok(Lane { reception, consumers: self.consumers.clone(), gate: ground.gate, paused, bounds, stop, tasks })
    }
}

/// Who handles one subscription, behind which breaker.
struct Served {
    subscription: InTopology,
    handler: AnyHandler,
    breaker: Arc<Breaker>,
}

/// Who handles what, checked against the topology. What code says of its subscriptions is in the configuration afterwards.
fn handlers_of(
    config: &mut Config,
    in_process: Vec<(Subscription, AnyHandler)>,
    topology: &Topology,
) -> Result<Vec<Served>, Error> {
    let mut problems = Vec::new();
    let mut named: BTreeMap<String, AnyHandler> = BTreeMap::new();
    for (declared, handler) in in_process {
        problems.extend(declare(&declared, config, topology));
        if named.insert(declared.name().to_owned(), handler).is_some() {
            problems.push(format!("subscription {} has two handlers in code: keep one", declared.name()));
        }
    }
    let own = &config.downstream;
    for section in &own.subscriptions {
        let figures = own.figures(&section.name);
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
                    Ok(handler) => drop(named.insert(section.name.clone(), AnyHandler::Direct(Arc::new(handler)))),
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
            Ok(subscription) if handler.fits(subscription.guard) => handlers.push(Served { subscription, handler, breaker }),
            Ok(subscription) => problems.push(does_not_fit(&subscription)),
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

fn does_not_fit(subscription: &InTopology) -> String {
    let (name, guard) = (&subscription.name, subscription.guard.as_str());
    if subscription.guard.in_transaction() {
        format!(
            "subscription {name} has guard {guard}, which needs a handler within a transaction: give it one in Rust with \
             Service::handle_in_transaction, or give it guard redis or redis+archive in the topology"
        )
    } else {
        format!(
            "subscription {name} has guard {guard}, under which there is no transaction for its handler: give it guard inbox or tiered in \
             the topology, or a handler that needs none"
        )
    }
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

#[cfg(test)]
mod tests;
