//! The gRPC server of a service, with health and reflection.

mod incoming;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::response::IntoResponse;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access::Methods;
use crate::access::gate::{GrpcGate, OnForbidden};
use crate::context::Context;
use crate::error::Error;
use crate::health::Health;
use crate::listener::{BoundedListener, KEEPALIVE_ANSWER};
use crate::tls::Acceptor;

/// The services of one gRPC server. Message sizes are set by each service on its own server type.
#[derive(Clone)]
pub struct GrpcServices {
    routes: Routes,
    names: Vec<&'static str>,
    descriptors: &'static [u8],
    on_forbidden: Option<OnForbidden>,
}

impl GrpcServices {
    /// No services yet; `descriptors` is the encoded `FileDescriptorSet` that reflection shows, and that says which role each method needs.
    #[must_use]
    pub fn new(descriptors: &'static [u8]) -> Self {
        Self { routes: Routes::default(), names: Vec::new(), descriptors, on_forbidden: None }
    }

    /// Has somebody told of every call of a known caller who lacks the role for it.
    #[must_use]
    pub fn on_forbidden(mut self, told: OnForbidden) -> Self {
        self.on_forbidden = Some(told);
        self
    }

    /// Adds one generated server.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "the builder's word; nothing is summed")]
    pub fn add<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }
}

pub(crate) async fn serve(context: &Context, services: GrpcServices) -> Result<SocketAddr, Error> {
    let config = &context.frame.served.grpc;
    let wrong = |source| Error::Listen { key: "grpc.listen", address: config.listen, source };
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(services.descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes =
        services.routes.add_service(health).add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);

    let methods = Methods::of(services.descriptors).map_err(Error::Descriptors)?;
    let routes = GrpcGate { access: context.access()?, methods, on_forbidden: services.on_forbidden }.before(routes);
    let acceptor = Acceptor::open(context, &context.frame.served.tls, &["h2"])?;

    let listener = TcpListener::bind(config.listen).await.map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    if context.frame.grpc_address.set(address).is_err() {
        return Err(Error::GrpcTwice);
    }
    report(&reporter, &services.names, context.health.readiness().ready).await;
    let server = Server::builder()
        .max_concurrent_streams(config.max_streams)
        .timeout(Duration::from_millis(config.request_timeout_ms))
        .http2_keepalive_interval(Some(Duration::from_millis(config.keepalive_ms)))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .add_routes(routes);
    let listener = BoundedListener::new(listener, "grpc.max_connections", config.max_connections);
    let incoming = incoming::incoming(listener, acceptor, config.max_connections);
    let (stop, outcome) = (context.frame.servers_stop.clone(), context.stop.clone());
    context.frame.servers.spawn(async move {
        let ended = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await;
        if let Err(error) = ended {
            outcome.fail(format!("the gRPC server ended: {error}"));
        }
    });
    let (health, stop) = (context.health.clone(), context.frame.servers_stop.clone());
    context.frame.servers.spawn(async move {
        stop.run_until_cancelled_owned(follow(reporter, services.names, health)).await;
    });
    Ok(address)
}

/// Keeps gRPC health equal to readiness.
async fn follow(reporter: HealthReporter, names: Vec<&'static str>, health: Health) {
    let mut watch = health.watch();
    loop {
        let ready = watch.borrow_and_update().ready;
        report(&reporter, &names, ready).await;
        if watch.changed().await.is_err() {
            return;
        }
    }
}

async fn report(reporter: &HealthReporter, names: &[&'static str], ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in names.iter().chain(&[""]) {
        reporter.set_service_status(*name, status).await;
    }
}
