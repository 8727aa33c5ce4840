//! Where the broker is, and every bound of talking to it.

use std::path::PathBuf;
use std::time::Duration;

use countersign_boot::Secret;
use lapin::uri::AMQPUri;
use serde::{Deserialize, Serialize};

/// The section `[broker]` of a service's configuration. Unknown keys are refused, passwords never shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…` for TLS; the virtual host `/` is written `/%2f`. The nodes of a cluster stand
    /// one after the other, `amqp://user:password@one:5672,two:5672,three:5672/vhost`: a connection goes to one of them, the first by
    /// chance, and to the next when that one cannot be reached. Default `amqp://guest:guest@127.0.0.1:5672/%2f`.
    pub url: Secret,
    /// A PEM file of certificate authorities to trust with `amqps`, besides those of the system. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Seconds between heartbeats; a peer that is silent for twice as long is given up. Default 10.
    pub heartbeat_s: u16,
    /// Longest time to connect, log in and open a channel, milliseconds. Default 5 000.
    pub connect_timeout_ms: u64,
    /// Longest time a publish waits for its outcome, milliseconds; then it is unknown. Default 10 000.
    pub confirm_timeout_ms: u64,
    /// Most publications in flight on the publishing channel, 1 to 10 000. Default 1 000: more costs more than it gives.
    pub publish_window: usize,
    /// Shortest pause before connecting again, milliseconds; doubles with each failure, and is drawn out by chance. Default 100.
    pub reconnect_min_ms: u64,
    /// Longest pause before connecting again, milliseconds. Default 5 000.
    pub reconnect_max_ms: u64,
}

/// Who logs in where.
#[derive(Clone, Debug)]
pub struct Login {
    /// Name or address, without the port.
    pub host: String,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The virtual host, not escaped.
    pub vhost: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".into(),
            ca_file: None,
            heartbeat_s: 10,
            connect_timeout_ms: 5_000,
            confirm_timeout_ms: 10_000,
            publish_window: 1_000,
            reconnect_min_ms: 100,
            reconnect_max_ms: 5_000,
        }
    }
}

impl Config {
    /// Largest [`Config::publish_window`]: the client scans all pending tags for each multiple confirm.
    pub const MAX_WINDOW: usize = 10_000;
    /// Most nodes in [`Config::url`]: a round over all of them takes that many connect timeouts.
    pub const MAX_NODES: usize = 16;

    /// What cannot work, each with its remedy; empty when sound.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.parsed() {
            None => problems.push(
                "broker.url cannot be read: write amqp://user:password@host:port/vhost, the vhost `/` as %2f, the nodes of a cluster as host:port,host:port".into(),
            ),
            Some(nodes) if nodes.len() > Self::MAX_NODES => {
                problems.push(format!("broker.url names {} nodes: name {} at most", nodes.len(), Self::MAX_NODES));
            }
            Some(_) => {}
        }
        if self.heartbeat_s == 0 {
            problems.push("broker.heartbeat_s is 0: a broken connection would never be noticed; use 10".into());
        }
        for (name, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("confirm_timeout_ms", self.confirm_timeout_ms),
            ("reconnect_min_ms", self.reconnect_min_ms),
        ] {
            if value == 0 {
                problems.push(format!("broker.{name} is 0: give it some milliseconds"));
            }
        }
        if !(1..=Self::MAX_WINDOW).contains(&self.publish_window) {
            problems.push(format!("broker.publish_window is {}: use 1 to {}", self.publish_window, Self::MAX_WINDOW));
        }
        if self.reconnect_max_ms < self.reconnect_min_ms {
            problems.push("broker.reconnect_max_ms is below reconnect_min_ms: raise it".into());
        }
        problems
    }

    /// One address for each node.
    pub(crate) fn parsed(&self) -> Option<Vec<AMQPUri>> {
        let parse = |address: String| {
            let mut uri: AMQPUri = address.parse().ok()?;
            if let Some(ip) = ipv6_of(&address) {
                uri.authority.host = ip;
            }
            uri.query.heartbeat = Some(self.heartbeat_s);
            Some(uri)
        };
        addresses(self.url.expose())?.into_iter().map(parse).collect()
    }

    /// The parts of the address, of the first node where there are several; none when it cannot be read.
    #[must_use]
    pub fn login(&self) -> Option<Login> {
        let uri = self.parsed()?.into_iter().next()?;
        let user = uri.authority.userinfo;
        Some(Login { host: uri.authority.host, user: user.username, password: user.password.into(), vhost: uri.vhost })
    }

    /// Host, port and virtual host: what may be shown.
    #[must_use]
    pub fn place(&self) -> String {
        self.parsed().map_or_else(|| "an unreadable address".into(), |nodes| place_of(&nodes))
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) const fn confirm_timeout(&self) -> Duration {
        Duration::from_millis(self.confirm_timeout_ms)
    }
}

