//! The middle of the third step: the handler is called, within its time and, if the guard says so, within the guard's transaction.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use countersign_delivery::ports::claims::Claim;
use countersign_telemetry::{failed, names};
use futures::FutureExt as _;
use tracing::Instrument as _;

use super::Reception;
use crate::arrived::Arrived;
use crate::guard::{Effect, Handling};
use crate::handler::{Event, Failure, Handled, HandlerContext};

/// The same for every call about one effect: a handler that knows it from the first effect takes a further one for another.
fn idempotency_key(message: &Event) -> String {
    match message.effect_epoch {
        0 => message.id.to_string(),
        further => format!("{}/{further}", message.id),
    }
}

impl Reception {
    /// Has the effect of a claimed message happen.
    pub(super) async fn effect(&self, arrived: &Arrived, claim: &Claim, starts: u32, crashes: u32) -> Effect {
        let (message, context) = (&arrived.arrival, self.context_of(arrived, starts, crashes));
        match &self.handling {
            Handling::Direct(handler) => match self.call(handler.handle(message, &context)).await {
                Ok(_) => Effect::Happened,
                Err(failure) => Effect::Failed(failure),
            },
            Handling::InTransaction(handler, transactions) => {
                let transaction = match transactions.begin(claim).await {
                    Ok(transaction) => transaction,
                    Err(effect) => return effect,
                };
                let answer = self.call(handler.handle(message, &context, &transaction)).await;
                transactions.end(transaction, answer).await
            }
        }
    }

    fn context_of(&self, arrived: &Arrived, starts: u32, crashes: u32) -> HandlerContext {
        HandlerContext {
            subscription: self.subscription.name.clone(),
            idempotency_key: idempotency_key(&arrived.arrival),
            starts,
            crashes,
            timeout_ms: self.timeout_ms,
        }
    }

    /// One call of the handler: bounded, caught, measured; the breaker hears how it went.
    async fn call(&self, call: impl Future<Output = Result<Handled, Failure>>) -> Result<Handled, Failure> {
        let span = tracing::info_span!(
            names::SPAN_HANDLE,
            { names::OTEL_KIND } = names::INTERNAL,
            { names::ERROR_TYPE } = tracing::field::Empty,
            { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
        );
        let call = AssertUnwindSafe(call).catch_unwind();
        let started = tokio::time::Instant::now();
        let answer = tokio::time::timeout(Duration::from_millis(self.timeout_ms), call).instrument(span.clone()).await;
        self.meters.called(started.elapsed());
        let handled = match answer {
            Ok(Ok(handled)) => handled,
            Ok(Err(_panic)) => Err(Failure::retry("the handler panicked")),
            Err(_elapsed) => Err(Failure::retry(format_args!("the handler did not answer within {} ms", self.timeout_ms))),
        };
        match &handled {
            Ok(_) => self.breaker.succeeded(),
            Err(Failure::Retry { .. }) => {
                failed(&span, "retry");
                self.breaker.failed();
            }
            Err(Failure::Reject { .. }) => {
                failed(&span, "reject");
                self.breaker.succeeded();
            }
        }
        handled
    }
}
