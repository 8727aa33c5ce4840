//! The HTTP server of every process: health, metrics, and what the service adds.
//!
//! It speaks HTTP/1.1, and HTTP/2 with prior knowledge; nothing is upgraded.
//!
//! **Invariant:** connections are bounded in number ([`listener`](crate::listener)), and one without an open request in time
//! ([`connection`]).

mod connection;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::PoisonError;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use countersign_telemetry::Metrics;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::access::{Role, gate};
use crate::config::Http;
use crate::context::Context;
use crate::error::Error;
use crate::health::Phase;
use crate::http::connection::Connections;
use crate::listener::BoundedListener;
use crate::tls::Acceptor;

/// The media type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Served {
    context: Context,
    metrics: Metrics,
}

/// Opens the server. It answers at once, while the service still sets up; the service's own routes join later.
pub(crate) async fn serve(context: &Context, config: &Http, metrics: Metrics) -> Result<SocketAddr, Error> {
    let access = context.access()?;
    let acceptor = Acceptor::open(context, &context.frame.served.tls, &["h2", "http/1.1"])?;
    let wrong = |source| Error::Listen { key: "http.listen", address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    let _ = context.frame.http_address.set(address);
    let (servers, stop) = (context.frame.servers.clone(), context.frame.servers_stop.clone());
    let mut listener = BoundedListener::new(listener, "http.max_connections", config.max_connections);
    let router = gate::identified(router(context.clone(), metrics), access);
    let connections = Connections::new(router, acceptor, config, listener.crowded(), stop.clone());
    context.frame.servers.spawn(async move {
        while let Some((stream, place)) = stop.run_until_cancelled(listener.next()).await {
            servers.spawn(connections.clone().serve(stream, place));
        }
    });
    Ok(address)
}

fn router(context: Context, metrics: Metrics) -> Router {
    Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .merge(gate::needing(Role::Viewer, Router::new().route("/metrics", get(scrape))))
        .fallback(of_the_service)
        .with_state(Served { context, metrics })
}

async fn ready(State(served): State<Served>) -> Response {
    let readiness = served.context.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn scrape(State(served): State<Served>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], served.metrics.render()).into_response()
}

async fn of_the_service(State(served): State<Served>, request: Request) -> Result<Response, Infallible> {
    let starting = served.context.health.readiness().phase == Phase::Starting;
    let router = served.context.frame.router.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let answer = router.oneshot(request).await?;
    // What joins later is not there yet: nobody shall take that for good.
    let early = starting && answer.status() == StatusCode::NOT_FOUND;
    Ok(if early { (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "starting\n").into_response() } else { answer })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;

    use super::*;
    use crate::clock::{RandomIds, SystemClock};

    #[tokio::test]
    async fn a_route_that_has_not_joined_yet_is_to_be_tried_again_and_one_that_never_joins_is_not_there() {
        let context = Context::detached("test", Arc::new(SystemClock), Arc::new(RandomIds));
        let router = router(context.clone(), Metrics::detached());
        let ask = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            (answer.status().as_u16(), answer.headers().contains_key(header::RETRY_AFTER))
        };
        assert_eq!(ask("/hello").await, (503, true));
        context.http(Role::Viewer, Router::new().route("/hello", get(|| async { "hello\n" })));
        assert_eq!((ask("/hello").await, ask("/other").await), ((200, false), (503, true)));
        context.health.running();
        assert_eq!((ask("/hello").await, ask("/other").await), ((200, false), (404, false)));
    }
}