/// What may be shown of these nodes' addresses, of which there is at least one.
pub(crate) fn place_of(nodes: &[AMQPUri]) -> String {
    let host = |uri: &AMQPUri| match uri.authority.host.as_str() {
        ipv6 if ipv6.contains(':') => format!("[{ipv6}]:{}", uri.authority.port),
        named => format!("{named}:{}", uri.authority.port),
    };
    let hosts: Vec<_> = nodes.iter().map(host).collect();
    let (scheme, vhost) = nodes.first().map_or((String::new(), ""), |uri| (uri.scheme.to_string(), uri.vhost.as_str()));
    format!("{scheme}://{} vhost {vhost:?}", hosts.join(","))
}

/// The host of an address if it is one of IPv6, without its brackets; whoever parses the address takes the default host in its place.
fn ipv6_of(address: &str) -> Option<String> {
    let [_, _, host, _] = parts(address)?;
    let (ip, _) = host.strip_prefix('[')?.split_once(']')?;
    Some(ip.to_owned())
}

/// An address for each host of an address; none when one of several is empty.
fn addresses(url: &str) -> Option<Vec<String>> {
    let [scheme, user, hosts, tail] = parts(url)?;
    let several = hosts.contains(',');
    let address = |host: &str| (!(several && host.is_empty())).then(|| format!("{scheme}://{user}{host}{tail}"));
    hosts.split(',').map(address).collect()
}

/// Scheme, user and password with their `@`, hosts with ports, and the rest.
fn parts(url: &str) -> Option<[&str; 4]> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    Some([scheme, user, hosts, tail])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = Config { url: "amqp://me:hush@mq.example:1/v".into(), ..Config::default() };
        let shown = format!("{config:?}");
        assert!(!shown.contains("hush") && shown.contains("mq.example"), "{shown}");
        let broken = Config { url: "amqp//me:hush@mq".into(), ..Config::default() };
        assert!(!format!("{broken:?} {:?}", broken.problems()).contains("hush"));
    }

    #[test]
    fn an_address_has_parts() {
        let login = Config { url: "amqp://me:hush@mq.example:1/a%20b".into(), ..Config::default() }.login().unwrap();
        assert_eq!((login.host.as_str(), login.user.as_str(), login.vhost.as_str()), ("mq.example", "me", "a b"));
        assert_eq!(login.password.expose(), "hush");
        assert!(!format!("{login:?}").contains("hush"));
    }

    #[test]
    fn the_nodes_of_a_cluster_share_all_but_their_place() {
        let config = Config { url: "amqp://me:a,b%40c@one:1,two,[::1]:3/v?frame_max=9".into(), ..Config::default() };
        let nodes = config.parsed().unwrap();
        let places: Vec<_> = nodes.iter().map(|uri| (uri.authority.host.as_str(), uri.authority.port)).collect();
        assert_eq!(places, [("one", 1), ("two", 5672), ("::1", 3)]);
        for uri in &nodes {
            assert_eq!(
                (uri.vhost.as_str(), uri.authority.userinfo.password.as_str(), uri.query.frame_max),
                ("v", "a,b@c", Some(9))
            );
        }
        assert_eq!(config.place(), "amqp://one:1,two:5672,[::1]:3 vhost \"v\"");
        assert_eq!(config.login().unwrap().host, "one");
        assert!(!format!("{config:?}").contains("a,b"));
        for (url, word) in [("amqp://one,,two/v", "cannot be read"), (&format!("amqp://h{}/v", ",h".repeat(16)), "17 nodes")] {
            let problems = Config { url: url.into(), ..Config::default() }.problems().join("\n");
            assert!(problems.contains(word), "{url}: {problems}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_shows_no_password() {
        let config = Config { url: "amqp://me:hush@mq.example:1/v".into(), heartbeat_s: 7, ..Config::default() };
        let written = toml::to_string(&config).unwrap();
        assert!(!written.contains("hush") && written.contains("mq.example"), "{written}");
        assert_eq!(toml::from_str::<Config>(&written).unwrap().heartbeat_s, 7);
    }

    #[test]
    fn every_problem_is_named() {
        let config = Config {
            url: "nonsense".into(),
            ca_file: None,
            heartbeat_s: 0,
            connect_timeout_ms: 0,
            confirm_timeout_ms: 0,
            publish_window: 0,
            reconnect_min_ms: 2,
            reconnect_max_ms: 1,
        };
        let problems = config.problems().join("\n");
        for key in ["url", "heartbeat_s", "connect_timeout_ms", "confirm_timeout_ms", "publish_window", "reconnect_max_ms"] {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<Config>("url = 'amqp://h/%2f'\nprefetch_count = 3").is_err());
        assert_eq!(toml::from_str::<Config>("publish_window = 7").map(|config| config.publish_window).ok(), Some(7));
    }
}
