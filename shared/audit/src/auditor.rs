//! An act between its two tellings; and acts that are forbidden.

use std::sync::{Arc, Mutex, PoisonError};

use countersign_boot::{Context, Failpoint, Forbidden, OnForbidden, Role, failpoint};
use countersign_delivery::Topology;
use countersign_delivery::ports::audit::{Act, ActResult, NewAct, ToldAct};
use countersign_delivery::ports::broker::Publisher;
use countersign_delivery::ports::{Clock, Ids};
use countersign_delivery::refusals::Refusals;
use countersign_telemetry::names;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::tell::{Teller, WAIT_MAX, WAITING_MAX};

/// Has acts written into the audit. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Auditor {
    service: &'static str,
    name: Arc<str>,
    teller: Teller,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    refusals: Arc<Mutex<Refusals>>,
}

/// What becomes of an act that nobody can be told of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It is carried out; callback is told when the broker is there again.
    GoesOn,
    /// It is not carried out.
    IsRefused,
}

/// What an operator wants: one or several acts that are carried out together.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Each is a row of its own.
    pub acts: Vec<NewAct>,
    /// When the broker does not take them.
    pub unheard: Unheard,
}

/// How one of them ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// By what can be done about it.
    pub result: ActResult,
    /// For a human; never a payload.
    pub detail: String,
    /// What it was about, where that is only known now; none: as it was asked.
    pub target: Option<String>,
}

impl End {
    /// It took hold, or was shown.
    #[must_use]
    pub const fn done(detail: String) -> Self {
        Self { result: ActResult::Done, detail, target: None }
    }

    /// It did not, and its caller is answered with this.
    #[must_use]
    pub fn not_done(status: &Status) -> Self {
        let result = match status.code() {
            Code::Unavailable | Code::Internal => ActResult::Failed,
            _ => ActResult::Refused,
        };
        Self { result, detail: status.message().to_owned(), target: None }
    }
}

/// Why nothing was done, or nobody knows what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// The audit comes first.
    #[error("nothing was done: the broker has not taken the act for the audit within {} s; try again", WAIT_MAX.as_secs())]
    Untold,
    /// It stays begun in the audit.
    #[error("the act ended in a panic; see the log")]
    Panicked,
}

impl From<NotDone> for Status {
    fn from(why: NotDone) -> Self {
        match why {
            NotDone::Untold => Self::unavailable(why.to_string()),
            NotDone::Panicked => Self::internal(why.to_string()),
        }
    }
}

impl Auditor {
    /// For a service and its configured name, over the receipts queue of its topology.
    #[must_use]
    pub fn new(
        context: &Context,
        (service, name): (&'static str, &str),
        publisher: Arc<dyn Publisher>,
        topology: &Topology,
    ) -> Self {
        let teller = Teller {
            publisher,
            ids: context.ids.clone(),
            queue: topology.receipts_queue(),
            tasks: context.tasks.clone(),
            stop: context.stop.clone(),
            room: Arc::new(Semaphore::new(WAITING_MAX)),
        };
        let (clock, ids) = (context.clock.clone(), context.ids.clone());
        Self { service, name: name.into(), teller, clock, ids, refusals: Arc::default() }
    }

    /// Tells that the acts are about to be tried, has `carry_out` do it, and tells what `ended` says of it, one end for each act. All of that
    /// happens in a task: a caller that goes away leaves nothing half done.
    ///
    /// # Errors
    /// [`NotDone`]; what the act itself answers is within.
    pub async fn audited<T: Send + 'static>(
        &self,
        asked: Asked,
        carry_out: impl Future<Output = T> + Send + 'static,
        ended: impl FnOnce(&T) -> Vec<End> + Send + 'static,
    ) -> Result<T, NotDone> {
        let this = self.clone();
        let act = self.teller.tasks.spawn("an operator's act", async move {
            let acts: Vec<ToldAct> = asked.acts.iter().map(|act| this.begun(act)).collect();
            let heard = this.teller.tell(acts.clone()).await;
            failpoint(Failpoint::AuditAfterBegun);
            if !heard && asked.unheard == Unheard::IsRefused {
                let failed = End { result: ActResult::Failed, detail: NotDone::Untold.to_string(), target: None };
                this.teller.mention(acts.into_iter().map(|act| this.ended(act, failed.clone())).collect());
                return Err(NotDone::Untold);
            }
            let outcome = carry_out.await;
            failpoint(Failpoint::AuditAfterAct);
            let ended = acts.into_iter().zip(ended(&outcome)).map(|(act, end)| this.ended(act, end)).collect();
            if heard {
                this.teller.tell(ended).await;
            } else {
                // It has waited once.
                this.teller.mention(ended);
            }
            Ok(outcome)
        });
        act.await.unwrap_or(Err(NotDone::Panicked))
    }

    /// An act is forbidden: counts it, and tells of it unless the caller has had enough rows. Nobody waits for that.
    pub fn refuse(&self, act: &NewAct, needed: Role) {
        metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act.act.as_str(), "result" => ActResult::Refused.as_str())
            .increment(1);
        let ruling = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.rule(&act.by, act.act, self.clock.now())
        };
        if let Some(detail) = ruling.detail(needed.as_str()) {
            let end = End { result: ActResult::Refused, detail, target: None };
            self.teller.mention(vec![self.ended(self.begun(act), end)]);
        }
    }

    /// Refuses what the gate forbids; `act_of` knows which method of a path is which act.
    #[must_use]
    pub fn on_forbidden(&self, act_of: fn(&str) -> Option<Act>) -> OnForbidden {
        let this = self.clone();
        Arc::new(move |Forbidden { caller, path, needed }| {
            if let Some(act) = path.rsplit('/').next().and_then(act_of) {
                let (by, nothing) = (caller.name().to_owned(), String::new());
                let act = NewAct { by, act, target: nothing.clone(), subscription: nothing.clone(), reason: nothing };
                this.refuse(&act, needed);
            }
        })
    }

    fn begun(&self, act: &NewAct) -> ToldAct {
        let NewAct { by, act, target, subscription, reason } = act.clone();
        let told = ToldAct {
            id: self.ids.uuid(),
            service: self.service.to_owned(),
            service_name: self.name.to_string(),
            by,
            act: act.as_str().to_owned(),
            target,
            subscription,
            reason,
            at: self.clock.now(),
            ended_at: None,
            result: ActResult::Begun,
            detail: String::new(),
        };
        told.clipped()
    }

    fn ended(&self, act: ToldAct, End { result, detail, target }: End) -> ToldAct {
        let (ended_at, target) = (Some(self.clock.now()), target.unwrap_or(act.target));
        ToldAct { ended_at, target, result, detail, ..act }.clipped()
    }
}

#[cfg(test)]
mod tests;
