//! What each user of the broker needs, computed from the topology: nothing that the service does not do.
//!
//! **Invariant:** no service may configure anything; only the one owner of the topology may.
//!
//! Queues are reached over the default exchange, which knows no permission per routing key. So whoever may write to `amq.default`, and that
//! is every service, may write to every queue of the virtual host: give the system one of its own. What a service reads is bounded queue
//! by queue.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use countersign_delivery::Topology;
use countersign_delivery::topology::Subscription;

use crate::checkup::Right;
use crate::topology::Plan;

/// The default exchange in the words of permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// What one user may do in the virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its name.
    pub user: String,
    /// What it is for.
    pub purpose: &'static str,
    /// Tag of the user; empty: none. `monitoring` opens the management interface for reading.
    pub tag: &'static str,
    /// Exchanges and queues that it declares.
    pub configure: BTreeSet<String>,
    /// Exchanges that it publishes to (empty name: the default exchange), and what it binds.
    pub write: BTreeSet<String>,
    /// Queues that it consumes, and exchanges that it binds to.
    pub read: BTreeSet<String>,
}

impl Grant {
    fn new(user: impl Into<String>, purpose: &'static str) -> Self {
        let none = BTreeSet::new;
        Self { user: user.into(), purpose, tag: "", configure: none(), write: none(), read: none() }
    }

    /// Upstream publishes to the exchanges from which a subscription is reached, by their bindings or those of an alternate exchange.
    #[must_use]
    pub fn upstream(topology: &Topology) -> Self {
        let bound = |name: &str| {
            let mut bindings = topology.subscriptions.iter().flat_map(|subscription| &subscription.bindings);
            bindings.any(|binding| binding.exchange == name)
        };
        let reaches = |name: &str| topology.alternates(name).any(|exchange| bound(&exchange.name));
        let exchanges = topology.exchanges.iter().filter(|exchange| !exchange.internal && reaches(&exchange.name));
        let write = exchanges.map(|exchange| exchange.name.clone()).chain([String::new()]).collect();
        Self {
            write,
            ..Self::new("upstream", "publishes messages; delayed checks, resends and acts of operators over the default exchange")
        }
    }

    /// Downstream consumes the subscriptions that are `served` by it.
    #[must_use]
    pub fn downstream(topology: &Topology, served: impl Fn(&Subscription) -> bool) -> Self {
        let consumed = topology.subscriptions.iter().filter(|one| one.probes && served(one));
        Self {
            write: [String::new()].into(),
            read: consumed.flat_map(|one| [one.name.to_string(), one.limit_queue()]).collect(),
            ..Self::new(
                "downstream",
                "consumes work queues; receipts, retries, dead letters and acts of operators over the default exchange",
            )
        }
    }

    /// Callback consumes receipts, checks, and what nobody else reads.
    #[must_use]
    pub fn callback(topology: &Topology) -> Self {
        let dead = topology.subscriptions.iter().map(Subscription::dead_queue);
        let own = [topology.receipts_queue(), topology.checks_queue(), topology.quarantine_queue()];
        Self {
            write: [String::new(), topology.events_exchange()].into(),
            read: own.into_iter().chain(dead).collect(),
            ..Self::new(
                "callback",
                "consumes receipts, checks and dead letters; publishes events; checks, probes and what is redriven over the default exchange",
            )
        }
    }

    /// `countersign topology apply` and `verify`: who declares a queue that dead-letters must be able to read it and write to where it
    /// dead-letters to, and who binds a queue, to write to it and read the exchange.
    #[must_use]
    pub fn topology(topology: &Topology) -> Self {
        let plan = Plan::of(topology);
        let dead_lettering = plan.queues.iter().filter(|queue| queue.dead_letters()).map(|queue| queue.name.clone());
        let falling_back = plan.exchanges.iter().filter(|exchange| exchange.alternate.is_some());
        let sources = plan.bindings.iter().map(|binding| binding.exchange.clone());
        let bound = plan.bindings.iter().map(|binding| binding.queue.clone());
        let alternates = plan.exchanges.iter().filter_map(|exchange| exchange.alternate.clone());
        Self {
            read: dead_lettering.chain(sources).chain(falling_back.map(|exchange| exchange.name.clone())).collect(),
            write: bound.chain(alternates).chain([String::new()]).collect(),
            configure: plan
                .exchanges
                .iter()
                .map(|one| &one.name)
                .chain(plan.queues.iter().map(|one| &one.name))
                .cloned()
                .collect(),
            ..Self::new("topology", "declares exchanges, queues and bindings: countersign topology apply")
        }
    }

