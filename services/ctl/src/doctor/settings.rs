//! What the services are configured to do, as far as it can be judged from outside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use countersign_boot::config::{load_part, variables};
use countersign_boot::topology::TopologySource;
use countersign_boot::{Error, Secret, Tls};
use countersign_delivery::policy::Policy;
use serde::{Deserialize, Serialize};

use crate::doctor::finding::Finding;

const FILE: &str = "configuration.file";

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Upstream,
    Downstream,
    Callback,
}

impl Which {
    pub const ALL: [Self; 3] = [Self::Upstream, Self::Downstream, Self::Callback];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::Callback => "callback",
        }
    }

    /// Where its health and metrics are when its configuration does not say.
    const fn http_port(self) -> u16 {
        match self {
            Self::Upstream => 7111,
            Self::Downstream => 7112,
            Self::Callback => 7113,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sections that are looked at; what else a file has is passed over. One form for all three services.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    pub broker: countersign_broker::Config,
    pub redis: countersign_dedup::Server,
    pub topology: TopologySource,
    pub policy: Policy,
    pub http: Listen,
    pub grpc: Listen,
    pub tls: Tls,
    pub database: Database,
    pub upstream: Upstream,
    pub downstream: Downstream,
    pub callback: Callback,
}

impl Part {
    /// How its servers are spoken to.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_on() { "https" } else { "http" }
    }
}

/// Of `[http]` and `[grpc]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listen {
    pub listen: Option<SocketAddr>,
}

/// Of `[database]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    pub url: Option<Secret>,
}

/// Of `[upstream]`; the defaults are the service's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_field_names, reason = "the keys of the file")]
pub struct Upstream {
    /// 0: everything is kept.
    pub retention_ms: u64,
    pub handler_timeout_ms: u64,
    pub handler_lease_ms: u64,
}

/// Of `[downstream]`; the defaults are the service's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Downstream {
    pub dedup_retention_ms: u64,
    pub lease_ms: u64,
    pub timeout_ms: u64,
    #[serde(rename = "subscription")]
    pub subscriptions: Vec<Subscription>,
}

/// Of `[[downstream.subscription]]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscription {
    pub name: String,
    pub timeout_ms: Option<u64>,
}

/// Of `[callback]`; the default is the service's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Callback {
    pub dedup_retention_ms: u64,
}

/// Seven days.
const RETENTION_MS: u64 = 7 * 24 * 3_600_000;

impl Default for Upstream {
    fn default() -> Self {
        Self { retention_ms: RETENTION_MS, handler_timeout_ms: 30_000, handler_lease_ms: 30_000 }
    }
}

impl Default for Downstream {
    fn default() -> Self {
        Self { dedup_retention_ms: RETENTION_MS, lease_ms: 30_000, timeout_ms: 30_000, subscriptions: Vec::new() }
    }
}

impl Default for Callback {
    fn default() -> Self {
        Self { dedup_retention_ms: RETENTION_MS }
    }
}

impl Downstream {
    /// The longest time of one call of any handler, milliseconds.
    pub fn longest_timeout_ms(&self) -> u64 {
        self.subscriptions.iter().filter_map(|own| own.timeout_ms).fold(self.timeout_ms, u64::max)
    }

    /// The longest time of one call of a subscription's handler, milliseconds.
    pub fn timeout_ms(&self, subscription: &str) -> u64 {
        let own = self.subscriptions.iter().find(|own| own.name == subscription);
        own.and_then(|own| own.timeout_ms).unwrap_or(self.timeout_ms)
    }
}

impl Database {
    /// `PostgreSQL` or `SQLite`.
    pub fn kind(&self) -> &'static str {
        let url = self.url.as_ref().map_or("", |url| url.expose());
        if url.starts_with("postgres") { "PostgreSQL" } else { "SQLite" }
    }
}

/// One service as it is configured.
#[derive(Clone, Debug)]
pub struct Installed {
    pub which: Which,
    /// None when its file cannot be used.
    pub part: Option<Part>,
    /// Where its health and metrics are.
    pub http_url: String,
}

/// What the file of each service says; None when it cannot be used.
pub type Parts = Vec<(Which, Option<Part>)>;

