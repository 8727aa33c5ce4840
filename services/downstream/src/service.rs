//! Putting a downstream together: handlers, configuration, adapters. The one file that names the adapters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Context, Dependency, GrpcServices, Stop};
use countersign_broker::Broker;
use countersign_delivery::Topology;
use countersign_delivery::horizon::resend_horizon_ms;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumers, Publisher};
use countersign_delivery::topology::{Guard, Subscription};
use countersign_wire::proto;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acknowledge::{Post, Signer};
use crate::arrived::Held;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::consume::{Bounds, Lane};
use crate::copies::Copies;
use crate::desk::{Desk, Times};
use crate::error::Error;
use crate::handler::{AnyHandler, Handler, TransactionHandler};
use crate::http::HttpHandler;
use crate::receive::{Reception, Rules};
use crate::records::Records;
use crate::{dead, topology_check};

/// A downstream with its handlers.
pub struct Service {
    config: Config,
    handlers: Vec<(String, AnyHandler)>,
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
        self.handlers.push((subscription.to_owned(), AnyHandler::Direct(Arc::new(handler))));
        self
    }

    /// Has a subscription of guard `inbox` or `tiered` handled by `handler`, in this process and within the guard's transaction in the
    /// database of `[database]`.
    #[must_use]
    pub fn handle_in_transaction(mut self, subscription: &str, handler: impl TransactionHandler + 'static) -> Self {
        self.handlers.push((subscription.to_owned(), AnyHandler::InTransaction(Arc::new(handler))));
        self
    }

    /// Sets it up and returns; its tasks live until the context stops. Servers that are away are waited for, and readiness says so.
    ///
    /// # Errors
    /// [`Error`] when code, configuration and topology contradict each other, the database refuses for good, or the address of gRPC is taken.
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

        let mut records = Records::default();
        if handlers.iter().any(|(subscription, _)| subscription.guard.uses_redis()) {
            records = records.with_redis(&context, &config, &topology.prefix)?;
        }
        let mut parts = Parts::new(&context, &config, &topology, Arc::new(broker.clone()), Arc::new(broker));
        let (late, early): (Handlers, Handlers) =
            handlers.into_iter().partition(|(subscription, _)| subscription.guard.uses_database());
        for (subscription, handler) in early {
            start(parts.lane(&context, &config, &records, subscription, handler)?, &context, &all_there);
        }
        // While the database is away the others work.
        if !late.is_empty() {
            records = records.with_database(&context, &config).await?;
            let subscriptions = late.iter().map(|(subscription, _)| subscription.name.clone()).collect();
            records.start_forgetting(&context, subscriptions, config.downstream.inbox_retention_ms);
        }
        for (subscription, handler) in late {
            start(parts.lane(&context, &config, &records, subscription, handler)?, &context, &all_there);
        }
        context.serve_grpc(GrpcServices::new(proto::DESCRIPTORS)).await?;
        Ok(())
    }
}

/// Starts the consumers of one subscription once every queue is there.
fn start(lane: Lane, context: &Context, all_there: &CancellationToken) {
    let lane = Arc::new(lane);
    let name = lane.reception.subscription.name.clone();
    let dead_letters = dead::run(lane.clone(), lane.consumers.clone(), context.stop.clone());
    context.tasks.critical(format!("dead letters of {name}"), once(all_there, &context.stop, dead_letters));
    context.tasks.critical(format!("consume {name}"), once(all_there, &context.stop, lane.run()));
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
            signer: Signer::start(&context.tasks, post, own.max_batch, Duration::from_millis(own.receipt_linger_ms)),
            consumers,
            quarantine: topology.quarantine_queue(),
        }
    }

    fn lane(
        &mut self,
        context: &Context,
        config: &Config,
        records: &Records,
        subscription: Subscription,
        handler: AnyHandler,
    ) -> Result<Lane, Error> {
        let own = &config.downstream;
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
            subscription,
            quarantine: self.quarantine.clone(),
            handling,
            timeout_ms: figures.timeout_ms,
            rules,
            name: own.name.clone(),
            desk,
            copies: self.copies.clone(),
            signer: self.signer.clone(),
            held: Held::default(),
            breaker: Arc::new(Breaker::new(own.breaker_failures, Duration::from_millis(own.breaker_pause_ms))),
            clock: context.clock.clone(),
            ids: context.ids.clone(),
        };
        let bounds = Bounds {
            prefetch: figures.prefetch,
            concurrency: records.concurrency(guard, figures.concurrency),
            max_batch: own.max_batch,
            lease: Duration::from_millis(own.lease_ms),
            progress_after: Duration::from_millis(own.progress_after_ms),
        };
        let (stop, tasks) = (context.stop.clone(), context.tasks.clone());
        Ok(Lane { reception, consumers: self.consumers.clone(), gate: ground.gate, bounds, stop, tasks })
    }
}

type Handlers = Vec<(Subscription, AnyHandler)>;

/// Who handles what, checked against the topology.
fn handlers_of(config: &Config, in_process: Vec<(String, AnyHandler)>, topology: &Topology) -> Result<Handlers, Error> {
    let mut problems = Vec::new();
    let mut named: BTreeMap<String, AnyHandler> = BTreeMap::new();
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
                    Ok(handler) => drop(named.insert(section.name.clone(), AnyHandler::Direct(Arc::new(handler)))),
                    Err(problem) => problems.push(format!("subscription {}: {problem}", section.name)),
                }
            }
        }
    }
    let mut handlers = Vec::new();
    for (name, handler) in named {
        match subscription_of(&name, config, topology) {
            Ok(subscription) if handler.fits(subscription.guard) => handlers.push((subscription, handler)),
            Ok(subscription) => problems.push(does_not_fit(&subscription)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(handlers) } else { Err(Error::Unsound(problems)) }
}

fn does_not_fit(subscription: &Subscription) -> String {
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

#[cfg(test)]
mod tests;
