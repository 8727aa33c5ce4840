//! The sections that every service has beside `[log]` and `[traces]`.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Frame;

/// Section `[http]`: health, metrics, and what the service adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port; port 0 takes a free one. Default: loopback with the service's own port.
    pub listen: SocketAddr,
}

impl Http {
    /// Listens on the loopback address only.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self { listen: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port) }
    }
}

/// Section `[grpc]`: the service's gRPC server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// Address and port; port 0 takes a free one. Default: loopback with the service's own port.
    pub listen: SocketAddr,
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

/// Problems of the common sections.
pub(super) fn problems(frame: &Frame<'_>) -> Vec<String> {
    let mut problems = frame.log.problems();
    problems.extend(frame.traces.problems());
    let Grpc { max_streams, request_timeout_ms, keepalive_ms, .. } = *frame.grpc;
    if max_streams == 0 || request_timeout_ms == 0 || keepalive_ms == 0 {
        problems.push("grpc.max_streams, grpc.request_timeout_ms and grpc.keepalive_ms must be above 0".to_owned());
    }
    let (http, grpc) = (frame.http.listen, frame.grpc.listen);
    if http == grpc && http.port() != 0 {
        problems.push(format!("http.listen and grpc.listen are both {http}: give them different ports"));
    }
    let Shutdown { grace_ms, probe_period_ms } = *frame.shutdown;
    if grace_ms > STOP_MS_MAX || probe_period_ms > STOP_MS_MAX {
        problems.push(format!("shutdown.grace_ms and shutdown.probe_period_ms may be {STOP_MS_MAX} at most"));
    }
    problems
}
