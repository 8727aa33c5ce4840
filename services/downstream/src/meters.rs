//! What is counted for every message of a subscription, by handles that are kept, since looking them up costs more than counting.

use std::time::Duration;

use countersign_delivery::SubscriptionName;
use countersign_telemetry::names;
use metrics::{Counter, Histogram};

use crate::receive::Outcome;

/// The meters of one subscription.
pub struct Meters {
    subscription: String,
    done: Counter,
    handler_duration: Histogram,
}

impl Meters {
    /// Asks the installed recorder for the handles; install it before.
    #[must_use]
    pub fn of(subscription: &SubscriptionName) -> Self {
        let subscription = subscription.to_string();
        Self {
            done: ended(&subscription, Outcome::Done),
            handler_duration: metrics::histogram!(names::HANDLER_DURATION_SECONDS, "subscription" => subscription.clone()),
            subscription,
        }
    }

    /// A message has come to its end here.
    pub fn ended(&self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done.increment(1),
            rare => ended(&self.subscription, rare).increment(1),
        }
    }

    /// The handler was called and has answered, or not in time.
    pub fn called(&self, took: Duration) {
        self.handler_duration.record(took.as_secs_f64());
    }
}

fn ended(subscription: &str, outcome: Outcome) -> Counter {
    metrics::counter!(names::CONSUME_TOTAL, "subscription" => subscription.to_owned(), "outcome" => outcome.word())
}
