//! The sections that every service has beside `[log]` and `[traces]`.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Frame;
use crate::access;

/// Section `[http]`: health, metrics, and what the service adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port; port 0 takes a free one. Default: loopback with the service's own port.
    pub listen: SocketAddr,
    /// Connections that may be open at a time; default 1024. One more waits until another is closed: the one idle longest is, at once.
    pub max_connections: u32,
    /// Milliseconds that a new connection has to bring the whole head of its first request; default 10000.
    pub header_timeout_ms: u64,
    /// Milliseconds after an answer within which the whole head of the next request must come, or the connection is closed;
    /// default 120000. Keep it above the idle time of clients' pools and of load balancers (60 to 90 seconds mostly): a server
    /// that closes first may meet a request that is on its way.
    pub idle_timeout_ms: u64,
    /// Milliseconds of silence after which a client of HTTP/2 is asked whether it lives; default 20000.
    pub keepalive_ms: u64,
}

impl Http {
    /// Listens on the loopback address only.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self {
            listen: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            max_connections: 1024,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 120_000,
            keepalive_ms: 20_000,
        }
    }
}

/// Section `[grpc]`: the service's gRPC server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// Address and port; port 0 takes a free one. Default: loopback with the service's own port.
    pub listen: SocketAddr,
    /// Connections that may be open at a time; default 1024. One more waits until another is closed.
    pub max_connections: u32,
    /// Calls that one connection may have open at a time; default 1024.
    pub max_streams: u32,
    /// Milliseconds after which the server gives a call up; default 60000.
    pub request_timeout_ms: u64,
    /// Milliseconds of silence after which a client is asked whether it lives; default 20000.
    pub keepalive_ms: u64,
}

impl Grpc {
    /// Listens on the loopback address only.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self {
            listen: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            max_connections: 1024,
            max_streams: 1024,
            request_timeout_ms: 60_000,
            keepalive_ms: 20_000,
        }
    }
}

/// Section `[shutdown]`: how much time a stop takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// Milliseconds that tasks have to finish what is in flight; default 20000.
    pub grace_ms: u64,
    /// Milliseconds between turning unready and stopping: one period of whoever probes readiness; default 0.
    pub probe_period_ms: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_ms: 20_000, probe_period_ms: 0 }
    }
}

/// The longest stop that can be asked for: ten minutes.
const STOP_MS_MAX: u64 = 600_000;

/// Far above what the system lets a process open.
const CONNECTIONS_MAX: u32 = 1_000_000;
/// The longest time-out of a connection: a day.
const CONNECTION_MS_MAX: u64 = 86_400_000;

/// Problems of the common sections.
pub(super) fn problems(frame: &Frame<'_>) -> Vec<String> {
    let mut problems = frame.log.problems();
    problems.extend(frame.traces.problems());
    let Grpc { max_streams, request_timeout_ms, keepalive_ms, .. } = *frame.grpc;
    if max_streams == 0 || request_timeout_ms == 0 || keepalive_ms == 0 {
        problems.push("grpc.max_streams, grpc.request_timeout_ms and grpc.keepalive_ms must be above 0".to_owned());
    }
    for (key, value) in [("http", frame.http.max_connections), ("grpc", frame.grpc.max_connections)] {
        if !(1..=CONNECTIONS_MAX).contains(&value) {
            problems.push(format!("{key}.max_connections is {value}: give 1 to {CONNECTIONS_MAX}"));
        }
    }
    let Http { header_timeout_ms, idle_timeout_ms, keepalive_ms, .. } = *frame.http;
    for (key, value) in
        [("header_timeout_ms", header_timeout_ms), ("idle_timeout_ms", idle_timeout_ms), ("keepalive_ms", keepalive_ms)]
    {
        if !(1..=CONNECTION_MS_MAX).contains(&value) {
            problems.push(format!("http.{key} is {value}: give 1 to {CONNECTION_MS_MAX}"));
        }
    }
    let (http, grpc) = (frame.http.listen, frame.grpc.listen);
    if http == grpc && http.port() != 0 {
        problems.push(format!("http.listen and grpc.listen are both {http}: give them different ports"));
    }
    problems.extend(access::problems(frame.access, frame.tls, &[("http.listen", http), ("grpc.listen", grpc)]));
    let Shutdown { grace_ms, probe_period_ms } = *frame.shutdown;
    if grace_ms > STOP_MS_MAX || probe_period_ms > STOP_MS_MAX {
        problems.push(format!("shutdown.grace_ms and shutdown.probe_period_ms may be {STOP_MS_MAX} at most"));
    }
    problems
}
