//! The audit's row of one act: begun before anything is touched, ended after it.

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::audit::{ActResult, NewAct};
use countersign_telemetry::with_sources;

use super::{BY_MAX, GIVEN_MAX, REASON_MAX, clipped};
use crate::desk::Desk;

/// Bytes of what became of an act, in the audit at most.
const DETAIL_MAX: usize = 1_000;

/// A row that is begun.
#[derive(Debug)]
#[must_use = "a row that nobody ends stays begun"]
pub struct Row {
    number: u64,
}

impl Row {
    /// Writes it, each text cut to what the audit keeps.
    ///
    /// # Errors
    /// [`PortError`]; then the act must not be tried.
    pub async fn begin(desk: &Desk, act: &NewAct) -> Result<Self, PortError> {
        let act = NewAct {
            by: clipped(act.by.trim(), BY_MAX),
            act: act.act,
            target: clipped(&act.target, GIVEN_MAX),
            subscription: clipped(&act.subscription, GIVEN_MAX),
            reason: clipped(act.reason.trim(), REASON_MAX),
        };
        let number = desk.audit.begin(&act).await?;
        failpoint(Failpoint::CallbackAfterActBegun);
        Ok(Self { number })
    }

    /// Says how the act ended. What MSG DB does not take is in the log; the act has ended all the same.
    pub async fn end(self, desk: &Desk, result: ActResult, detail: &str) {
        failpoint(Failpoint::CallbackAfterActApplied);
        if let Err(error) = desk.audit.end(self.number, result, &clipped(detail, DETAIL_MAX)).await {
            let (number, result, error) = (self.number, result.as_str(), with_sources(&error));
            tracing::error!(number, result, error, "the end of an act is missing from the audit");
        }
    }
}
