//! Reconciliation on demand, and the last certificates.

use countersign_boot::access::signed;
use countersign_boot::{Stop, Tasks};
use countersign_delivery::reconcile::{Certificate, Line, MINUTE_MS, State, Window, minute_of};
use countersign_delivery::{Timestamp, UpstreamName};
use countersign_telemetry::names;
use countersign_wire::proto;
use countersign_wire::proto::reconciliation_service_server::ReconciliationService;
use tonic::{Request, Response, Status};

use super::status;
use crate::reconcile::{Reconciler, Task};

/// Bytes of the name of who asks, at most.
const BY_MAX: usize = 64;
/// Upstreams that one request names at most.
const UPSTREAMS_MAX: usize = 1_000;

/// The gRPC service.
pub struct Reconciliations {
    reconciler: Reconciler,
    tasks: Tasks,
    stop: Stop,
}

impl Reconciliations {
    /// Runs a reconciliation in a task, so that no caller can leave it half done.
    #[must_use]
    pub fn new(reconciler: Reconciler, tasks: Tasks, stop: Stop) -> Self {
        Self { reconciler, tasks, stop }
    }

    async fn task(&self, request: proto::ReconcileRequest) -> Result<Task, Status> {
        let now = self.reconciler.now().await.map_err(|error| status(&error))?;
        let asked = window(now, request.since_ms, request.until_ms)?;
        if request.upstreams.len() > UPSTREAMS_MAX {
            return Err(Status::invalid_argument(format!("upstreams: at most {UPSTREAMS_MAX}; none means all")));
        }
        let named = request.upstreams.iter().map(|name| UpstreamName::new(name));
        let upstreams =
            named.collect::<Result<_, _>>().map_err(|error| Status::invalid_argument(format!("upstreams: {error}")))?;
        if request.by.len() > BY_MAX || request.by.contains(char::is_control) {
            return Err(Status::invalid_argument(format!("by: at most {BY_MAX} bytes, without control characters")));
        }
        Ok(Task { asked, upstreams, validate_only: request.validate_only })
    }

    async fn run(&self, request: proto::ReconcileRequest) -> Result<Vec<Certificate>, Status> {
        let task = self.task(request).await?;
        let (reconciler, stop) = (self.reconciler.clone(), self.stop.clone());
        let work = async move {
            let right = reconciler.begin().map_err(|busy| Status::aborted(format!("{busy}: try again later")))?;
            tokio::select! {
                certificates = reconciler.reconcile(&right, &task) => certificates.map_err(|error| status(&error)),
                () = stop.soft() => Err(Status::unavailable("this callback is stopping: ask another")),
            }
        };
        let done = self.tasks.spawn("an operator's reconciliation", work).await;
        done.map_err(|_| Status::internal("the reconciliation ended in a panic; nothing is lost: see the log of callback"))?
    }
}

#[tonic::async_trait]
impl ReconciliationService for Reconciliations {
    async fn reconcile(&self, request: Request<proto::ReconcileRequest>) -> Result<Response<proto::ReconcileResponse>, Status> {
        let request = signed(request, |asked| &mut asked.by);
        let (by, validate_only) = (request.by.clone(), request.validate_only);
        let outcome = self.run(request).await;
        let result = if outcome.is_ok() { "done" } else { "refused" };
        let why = outcome.as_ref().err().map(Status::message);
        metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => "reconcile", "result" => result).increment(1);
        tracing::info!(by, validate_only, result, why, "an operator's reconciliation");
        Ok(Response::new(proto::ReconcileResponse { certificates: outcome?.iter().map(certificate).collect() }))
    }

    async fn list_certificates(
        &self,
        _request: Request<proto::ListCertificatesRequest>,
    ) -> Result<Response<proto::ListCertificatesResponse>, Status> {
        let kept = self.reconciler.certificates().await.map_err(|error| status(&error))?;
        Ok(Response::new(proto::ListCertificatesResponse { certificates: kept.iter().map(certificate).collect() }))
    }
}

/// Whole minutes. Without an end until the present minute: what of it is not settled is cut off later.
fn window(now: Timestamp, since_ms: i64, until_ms: i64) -> Result<Window, Status> {
    let since = minute_of(Timestamp::from_millis(since_ms));
    let present = minute_of(now).plus_millis(MINUTE_MS);
    let until = if until_ms == 0 { present } else { minute_of(Timestamp::from_millis(until_ms)) };
    if since_ms <= 0 || since > now {
        return Err(Status::invalid_argument(format!(
            "since_ms is {since_ms}: give a time since 1970 that is not in the future"
        )));
    }
    if until <= since {
        return Err(Status::invalid_argument(
            "the window is empty: until_ms must lie at least in the minute after that of since_ms; 0 means now",
        ));
    }
    Ok(Window { since, until })
}

fn certificate(of: &Certificate) -> proto::Certificate {
    proto::Certificate {
        upstream: of.upstream.clone(),
        state: state(of.state).into(),
        since_ms: of.asked.since.as_millis(),
        until_ms: of.asked.until.as_millis(),
        compared_since_ms: of.compared.since.as_millis(),
        compared_until_ms: of.compared.until.as_millis(),
        lines: of.lines.iter().map(line).collect(),
        detail: of.detail.clone(),
        at_ms: of.at.as_millis(),
        took_ms: of.took_ms,
    }
}

fn line(of: &Line) -> proto::CertificateLine {
    proto::CertificateLine {
        subscription: of.subscription.to_string(),
        state: state(of.state()).into(),
        stored: of.stored,
        verified: of.verified,
        in_flight: of.in_flight,
        parked: of.parked,
        discarded: of.discarded,
        missing: of.missing,
        minutes_compared: of.minutes_compared,
        missing_ids: of.missing_ids.iter().map(ToString::to_string).collect(),
    }
}

const fn state(state: State) -> proto::CertificateState {
    match state {
        State::Certified => proto::CertificateState::Certified,
        State::Expired => proto::CertificateState::Expired,
        State::Skipped => proto::CertificateState::Skipped,
        State::Differs => proto::CertificateState::Differs,
        State::Unreachable => proto::CertificateState::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_whole_minutes_and_never_empty() {
        let now = Timestamp::from_millis(600_500);
        let read = |since, until| window(now, since, until).map_err(|error| error.code());
        let whole = |since, until| Window { since: Timestamp::from_millis(since), until: Timestamp::from_millis(until) };
        assert_eq!(read(61_000, 0), Ok(whole(60_000, 660_000)));
        assert_eq!(read(61_000, 185_000), Ok(whole(60_000, 180_000)));
        for (since, until) in [(0, 0), (-1, 0), (660_000, 0), (61_000, 61_500), (120_000, 60_000)] {
            assert_eq!(read(since, until), Err(tonic::Code::InvalidArgument), "{since} {until}");
        }
    }
}
