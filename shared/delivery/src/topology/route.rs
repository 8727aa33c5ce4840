//! How messages of an exchange and key are delivered: the mode, and what happens when a queue is full.

use serde::{Deserialize, Serialize};

use crate::routing::ExchangeKind;
use crate::topology::Topology;

/// What a route promises, and what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A row and a delayed check: processed, or sent again until a human takes over.
    #[default]
    Verified,
    /// A row with a status that each confirm updates: accepted by the broker, or shown to a human. A check only if the route asks for one.
    Outbox,
    /// No row and no check: the broker confirms before the caller has an answer.
    Confirmed,
}

/// What becomes of a message for a queue that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// It is stored and published again, with growing pauses, until there is room.
    #[default]
    Keep,
    /// It is refused before it is stored, as long as the queue was full when it was last tried.
    Reject,
}

/// One `[[route]]`: the first one that matches a message decides; without one a message is verified and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Messages published to this exchange.
    pub exchange: String,
    /// With a routing key that this pattern matches, as a topic exchange would; every key by default.
    #[serde(default = "every_key")]
    pub routing_key: String,
    /// What is promised.
    #[serde(default)]
    pub mode: Mode,
    /// Whether a message of mode `outbox` has a delayed check, too.
    #[serde(default)]
    pub check: bool,
    /// What becomes of it when a queue is full.
    #[serde(default)]
    pub on_full: OnFull,
}

fn every_key() -> String {
    "#".into()
}

impl Route {
    /// What holds where no route says otherwise.
    const USUAL: Self =
        Self { exchange: String::new(), routing_key: String::new(), mode: Mode::Verified, check: false, on_full: OnFull::Keep };

    /// Whether a delayed check follows the message.
    #[must_use]
    pub const fn has_check(&self) -> bool {
        matches!(self.mode, Mode::Verified) || self.check
    }
}

impl Topology {
    /// The route of a message by what it was published with; alternate exchanges play no part.
    #[must_use]
    pub fn route(&self, exchange: &str, routing_key: &str) -> &Route {
        let none = std::collections::BTreeMap::new();
        let matches = |route: &&Route| {
            route.exchange == exchange && ExchangeKind::Topic.matches(&route.routing_key, &none, routing_key, &none)
        };
        self.routes.iter().find(matches).unwrap_or(const { &Route::USUAL })
    }
}