    /// Who looks at the broker for `countersign doctor`.
    #[must_use]
    pub fn doctor() -> Self {
        Self {
            tag: "monitoring",
            ..Self::new("doctor", "looks, by the management interface: countersign doctor --management-url")
        }
    }

    /// A consumer that is not ours and signs by itself, under its subscription's name.
    #[must_use]
    pub fn consumer(subscription: &Subscription) -> Self {
        Self {
            write: [String::new()].into(),
            read: [subscription.name.to_string()].into(),
            ..Self::new(
                subscription.name.as_str(),
                "a consumer that is not ours; signs, and puts into its dead-letter queue, over the default exchange",
            )
        }
    }

    /// Those of every user that the topology has work for.
    #[must_use]
    pub fn all(topology: &Topology) -> Vec<Self> {
        let foreign = topology.subscriptions.iter().filter(|subscription| !subscription.probes).map(Self::consumer);
        let services = [Self::upstream(topology), Self::downstream(topology, |_| true), Self::callback(topology)];
        services.into_iter().chain(foreign).chain([Self::topology(topology), Self::doctor()]).collect()
    }

    /// The patterns for configure, write and read.
    #[must_use]
    pub fn patterns(&self) -> [String; 3] {
        [&self.configure, &self.write, &self.read].map(pattern)
    }

    /// What of it can be asked for without doing it, as a service needs it: see [`rights`](crate::checkup::rights).
    #[must_use]
    pub fn rights(&self) -> Vec<Right> {
        let write = self.write.iter().cloned().map(Right::Write);
        write.chain(self.read.iter().cloned().map(Right::Read)).collect()
    }
}

/// Matches these names and no others.
fn pattern(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "^$".to_owned();
    }
    let names: Vec<_> = names.iter().map(|name| literal(if name.is_empty() { DEFAULT_EXCHANGE } else { name })).collect();
    format!("^({})$", names.join("|"))
}

/// A name as a regular expression.
fn literal(name: &str) -> String {
    name.chars().fold(String::new(), |mut text, letter| {
        // Writing to a string cannot fail.
        let _ = if r"\.^$|()[]{}*+?".contains(letter) { write!(text, "\\{letter}") } else { write!(text, "{letter}") };
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[[exchange]]\nname = 'orders'\nkind = 'topic'\nalternate = 'rest'\n[[exchange]]\nname = 'rest'\nkind = 'fanout'\ninternal = true\n\
        [[exchange]]\nname = 'unbound'\nkind = 'topic'\n\
        [[subscription]]\nname = 'a'\nretry_delays_ms = [1000]\nbind = [{ exchange = 'orders' }]\n\
        [[subscription]]\nname = 'audit'\nprobes = false\nretry_delays_ms = []\nbind = [{ exchange = 'rest' }]\n[checks]\ncheck_delay_ms = 5\nrecheck_delays_ms = [5]";

    #[test]
    fn each_user_may_do_what_it_does_and_no_more() {
        let topology = Topology::from_toml(FILE).unwrap();
        let all: Vec<_> = Grant::all(&topology).iter().map(|grant| (grant.user.clone(), grant.patterns())).collect();
        let rows = [
            ("upstream", ["^$", r"^(amq\.default|orders)$", "^$"]),
            ("downstream", ["^$", r"^(amq\.default)$", r"^(a|a\.limit)$"]),
            (
                "callback",
                [
                    "^$",
                    r"^(amq\.default|countersign\.events)$",
                    r"^(a\.dead|audit\.dead|countersign\.checks|countersign\.quarantine|countersign\.receipts)$",
                ],
            ),
            ("audit", ["^$", r"^(amq\.default)$", "^(audit)$"]),
            (
                "topology",
                [
                    r"^(a|a\.dead|a\.limit|a\.retry\.1000|audit|audit\.dead|countersign\.checks|countersign\.checks\.5|countersign\.events|countersign\.quarantine|countersign\.receipts|orders|rest|unbound)$",
                    r"^(amq\.default|a|audit|rest)$",
                    r"^(a|a\.retry\.1000|audit|countersign\.checks|countersign\.checks\.5|countersign\.receipts|orders|rest)$",
                ],
            ),
            ("doctor", ["^$", "^$", "^$"]),
        ];
        let rows = rows.map(|(user, patterns)| (user.to_owned(), patterns.map(ToOwned::to_owned)));
        assert_eq!(all, rows);
    }

    #[test]
    fn a_name_means_itself() {
        assert_eq!(pattern(&["a.b*(c)".to_owned()].into()), r"^(a\.b\*\(c\))$");
    }
}
