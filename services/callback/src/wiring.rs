//! Putting a callback together from its configuration. The one file that names the adapters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use countersign_boot::{Context, GrpcServices};
use countersign_broker::Broker;
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::Consumers;
use countersign_store::{Database, Tables};
use countersign_wire::proto::DESCRIPTORS;
use countersign_wire::proto::callback_service_server::CallbackServiceServer;
use countersign_wire::proto::dead_letter_service_server::DeadLetterServiceServer;
use countersign_wire::proto::reconciliation_service_server::ReconciliationServiceServer;
use tokio_util::task::TaskTracker;

use crate::canary::{self, Canaries};
use crate::config::Config;
use crate::counters;
use crate::desk::{Desk, Figures};
use crate::events::{self, Teller};
use crate::grpc::reconcile::Reconciliations;
use crate::grpc::{DeadLetterApi, Service};
use crate::intake::{Intake, Work};
use crate::lines::Lines;
use crate::operate::forbidden;
use crate::probe::Demands;
use crate::reconcile::{self, Reconciler, Seen};
use crate::retention;
use crate::take_in::{Room, Source};
use crate::upstreams::digests::grpc::GrpcDigests;
use crate::upstreams::grpc::GrpcUpstreams;
use crate::watch;

/// Requests of operators are small.
const REQUEST_MAX: usize = 64 * 1024;
/// Unsettled dead letters of one queue at most; each may be as large as a message.
const DEAD_LETTERS_PREFETCH: u16 = 32;
/// How long consumers wait for their queues to be declared.
const PAUSE: Duration = Duration::from_secs(1);

/// Sets callback up and returns; its tasks live until the context stops. Servers that are away are waited for, and readiness says so.
///
/// # Errors
/// When configuration and topology contradict each other, MSG DB refuses for good, or an address is taken.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let topology = Arc::new(config.topology.load()?);
    counters::start_at_zero(&topology);
    let broker = Broker::connect(config.broker.clone(), context.service(), &TaskTracker::new(), context.stop.hard_token())?;
    watch::broker(&context, &broker);
    let queues = watch::queues(&context, &broker, config.broker.clone(), topology.clone(), config.topology.apply);

    let shown = context.health.dependency("database");
    let opened = Database::open(&config.database, Tables::Deliveries, &shown).await;
    let database = opened.context("MSG DB cannot be used: correct [database], or mend what it says")?;
    let exchange = topology.events_exchange();
    let desk = desk(&config, &context, topology, &broker, &database);
    watch::database(&context, database.clone(), shown);

    let mut intakes = vec![
        ("receipts".to_owned(), Work::Receipts, config.callback.receipts_prefetch, 1),
        ("checks".to_owned(), Work::Checks, config.callback.checks_prefetch, config.callback.checks_in_flight),
    ];
    let letters = Source::all(&desk.topology).into_iter();
    intakes.extend(letters.map(|source| (source.queue.clone(), Work::DeadLetters(source), DEAD_LETTERS_PREFETCH, 1)));
    for (name, work, prefetch, in_flight) in intakes {
        let health = context.health.dependency(name.clone());
        let intake = Intake { desk: desk.clone(), work, prefetch, in_flight, health, stop: context.stop.clone() };
        let (consumers, queues) = (Arc::new(broker.clone()), queues.clone());
        context.tasks.critical(name, async move {
            // Only to spare the log: a queue that is not there yet is waited for, too.
            let _ = tokio::time::timeout(PAUSE, queues.cancelled()).await;
            intake.run(consumers).await
        });
    }
    watch::probes(&context, &desk);
    canary::start(&context, &desk, config.callback.canary_interval_ms, queues.clone());
    let rows = Arc::new(database.deliveries(config.policy.overdue_ms));
    events::start(&context, Teller::new(rows, desk.publisher.clone(), exchange), queues);
    let consumers: Arc<dyn Consumers> = Arc::new(broker);
    retention::start(&context, &desk, &consumers, &config.callback);
    watch::letters(&context, &desk);
    watch::deliveries(&context, &desk, Arc::new(database.reconciliation()));
    watch::sweeps(&context, &desk, Duration::from_millis(config.callback.sweep_interval_ms));
    let reconciler = reconciler(&config, &desk, &database);
    if let Some(schedule) = config.callback.schedule() {
        watch::reconciliations(&context, &reconciler, schedule);
    }

    let forbidden = forbidden::audited(desk.clone(), context.tasks.clone());
    let letters = DeadLetterApi::new(desk.clone(), context.tasks.clone(), context.stop.clone());
    let letters = DeadLetterServiceServer::new(letters).max_decoding_message_size(REQUEST_MAX);
    let service = Service::new(desk, context.tasks.clone(), context.stop.clone());
    let server = CallbackServiceServer::new(service).max_decoding_message_size(REQUEST_MAX);
    let reconciliations = Reconciliations::new(reconciler, context.tasks.clone(), context.stop.clone());
    let third = ReconciliationServiceServer::new(reconciliations).max_decoding_message_size(REQUEST_MAX);
    let services = GrpcServices::new(DESCRIPTORS).on_forbidden(forbidden).add(server).add(letters).add(third);
    context.serve_grpc(services).await?;
    Ok(())
}

fn reconciler(config: &Config, desk: &Desk, database: &Database) -> Reconciler {
    let own = &config.callback;
    let probe_wait = Duration::from_millis(own.reconcile_probe_wait_ms);
    let retention_ms = Some(own.retention_ms).filter(|retention_ms| *retention_ms > 0);
    let figures = reconcile::Figures { probe_wait, retention_ms, missing_max: reconcile::MISSING_MAX };
    let digests = Arc::new(GrpcDigests::new(Duration::from_millis(own.reconcile_call_deadline_ms), &config.client));
    Reconciler::new(desk.clone(), Arc::new(database.reconciliation()), digests, own.addresses(), figures)
}

fn desk(config: &Config, context: &Context, topology: Arc<Topology>, broker: &Broker, database: &Database) -> Desk {
    let own = &config.callback;
    Desk {
        deliveries: Arc::new(database.deliveries(config.policy.overdue_ms)),
        letters: Arc::new(database.dead_letters()),
        audit: Arc::new(database.audit()),
        publisher: Arc::new(broker.clone()),
        upstreams: Arc::new(GrpcUpstreams::new(own.addresses(), Duration::from_millis(own.call_deadline_ms), &config.client)),
        clock: context.clock.clone(),
        ids: context.ids.clone(),
        topology,
        policy: Arc::new(config.policy.clone()),
        figures: Figures {
            max_batch: own.max_batch,
            max_orders: own.max_orders,
            dedup_retention_ms: own.dedup_retention_ms,
            max_dead_letters: own.max_dead_letters,
        },
        lines: Arc::new(Lines::new(own.lines())),
        tasks: context.tasks.clone(),
        demands: Arc::new(Demands::default()),
        room: Arc::new(Room::default()),
        seen: Arc::new(Seen::new(Arc::new(database.reconciliation()))),
        canaries: Arc::new(Canaries::default()),
        refusals: Arc::default(),
    }
}
