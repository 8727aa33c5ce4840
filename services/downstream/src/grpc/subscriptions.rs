//! Subscriptions: how they stand, and their pauses.

use std::sync::Arc;

use countersign_boot::access::signed;
use countersign_delivery::ports::pauses::Pause;
use countersign_delivery::ports::{Clock, PortError};
use countersign_telemetry::{names, with_sources};
use countersign_wire::proto;
use countersign_wire::proto::subscription_service_server::SubscriptionService;
use tonic::{Request, Response, Status};

use crate::breaker;
use crate::pause::Watch;
use crate::receive::DETAIL_MAX;
use crate::standing::Standing;

/// Longest name of an operator, bytes.
const BY_MAX: usize = 100;

/// The API over the subscriptions of one process.
#[derive(Clone)]
pub struct Api {
    standings: Arc<[Standing]>,
    watch: Watch,
    clock: Arc<dyn Clock>,
}

#[tonic::async_trait]
impl SubscriptionService for Api {
    async fn list_subscriptions(
        &self,
        _: Request<proto::ListSubscriptionsRequest>,
    ) -> Result<Response<proto::ListSubscriptionsResponse>, Status> {
        let subscriptions = self.standings.iter().map(status).collect();
        Ok(Response::new(proto::ListSubscriptionsResponse { subscriptions }))
    }

    async fn pause_subscription(
        &self,
        request: Request<proto::PauseSubscriptionRequest>,
    ) -> Result<Response<proto::PauseSubscriptionResponse>, Status> {
        let proto::PauseSubscriptionRequest { name, reason, by } = signed(request, |asked| &mut asked.by);
        let paused = self.pause(&name, &reason, &by).await;
        note("pause", &paused, &name, &by, &reason);
        paused.map(|subscription| Response::new(proto::PauseSubscriptionResponse { subscription: Some(subscription) }))
    }

    async fn resume_subscription(
        &self,
        request: Request<proto::ResumeSubscriptionRequest>,
    ) -> Result<Response<proto::ResumeSubscriptionResponse>, Status> {
        let proto::ResumeSubscriptionRequest { name, by } = signed(request, |asked| &mut asked.by);
        let resumed = self.resume(&name, &by).await;
        note("resume", &resumed, &name, &by, "");
        resumed.map(|(subscription, was_paused)| {
            Response::new(proto::ResumeSubscriptionResponse { subscription: Some(subscription), was_paused })
        })
    }
}

impl Api {
    /// Over these subscriptions, of which `watch` can pause some.
    #[must_use]
    pub fn new(mut standings: Vec<Standing>, watch: Watch, clock: Arc<dyn Clock>) -> Self {
        standings.sort_by(|one, other| one.name.cmp(&other.name));
        Self { standings: standings.into(), watch, clock }
    }

    async fn pause(&self, name: &str, reason: &str, by: &str) -> Result<proto::SubscriptionStatus, Status> {
        if reason.trim().is_empty() || reason.len() > DETAIL_MAX {
            return Err(Status::invalid_argument(format!(
                "the reason has {} bytes: say in 1 to {DETAIL_MAX} why nothing is to be handled",
                reason.trim().len()
            )));
        }
        let standing = self.find(name, by)?;
        let pause = Pause { reason: reason.to_owned(), by: by.to_owned(), at: self.clock.now() };
        self.watch.pause(&standing.name, &pause).await.map_err(|error| of_port(&error))?;
        Ok(status(standing))
    }

    async fn resume(&self, name: &str, by: &str) -> Result<(proto::SubscriptionStatus, bool), Status> {
        let standing = self.find(name, by)?;
        let was_paused = self.watch.resume(&standing.name).await.map_err(|error| of_port(&error))?;
        Ok((status(standing), was_paused))
    }

    /// One of this process that can be paused.
    fn find(&self, name: &str, by: &str) -> Result<&Standing, Status> {
        if by.len() > BY_MAX {
            return Err(Status::invalid_argument(format!("the operator's name has {} bytes: use at most {BY_MAX}", by.len())));
        }
        let Some(standing) = self.standings.iter().find(|standing| standing.name.as_str() == name) else {
            let known: Vec<&str> = self.standings.iter().map(|standing| standing.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Status::not_found(format!(
                "this downstream does not handle subscription {name:?}; it handles {known}: correct the name, or ask a downstream that handles it"
            )));
        };
        if self.watch.is_over(&standing.name) {
            return Ok(standing);
        }
        Err(Status::failed_precondition(format!(
            "subscription {name} has the guard {}, which keeps nothing in Redis, where pauses are kept: stop its downstreams instead",
            standing.guard.as_str()
        )))
    }
}

/// Operator acts are counted and logged, refused ones too.
fn note<T>(act: &'static str, outcome: &Result<T, Status>, subscription: &str, by: &str, reason: &str) {
    let result = if outcome.is_ok() { "done" } else { "refused" };
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act, "result" => result).increment(1);
    let why_not = outcome.as_ref().err().map(Status::message);
    tracing::info!(act, subscription, by, reason, result, why_not, "an operator's act on a subscription");
}

fn of_port(error: &PortError) -> Status {
    let words = with_sources(error);
    if error.is_transient() { Status::unavailable(words) } else { Status::internal(words) }
}

fn status(standing: &Standing) -> proto::SubscriptionStatus {
    let count = standing.held.count();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let breaker = match standing.breaker.standing() {
        breaker::Standing::Closed => proto::BreakerState::Closed,
        breaker::Standing::Open => proto::BreakerState::Open,
        breaker::Standing::Trying => proto::BreakerState::Trying,
    };
    let paused = standing.paused.now();
    proto::SubscriptionStatus {
        name: standing.name.to_string(),
        guard: standing.guard.as_str().to_owned(),
        paused: paused.map(|Pause { reason, by, at }| proto::Pause { reason, by, since_ms: at.as_millis() }),
        breaker: breaker.into(),
        in_flight: number(count.in_flight),
        waiting: number(count.waiting),
        rate_per_second: standing.rate_per_second.unwrap_or(0),
        concurrency: standing.concurrency,
    }
}
