//! Which subscriptions share a breaker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Breaker;

/// The breakers of a process: one for each endpoint, and one for each handler in code.
pub struct Breakers {
    failures: u32,
    pause: Duration,
    by_endpoint: HashMap<String, Arc<Breaker>>,
}

impl Breakers {
    /// None yet; each opens after `failures` in a row (0: never) for `pause`.
    #[must_use]
    pub fn new(failures: u32, pause: Duration) -> Self {
        Self { failures, pause, by_endpoint: HashMap::new() }
    }

    /// The breaker before a subscription's handler: that of its endpoint, or one of its own when it is handled in this process.
    pub fn of(&mut self, subscription: &str, endpoint: Option<&str>) -> Arc<Breaker> {
        let new = || Arc::new(Breaker::new(self.failures, self.pause));
        let breaker = match endpoint {
            Some(endpoint) => self.by_endpoint.entry(canonical(endpoint)).or_insert_with(new).clone(),
            None => new(),
        };
        breaker.guards(subscription);
        breaker
    }
}

/// One spelling of an address: `http://HOST:80` is `http://host/`.
fn canonical(endpoint: &str) -> String {
    reqwest::Url::parse(endpoint).map_or_else(|_| endpoint.to_owned(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn subscriptions_with_one_endpoint_share_a_breaker_and_others_do_not() {
        let mut breakers = Breakers::new(2, Duration::from_secs(1));
        let orders = breakers.of("orders", Some("http://127.0.0.1:80/orders"));
        let audit = breakers.of("audit", Some("HTTP://127.0.0.1/orders"));
        let other = breakers.of("other", Some("http://127.0.0.1/other"));
        let (one, two) = (breakers.of("one", None), breakers.of("two", None));
        orders.failed();
        audit.failed();
        assert!(orders.pass().now_or_never().is_none() && audit.pass().now_or_never().is_none());
        one.failed();
        one.failed();
        assert!(other.pass().now_or_never().is_some() && two.pass().now_or_never().is_some());
    }
}
