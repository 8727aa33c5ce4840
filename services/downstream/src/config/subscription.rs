//! What one subscription has of its own.

use countersign_boot::Secret;
use countersign_delivery::SubscriptionName;
use serde::{Deserialize, Serialize};

use super::{DownstreamSection, JITTER_MAX, OnUnknown, PREFETCH_MAX};

/// Most starts in a second that can be asked for.
const RATE_MAX: u32 = 1_000_000;

/// One `[[downstream.subscription]]`. What is left out is taken from the code that subscribes, and what that leaves out from `[downstream]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubscriptionSection {
    /// As in the topology.
    pub name: String,
    /// Where its messages are delivered by HTTP. Left out for a subscription with a handler in Rust.
    pub endpoint: Option<Secret>,
    /// Handlers at a time.
    pub concurrency: Option<u32>,
    /// Unsettled messages, 1 to 1 000.
    pub prefetch: Option<u16>,
    /// Longest time of one call of the handler, milliseconds.
    pub timeout_ms: Option<u64>,
    /// The share of a retry tier's delay by which a failed message may come again earlier, 0 to 0.9.
    pub retry_jitter: Option<f64>,
    /// After a crash.
    pub on_unknown: Option<OnUnknown>,
    /// Crashes that a message may cause before it is poison.
    pub max_crashes: Option<u32>,
    /// Most messages that one process starts to handle in a second, those that come again included; a tenth of that at once after a quiet
    /// time. By default as many as there are.
    pub rate_per_second: Option<u32>,
}

impl PartialEq for SubscriptionSection {
    fn eq(&self, other: &Self) -> bool {
        let endpoint = |section: &Self| section.endpoint.as_ref().map(|secret| secret.expose().to_owned());
        let figures = |section: &Self| (section.concurrency, section.prefetch, section.timeout_ms, section.rate_per_second);
        let crashes = |section: &Self| (section.on_unknown, section.max_crashes, section.retry_jitter);
        let rest = |section: &Self| (figures(section), crashes(section));
        self.name == other.name && endpoint(self) == endpoint(other) && rest(self) == rest(other)
    }
}

/// The figures of one subscription, its own or the common ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) concurrency: u32,
    pub(crate) prefetch: u16,
    pub(crate) timeout_ms: u64,
    pub(crate) retry_jitter: f64,
    pub(crate) on_unknown: OnUnknown,
    pub(crate) max_crashes: u32,
    pub(crate) rate_per_second: Option<u32>,
}

impl DownstreamSection {
    pub(crate) fn figures(&self, name: &str) -> Figures {
        let own = self.subscription(name).cloned().unwrap_or_default();
        Figures {
            concurrency: own.concurrency.unwrap_or(self.concurrency),
            prefetch: own.prefetch.unwrap_or(self.prefetch),
            timeout_ms: own.timeout_ms.unwrap_or(self.timeout_ms),
            retry_jitter: own.retry_jitter.unwrap_or(self.retry_jitter),
            on_unknown: own.on_unknown.unwrap_or(self.on_unknown),
            max_crashes: own.max_crashes.unwrap_or(self.max_crashes),
            rate_per_second: own.rate_per_second,
        }
    }

    /// Takes over what code says of a subscription, where its entry says nothing.
    pub(crate) fn declare(&mut self, code: &SubscriptionSection) {
        let Some(own) = self.subscriptions.iter_mut().find(|own| own.name == code.name) else {
            return self.subscriptions.push(code.clone());
        };
        own.concurrency = own.concurrency.or(code.concurrency);
        own.prefetch = own.prefetch.or(code.prefetch);
        own.timeout_ms = own.timeout_ms.or(code.timeout_ms);
        own.on_unknown = own.on_unknown.or(code.on_unknown);
        own.max_crashes = own.max_crashes.or(code.max_crashes);
        own.rate_per_second = own.rate_per_second.or(code.rate_per_second);
        own.retry_jitter = own.retry_jitter.or(code.retry_jitter);
    }
}

impl SubscriptionSection {
    /// What is wrong with it, each with its remedy; `place` is where it is written.
    pub(crate) fn problems(&self, place: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut problem = |text: &str| problems.push(format!("{place} {:?}: {text}", self.name));
        if SubscriptionName::new(&self.name).is_err() {
            problem("name is not valid: use the name from the topology");
        }
        let readable = |endpoint: &Secret| {
            reqwest::Url::parse(endpoint.expose()).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if self.endpoint.as_ref().is_some_and(|endpoint| !readable(endpoint)) {
            problem("endpoint cannot be used: write http://host:port/path or https://…");
        }
        if self.concurrency == Some(0) || self.timeout_ms == Some(0) {
            problem("concurrency and timeout_ms must be 1 or more");
        }
        if self.prefetch.is_some_and(|prefetch| !(1..=PREFETCH_MAX).contains(&prefetch)) {
            problem(&format!("prefetch must be 1 to {PREFETCH_MAX}"));
        }
        if self.retry_jitter.is_some_and(|jitter| !(0.0..=JITTER_MAX).contains(&jitter)) {
            problem(&format!("retry_jitter must be 0 to {JITTER_MAX}"));
        }
        if self.rate_per_second.is_some_and(|rate| !(1..=RATE_MAX).contains(&rate)) {
            problem(&format!("rate_per_second must be 1 to {RATE_MAX}: pause the subscription to have nothing handled"));
        }
        problems
    }
}
