//! The wiring: the only file that names the real database and the real broker.

use std::sync::Arc;

use countersign_boot::{Context, GrpcServices, Role};
use countersign_broker::Broker;
use countersign_store::{Database, Tables};
use countersign_wire::proto;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::desk::Ports;
use crate::error::Error;
use crate::keeper::Vitals;
use crate::source::{MessageSource, Sources};
use crate::upstream::Upstream;
use crate::{confirmed, grpc, http, retention, topology};

/// An upstream that is configured and not started.
#[derive(Clone, Debug)]
pub struct Service {
    config: Config,
    sources: Sources,
}

impl Service {
    /// Takes its configuration.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, sources: Sources::none() }
    }

    /// Does not store the bodies of messages of this type: `source` gives them again. It must know them as soon as they are committed, so
    /// send them within the transaction that writes what they are made of ([`Upstream::transaction`]).
    ///
    /// Only a process with this source can publish them again; every replica needs it. A process without one leaves them as they are.
    #[must_use]
    pub fn source(mut self, kind: impl Into<String>, source: Arc<dyn MessageSource>) -> Self {
        self.sources.add(kind.into(), source);
        self
    }

    /// Starts it within a process of one's own, without an API.
    ///
    /// Callback's orders come by gRPC, so a process that embeds an upstream and has no other for the same name serves
    /// [`Service::run`]'s API too: see [`Service::serve`].
    ///
    /// # Errors
    /// [`Error`]: the retention is too short, or the topology file, the database or the broker's configuration cannot be used. A database
    /// that is away is waited for, and readiness says so; a broker that is away is not even waited for.
    pub async fn start(self, context: &Context) -> Result<Upstream, Error> {
        let Config { topology: source, database, broker: broker_config, policy, upstream: section, .. } = self.config;
        let topology = source.load()?;
        let problem = retention::problem(&section, &topology, &policy).or_else(|| confirmed::problem(&section, &topology));
        if let Some(problem) = problem {
            return Err(Error::Unsound(problem));
        }
        let shown = context.health.dependency("database");
        let database = Database::open(&database, Tables::Messages, &shown).await?;

        let (finished, tracker) = (CancellationToken::new(), TaskTracker::new());
        let broker = Broker::connect(broker_config.clone(), section.name.as_str(), &tracker, finished.clone())?;
        let ended = (finished.clone(), tracker);
        context.tasks.critical("broker connections", async move {
            ended.0.cancelled().await;
            ended.1.close();
            ended.1.wait().await;
            anyhow::Ok(())
        });

        let state = broker.state();
        let vitals = Vitals {
            database: shown,
            broker: context.health.dependency("broker"),
            broker_state: Box::new({
                let state = state.clone();
                move || state.borrow().to_string()
            }),
        };
        let watch = topology::Watch {
            config: broker_config,
            topology: topology.clone(),
            apply: source.apply,
            state,
            dependency: context.health.dependency("topology"),
            start_wait_ms: section.start_wait_ms,
        };
        let until = finished.clone();
        context.tasks.critical("topology", async move {
            until.run_until_cancelled(Box::pin(watch.run())).await;
            anyhow::Ok(())
        });
        let messages = Arc::new(database.messages().sweeping_after(section.outbox_sweep_after_ms));
        let ports = Ports {
            messages: messages.clone(),
            outbox: messages.clone(),
            stored: messages,
            publisher: Arc::new(broker),
            sources: self.sources,
        };
        Ok(Upstream::start(section, topology, ports, context, vitals, finished).with_database(database))
    }

    /// Starts it, and serves its gRPC API at `grpc.listen` and its HTTP API at `http.listen`.
    ///
    /// # Errors
    /// As [`Service::start`]; and [`Error::Grpc`] when the address is taken.
    pub async fn serve(self, context: &Context) -> Result<Upstream, Error> {
        let section = self.config.upstream.clone();
        let upstream = self.start(context).await?;
        context.http(Role::Producer, http::router(upstream.clone(), &section));
        let auditor = upstream.auditor(context);
        let services = GrpcServices::new(proto::DESCRIPTORS)
            .on_forbidden(grpc::on_forbidden(&auditor))
            .add(grpc::server(upstream.clone(), auditor))
            .add(grpc::digest::server(upstream.clone()));
        context.serve_grpc(services).await?;
        Ok(upstream)
    }

    /// The stock upstream.
    ///
    /// # Errors
    /// As [`Service::serve`].
    pub async fn run(self, context: Context) -> anyhow::Result<()> {
        self.serve(&context).await?;
        Ok(())
    }
}

/// The stock binary, for `countersign_boot::launch`.
///
/// # Errors
/// As [`Service::serve`].
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    Service::new(config).run(context).await
}
