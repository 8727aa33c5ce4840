//! Subscriptions: how they stand, and their pauses. Each pause and resume is an act in the audit; it goes on when the audit cannot be told of it now.

use std::sync::Arc;

use countersign_audit::{Asked, Auditor, End, Unheard};
use countersign_boot::access::signed;
use countersign_delivery::ports::audit::{Act, NewAct};
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
    auditor: Auditor,
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
        let act = act(Act::Pause, &name, &by, &reason);
        let api = self.clone();
        let paused = self.audited(act, async move { api.pause(&name, &reason, &by).await }, |_| String::new()).await;
        paused.map(|subscription| Response::new(proto::PauseSubscriptionResponse { subscription: Some(subscription) }))
    }

    async fn resume_subscription(
        &self,
        request: Request<proto::ResumeSubscriptionRequest>,
    ) -> Result<Response<proto::ResumeSubscriptionResponse>, Status> {
        let proto::ResumeSubscriptionRequest { name, by } = signed(request, |asked| &mut asked.by);
        let act = act(Act::Resume, &name, &by, "");
        let api = self.clone();
        let words = |(_, was_paused): &(_, bool)| if *was_paused { String::new() } else { "it was not paused".to_owned() };
        let resumed = self.audited(act, async move { api.resume(&name, &by).await }, words).await;
        resumed.map(|(subscription, was_paused)| {
            Response::new(proto::ResumeSubscriptionResponse { subscription: Some(subscription), was_paused })
        })
    }
}

impl Api {
    /// Over these subscriptions, of which `watch` can pause some.
    #[must_use]
    pub fn new(mut standings: Vec<Standing>, watch: Watch, clock: Arc<dyn Clock>, auditor: Auditor) -> Self {
        standings.sort_by(|one, other| one.name.cmp(&other.name));
        Self { standings: standings.into(), watch, clock, auditor }
    }

    /// Has an act carried out and written into the audit; `done` says what came of it.
    async fn audited<T: Send + 'static>(
        &self,
        act: NewAct,
        carry_out: impl Future<Output = Result<T, Status>> + Send + 'static,
        done: fn(&T) -> String,
    ) -> Result<T, Status> {
        let end = move |outcome: &Result<T, Status>| match outcome {
            Ok(answer) => End::done(done(answer)),
            Err(status) => End::not_done(status),
        };
        let asked = Asked { acts: vec![act.clone()], unheard: Unheard::GoesOn };
        let outcome = self.auditor.audited(asked, carry_out, move |outcome| vec![end(outcome)]).await;
        let outcome = outcome.unwrap_or_else(|why| Err(why.into()));
        note(&act, &end(&outcome));
        outcome
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

fn act(act: Act, name: &str, by: &str, reason: &str) -> NewAct {
    NewAct { by: by.to_owned(), act, target: name.to_owned(), subscription: name.to_owned(), reason: reason.to_owned() }
}

/// Operator acts are counted and logged, refused ones too.
fn note(NewAct { by, act, subscription, reason, .. }: &NewAct, End { result, detail, .. }: &End) {
    let (act, result) = (act.as_str(), result.as_str());
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act, "result" => result).increment(1);
    tracing::info!(act, subscription, by, reason, result, detail, "an operator's act on a subscription");
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
