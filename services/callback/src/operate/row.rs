//! The audit's row of one act: begun before anything is touched, ended after it.

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::audit::{ActResult, DETAIL_MAX, NewAct, clipped};
use countersign_telemetry::{names, with_sources};

use crate::desk::Desk;

/// A row that is begun.
#[derive(Debug)]
#[must_use = "a row that nobody ends stays begun"]
pub struct Row {
    number: u64,
    act: &'static str,
}

impl Row {
    /// Writes it, each text cut to what the audit keeps.
    ///
    /// # Errors
    /// [`PortError`]; then the act must not be tried.
    pub async fn begin(desk: &Desk, act: &NewAct) -> Result<Self, PortError> {
        let number = desk.audit.begin(&act.clipped()).await?;
        failpoint(Failpoint::CallbackAfterActBegun);
        Ok(Self { number, act: act.act.as_str() })
    }

    /// Says how the act ended. What MSG DB does not take is in the log; the act has ended all the same.
    pub async fn end(self, desk: &Desk, result: ActResult, detail: &str) {
        failpoint(Failpoint::CallbackAfterActApplied);
        if let Err(error) = desk.audit.end(self.number, result, &clipped(detail, DETAIL_MAX)).await {
            let (number, result, error) = (self.number, result.as_str(), with_sources(&error));
            metrics::counter!(names::AUDIT_MISSING_TOTAL, "act" => self.act).increment(1);
            tracing::error!(number, result, error, "the end of an act is missing from the audit");
        }
    }
}
