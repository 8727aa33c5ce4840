//! Outcomes as answers.
//!
//! **Invariant:** 2xx means that every event of the request was accepted, so a sender that looks at the status alone takes none for
//! accepted that was refused.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use crate::http::problem::Problem;
use crate::refusal::Refusal;
use crate::send::Outcome;

/// The answer to one event.
pub(super) fn single(outcome: &Outcome) -> Result<Response, Problem> {
    accepted(outcome).map(|accepted| (StatusCode::ACCEPTED, Json(accepted)).into_response()).map_err(Problem::from)
}

/// The answer to a batch: 202 when every event was accepted. Otherwise the status of the first refusal that is for now, so that the
/// batch is sent again; otherwise 500 when the database refuses for good, for that is not the sender's fault; otherwise 422.
pub(super) fn batch(outcomes: &[Outcome]) -> Result<Response, Problem> {
    let mut results = Vec::with_capacity(outcomes.len());
    let mut refused = Vec::new();
    for outcome in outcomes {
        match accepted(outcome) {
            Ok(accepted) => results.push(accepted),
            Err(refusal) => {
                results.push(serde_json::to_value(Problem::from(refusal)).unwrap_or_default());
                refused.push(refusal);
            }
        }
    }
    let deciding = refused.iter().find(|refusal| refusal.is_transient());
    let deciding = deciding.or_else(|| refused.iter().find(|refusal| matches!(refusal, Refusal::Broken(_))));
    let (problem, status) = match (deciding, refused.first()) {
        (Some(deciding), _) => (Problem::from(*deciding), Problem::from(*deciding).status()),
        (None, Some(first)) => (Problem::from(*first), StatusCode::UNPROCESSABLE_ENTITY),
        (None, None) => return Ok((StatusCode::ACCEPTED, Json(json!({"results": results}))).into_response()),
    };
    let detail = format!(
        "{} of {} events were not accepted, see results: mend what is to be mended and send the whole batch again; what was accepted is \
         known by its source and id and not sent twice, unless its route has mode confirmed",
        refused.len(),
        outcomes.len()
    );
    Err(problem.batch(status, detail, results))
}

fn accepted(outcome: &Outcome) -> Result<Value, &Refusal> {
    match outcome {
        Outcome::Confirmed(accepted) | Outcome::Committed(accepted) => Ok(json!({
            "id": accepted.id.to_string(),
            "state": outcome.word(),
            "duplicate": accepted.duplicate,
            "fingerprint": accepted.fingerprint.to_hex(),
        })),
        Outcome::Refused(refusal) => Err(refusal),
    }
}
