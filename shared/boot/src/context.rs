//! What a service is given to live with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use countersign_delivery::ports::{Clock, Ids};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, AccessSection, Role, Tls, gate};
use crate::addresses::Addresses;
use crate::config::Grpc;
use crate::error::Error;
use crate::grpc::{self, GrpcServices};
use crate::health::Health;
use crate::stop::Stop;
use crate::tasks::Tasks;

/// Everything that the frame lends to a service. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Context {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The source of fresh ids.
    pub ids: Arc<dyn Ids>,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// Where dependencies are registered.
    pub health: Health,
    /// When to stop.
    pub stop: Stop,
    pub(crate) frame: Arc<Shared>,
}

/// How this process is called.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub grpc: Grpc,
    pub tls: Tls,
    pub access: AccessSection,
}

impl Default for Served {
    fn default() -> Self {
        Self { grpc: Grpc::loopback(0), tls: Tls::default(), access: AccessSection::default() }
    }
}

/// What the frame and the context share beyond the public parts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub service: &'static str,
    pub served: Served,
    /// Set before anything is served.
    pub access: OnceLock<Access>,
    pub servers: TaskTracker,
    pub servers_stop: CancellationToken,
    pub router: Mutex<axum::Router>,
    pub http_address: OnceLock<SocketAddr>,
    pub grpc_address: OnceLock<SocketAddr>,
    pub addresses_file: Option<PathBuf>,
    started: CancellationToken,
}

impl Context {
    /// A context that belongs to no launched process: for tests of what a service does with it. Its gRPC server, if it
    /// opens one, takes a free port.
    #[must_use]
    pub fn detached(service: &'static str, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self::new(service, clock, ids, Served::default(), None)
    }

    pub(crate) fn new(
        service: &'static str,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        served: Served,
        addresses_file: Option<PathBuf>,
    ) -> Self {
        let stop = Stop::default();
        let frame = Shared {
            service,
            served,
            access: OnceLock::new(),
            servers: TaskTracker::new(),
            servers_stop: CancellationToken::new(),
            router: Mutex::default(),
            http_address: OnceLock::new(),
            grpc_address: OnceLock::new(),
            addresses_file,
            started: CancellationToken::new(),
        };
        Self { clock, ids, tasks: Tasks::new(stop.clone()), health: Health::default(), stop, frame: Arc::new(frame) }
    }

    /// The name given to `launch`.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.frame.service
    }

    /// Adds routes to the HTTP server, beside `/health/live`, `/health/ready` and `/metrics`, which cannot be replaced. Their callers
    /// need the role `needed`, and are in the request's extensions ([`Caller`](crate::Caller)).
    ///
    /// # Panics
    /// When a path was added before, or a second fallback.
    pub fn http(&self, needed: Role, router: axum::Router) {
        let router = gate::needing(needed, router);
        let mut added = self.frame.router.lock().unwrap_or_else(PoisonError::into_inner);
        *added = std::mem::take(&mut *added).merge(router);
    }

    /// Opens the gRPC server with these services, with health and reflection beside them. Returns the real address.
    ///
    /// # Errors
    /// [`Error::Listen`] when the address is taken, [`Error::Reflection`] for a broken descriptor set,
    /// [`Error::GrpcTwice`] for a second call.
    pub async fn serve_grpc(&self, services: GrpcServices) -> Result<SocketAddr, Error> {
        grpc::serve(self, services).await
    }

    /// How callers are known, by section `[access]`.
    pub(crate) fn access(&self) -> Result<Access, Error> {
        if let Some(access) = self.frame.access.get() {
            return Ok(access.clone());
        }
        let access = Access::open(self, &self.frame.served.access)?;
        Ok(self.frame.access.get_or_init(|| access).clone())
    }

    pub(crate) fn is_started(&self) -> bool {
        self.frame.started.is_cancelled()
    }

    /// Says that setting up is done: readiness may now be true, and the real addresses are logged and written to the
    /// file of `--addresses`. `launch` does this when `run` returns; a `run` that stays must do it itself.
    ///
    /// # Errors
    /// [`Error::Addresses`] when the file cannot be written.
    pub fn started(&self) -> Result<(), Error> {
        if self.is_started() {
            return Ok(());
        }
        self.frame.started.cancel();
        let addresses =
            Addresses::new(self.frame.service, self.frame.grpc_address.get().copied(), self.frame.http_address.get().copied());
        addresses.log();
        self.health.running();
        match &self.frame.addresses_file {
            Some(file) => addresses.write(file),
            None => Ok(()),
        }
    }
}