/// Reads the three files of `folder`; what is missing there, or everything without a folder, is the built-in default.
///
/// # Errors
/// When the folder itself cannot be read.
pub fn read(folder: Option<&Path>) -> anyhow::Result<(Parts, Vec<Finding>)> {
    if let Some(folder) = folder {
        anyhow::ensure!(
            folder.is_dir(),
            "--config {} is not a folder: name the one with upstream.toml, downstream.toml and callback.toml",
            folder.display()
        );
    }
    let mut findings = Vec::new();
    let parts = Which::ALL.map(|which| (which, read_one(which, folder, &mut findings)));
    Ok((parts.into(), findings))
}

fn read_one(which: Which, folder: Option<&Path>, findings: &mut Vec<Finding>) -> Option<Part> {
    let named: Option<PathBuf> = folder.map(|folder| folder.join(format!("{which}.toml")));
    let there = named.as_deref().filter(|file| file.exists());
    let part = match load_part::<Part>(there, variables()) {
        Ok(part) => part,
        Err(error) => {
            let remedy = format!("mend it; `{which} --config FILE --check-config` says when it is right");
            findings.push(Finding::error(FILE, which.as_str(), in_words(error), remedy));
            return None;
        }
    };
    findings.push(match (&named, there) {
        (None, _) => {
            Finding::ok(FILE, which.as_str(), "built-in defaults assumed; --config DIR names a folder of configuration files")
        }
        (Some(_), Some(file)) => Finding::ok(FILE, which.as_str(), file.display().to_string()),
        (Some(file), None) => Finding::warning(
            FILE,
            which.as_str(),
            format!("{} does not exist: built-in defaults assumed", file.display()),
            format!("put {which}'s configuration there, or set COUNTERSIGN_<SECTION>__<KEY> as {which} has it"),
        ),
    });
    Some(part)
}

fn in_words(error: Error) -> String {
    match error {
        Error::Config(problems) => problems.join("; "),
        other => other.to_string(),
    }
}

/// Where a service's HTTP server is reached from this machine: a wildcard address stands for loopback.
pub fn http_url(which: Which, part: Option<&Part>) -> String {
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), which.http_port());
    let listen = part.and_then(|part| part.http.listen).unwrap_or(default);
    format!("{}://{}", part.map_or("http", Part::scheme), reachable(listen))
}

/// A wildcard address as loopback.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()) } else { listen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn a_wildcard_address_is_reached_over_loopback() {
        let mut part = Part::default();
        assert_eq!(http_url(Which::Callback, Some(&part)), "http://127.0.0.1:7113");
        for (listen, url) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://127.0.0.1:8080"),
            ("10.0.0.7:1", "http://10.0.0.7:1"),
        ] {
            part.http.listen = listen.parse().ok();
            assert_eq!(http_url(Which::Upstream, Some(&part)), url);
        }
    }

    #[test]
    fn a_subscription_may_have_a_time_out_of_its_own() {
        let own = Subscription { name: "slow".into(), timeout_ms: Some(90_000) };
        let downstream = Downstream { subscriptions: vec![own], ..Downstream::default() };
        assert_eq!((downstream.timeout_ms("slow"), downstream.timeout_ms("other")), (90_000, 30_000));
        assert_eq!((downstream.longest_timeout_ms(), Downstream::default().longest_timeout_ms()), (90_000, 30_000));
    }

    #[test]
    fn what_it_does_not_know_is_passed_over() {
        let folder = std::env::temp_dir().join(format!("countersign-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = "[downstream]\nlease_ms = 5\nnew_key = true\n[unheard_of]\na = 1\n[[downstream.subscription]]\nname = 'a'\nendpoint = 'x'\n";
        std::fs::write(folder.join("downstream.toml"), text).unwrap();
        std::fs::write(folder.join("callback.toml"), "[callback\n").unwrap();
        let (parts, findings) = read(Some(&folder)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(parts[1].1.as_ref().map(|part| part.downstream.lease_ms), Some(5));
        assert!(parts[2].1.is_none(), "not TOML");
        let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Warning, Severity::Ok, Severity::Error]);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok || !finding.remedy.is_empty()));
        assert!(read(Some(&folder)).is_err(), "no such folder");
    }
}
