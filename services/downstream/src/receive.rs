//! Step 3: claim, handle, complete: the effect, once.
//!
//! In this order, always: claim → handle → complete → receipt confirmed → ack. What can fail: the process dies anywhere, the lease ends
//! while the handler runs, Redis or the broker go away, the handler fails, the message is an impostor, unreadable or deadly. What
//! covers that: nothing is acked before its receipt (or its copy and its receipt) is confirmed, so it comes again; the guard's
//! record tells fresh, done, held and interrupted apart; without that record nothing is processed. Guards: [`crate::guard`].

mod effect;
mod jitter;
mod judge;
mod refuse;

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::claims::{Claim, ClaimKey, Held as Lease};
use countersign_delivery::ports::{Clock, Ids};
use countersign_delivery::receipt::Outcome as Signed;
use countersign_delivery::topology::Subscription;
use countersign_delivery::{Attempt, FailReason};
use countersign_telemetry::{failed, names, propagate};
use countersign_wire::arrival::{self, Death};
use countersign_wire::history;
use countersign_wire::names::RETRY;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use crate::acknowledge::Signer;
use crate::arrived::{Arrived, Held};
use crate::breaker::Breaker;
use crate::copies::Copies;
use crate::desk::{Claiming, Desk};
use crate::guard::{Effect, Handling};
use crate::handler::Failure;
use crate::meters::Meters;

pub use jitter::JITTER_MAX;
use judge::{AfterRetry, Plan};
pub use judge::{Company, OnUnknown, Rules};
pub use refuse::{Refused, refuse};

/// Without a retry tier, a message that another owner has is claimed again after this, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// For how long somebody else's open transaction has a message, at a guess, milliseconds.
const BUSY_FOR_MS: u64 = 1;
/// Why a message is put back that has not failed.
const HELD: &str = "another consumer holds it";

/// What the step needs, for one subscription.
pub struct Reception {
    /// Its part of the topology.
    pub subscription: Subscription,
    /// The queue for what nobody can read.
    pub quarantine: String,
    /// Who handles, and how.
    pub handling: Handling,
    /// Longest time of one call of the handler, milliseconds.
    pub timeout_ms: u64,
    /// By what claims are judged.
    pub rules: Rules,
    /// The share of a retry tier's delay that a message may come earlier.
    pub retry_jitter: f64,
    /// This downstream's name; leads its tokens.
    pub name: String,
    /// Where claims are made.
    pub desk: Desk,
    /// Who publishes copies.
    pub copies: Copies,
    /// Who signs.
    pub signer: Signer,
    /// What is held; leases in it are renewed.
    pub held: Arc<Held>,
    /// Hears how the handler fares.
    pub breaker: Arc<Breaker>,
    /// Where it is counted what becomes of each message.
    pub meters: Meters,
    /// For the age of what comes again.
    pub clock: Arc<dyn Clock>,
    /// For tokens.
    pub ids: Arc<dyn Ids>,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled and signed.
    Done,
    /// It had been done before; signed again.
    DoneBefore,
    /// The handler failed; it comes again through a retry tier. Signed.
    Retrying,
    /// Another owner has it, or its endpoint answers nobody; it comes again, and no try is counted. Signed.
    PutBack,
    /// It will not be handled: it lies in the dead-letter queue. Signed.
    Failed(FailReason),
    /// It crashed a process before: call again when nothing else runs. Nothing is held.
    Suspect,
    /// No claim could be made: nothing happened.
    ClaimsAway,
    /// Hard stop came first; whatever has happened, the message is not settled.
    GivenUp,
}

/// The place of a handler: what may run at a time.
pub type Place = OwnedSemaphorePermit;

/// Takes one message through the step; `claiming` is the claim that was asked for together with others'. `place` is given up as soon as the
/// effect is on record: nobody is blamed for it any more, and signing it is not handling. Whoever drops this leaves the message
/// unsettled, and everything is found again by its next delivery.
pub async fn receive(
    reception: &Reception,
    arrived: &Arrived,
    claiming: Option<Claiming>,
    company: Company,
    place: &mut Option<Place>,
) -> Outcome {
    let span = span_of(reception, arrived);
    let outcome = run(reception, arrived, claiming, company, place).instrument(span.clone()).await;
    note_outcome(&span, outcome);
    outcome
}

/// What the span tells at its end; who comes again or is buried makes it a failed one.
fn note_outcome(span: &tracing::Span, outcome: Outcome) {
    match outcome {
        Outcome::Failed(reason) => {
            span.record(names::OUTCOME, "failed").record(names::REASON, reason.as_str());
            failed(span, reason.as_str());
            return;
        }
        Outcome::Retrying | Outcome::ClaimsAway | Outcome::GivenUp => failed(span, outcome.word()),
        Outcome::Done | Outcome::DoneBefore | Outcome::PutBack | Outcome::Suspect => {}
    }
    span.record(names::OUTCOME, outcome.word());
}

async fn run(
    reception: &Reception,
    arrived: &Arrived,
    mut claiming: Option<Claiming>,
    company: Company,
    place: &mut Option<Place>,
) -> Outcome {
    loop {
        // Gather.
        let (claim, claimed) = if let Some(claiming) = claiming.take() {
            (claiming.claim.clone(), claiming.claimed().await)
        } else {
            let claim = reception.claim_for(arrived);
            (claim.clone(), reception.desk.claim(claim).await)
        };
        let Some(claimed) = claimed else { return Outcome::ClaimsAway };
        // Decide.
        let plan = judge::judge(&claimed, &arrived.arrival, reception.rules, company, reception.clock.now());
        // Act.
        match plan {
            Plan::Handle { starts, crashes, unknown } => {
                if unknown {
                    reception.count_possible_duplicate(
                        arrived,
                        "a process died while it was being handled, or the record of that was lost",
                    );
                }
                if let Some(outcome) = reception.handle(arrived, claim, (starts, crashes), place).await {
                    return outcome;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Plan::HandleAlone => return reception.give_back(claim, Outcome::Suspect).await,
            Plan::SignAgain => {
                drop(place.take());
                return reception.sign(arrived, Signed::Done, Outcome::DoneBefore).await;
            }
            Plan::Fail { reason, detail, ours } => {
                return reception.fail(arrived, ours.then_some(claim), reason, &detail).await;
            }
            Plan::PutBack { for_ms } => {
                if let Some(outcome) = reception.put_back(arrived, for_ms).await {
                    return outcome;
                }
                tokio::time::sleep(Duration::from_millis(for_ms.max(1)).min(LOOK_AGAIN)).await;
            }
        }
    }
}

impl Reception {
    /// A claim on it, under a new token.
    pub fn claim_for(&self, arrived: &Arrived) -> Claim {
        let key = ClaimKey {
            subscription: self.subscription.name.clone(),
            message_id: arrived.arrival.id,
            fingerprint: arrived.arrival.fingerprint.clone(),
            effect_epoch: arrived.arrival.effect_epoch,
        };
        let Attempt { epoch, number } = arrived.arrival.attempt;
        // A copy from a tier may have been put there because another process was handling the message.
        let copied = arrived.delivered.properties.headers.contains_key(RETRY);
        let again = arrived.delivered.redelivered || copied || arrived.arrival.republished || number > 1 || epoch > 0;
        Claim { key, token: format!("{}/{}", self.name, self.ids.uuid()), epoch, again }
    }

    /// None: somebody else is at it, and there is no tier to wait in. Nothing is held.
    async fn handle(
        &self,
        arrived: &Arrived,
        claim: Claim,
        (starts, crashes): (u32, u32),
        place: &mut Option<Place>,
    ) -> Option<Outcome> {
        failpoint(Failpoint::DownstreamAfterClaim);
        arrived.set_claim(Some(claim.clone()));
        let outcome = match self.effect(arrived, &claim, starts, crashes).await {
            Effect::Happened => {
                failpoint(Failpoint::DownstreamAfterEffect);
                Some(self.complete(arrived, claim, Outcome::Done, place).await)
            }
            Effect::HadHappened => Some(self.complete(arrived, claim, Outcome::DoneBefore, place).await),
            Effect::Conflict => Some(self.fail(arrived, Some(claim), FailReason::Conflict, judge::CONFLICT).await),
            Effect::Busy => match self.put_back(arrived, BUSY_FOR_MS).await {
                Some(outcome) => Some(self.unless_given_up(claim, outcome).await),
                None => self.desk.release(claim).await.map_or(Some(Outcome::GivenUp), |_| None),
            },
            Effect::RecordAway => Some(self.give_back(claim, Outcome::ClaimsAway).await),
            Effect::Failed(Failure::Reject { detail }) => {
                Some(self.fail(arrived, Some(claim), FailReason::Rejected, &detail).await)
            }
            Effect::Failed(Failure::Retry { detail }) => Some(self.retry(arrived, claim, &detail).await),
        };
        arrived.set_claim(None);
        outcome
    }

    async fn complete(&self, arrived: &Arrived, claim: Claim, outcome: Outcome, place: &mut Option<Place>) -> Outcome {
        match self.desk.complete(claim).await {
            None => return Outcome::GivenUp,
            Some(Lease::Lost) if self.rules.lost_claim_counts() => {
                self.count_possible_duplicate(arrived, "its claim had ended before it was done");
            }
            Some(_) => {}
        }
        failpoint(Failpoint::DownstreamAfterComplete);
        drop(place.take());
        self.sign(arrived, Signed::Done, outcome).await
    }

    /// Into the tier that fits the time for which another owner has it; no try is counted. None: there are no tiers.
    async fn put_back(&self, arrived: &Arrived, for_ms: u64) -> Option<Outcome> {
        let delay_ms = judge::tier_for(for_ms, &self.subscription)?;
        Some(self.put_into_tier(arrived, (delay_ms, for_ms), arrived.arrival.retries, Outcome::PutBack, HELD).await)
    }

    async fn retry(&self, arrived: &Arrived, claim: Claim, detail: &str) -> Outcome {
        let (id, retries) = (arrived.arrival.id, arrived.arrival.retries);
        // While its endpoint fails for all the message is not at fault.
        let unspent = if self.breaker.is_open() { judge::tier_unspent(retries, &self.subscription) } else { None };
        if let Some(delay_ms) = unspent {
            let outcome = self.put_into_tier(arrived, (delay_ms, 0), retries, Outcome::PutBack, detail).await;
            return self.unless_given_up(claim, outcome).await;
        }
        match judge::after_retry(retries, &self.subscription) {
            AfterRetry::Exhausted => {
                let detail = format!("the last retry failed, too: {detail}");
                self.fail(arrived, Some(claim), FailReason::RetriesExhausted, &detail).await
            }
            AfterRetry::Tier { delay_ms, retries } => {
                tracing::warn!(message_id = %id, subscription = %self.subscription.name, delay_ms, detail = brief(detail), "retrying later");
                let outcome = self.put_into_tier(arrived, (delay_ms, 0), retries, Outcome::Retrying, detail).await;
                self.unless_given_up(claim, outcome).await
            }
        }
    }

    /// Copy confirmed, then its receipt. The waits are the tier's delay and the least one, milliseconds.
    async fn put_into_tier(&self, arrived: &Arrived, waits: (u64, u64), retries: u32, outcome: Outcome, detail: &str) -> Outcome {
        let (delay_ms, least_ms) = waits;
        let queue = self.subscription.retry_queue(delay_ms);
        let tried = (retries > arrived.arrival.retries).then(|| self.tried(arrived, delay_ms, detail));
        let mut copy = arrival::retry_copy(&arrived.delivered, &arrived.arrival, queue, retries, tried);
        // The last bits of a fresh id are random.
        let random = u32::try_from(self.ids.uuid().as_u128() & u128::from(u32::MAX)).unwrap_or(0);
        copy.properties.expiration_ms = jitter::expiration_ms(delay_ms, self.retry_jitter, random, least_ms);
        self.copies.put(copy).await;
        self.sign(arrived, Signed::Retrying { delay_ms, detail: brief(detail).to_owned() }, outcome).await
    }

    /// Dead-letter copy confirmed, then its receipt, then the claim given back.
    async fn fail(&self, arrived: &Arrived, claim: Option<Claim>, reason: FailReason, detail: &str) -> Outcome {
        let (id, detail) = (arrived.arrival.id, brief(detail));
        tracing::error!(message_id = %id, subscription = %self.subscription.name, reason = reason.as_str(), detail, "will not be handled");
        let death = self.death(reason, detail);
        self.copies.put(arrival::dead_copy(&arrived.delivered, self.subscription.dead_queue(), death)).await;
        let outcome = self.sign(arrived, Signed::Failed { reason, detail: detail.to_owned() }, Outcome::Failed(reason)).await;
        match claim {
            Some(claim) => self.unless_given_up(claim, outcome).await,
            None => outcome,
        }
    }

    /// A try for the history that travels with the message.
    fn tried(&self, arrived: &Arrived, delay_ms: u64, detail: &str) -> history::Entry {
        let (at, attempt) = (self.clock.now(), arrived.arrival.attempt);
        history::Entry { at, attempt, what: history::What::retried(delay_ms), detail: detail.to_owned() }
    }

    fn death<'a>(&'a self, reason: FailReason, detail: &'a str) -> Death<'a> {
        Death { reason, detail, at: self.clock.now(), by: &self.name }
    }

    async fn sign(&self, arrived: &Arrived, signed: Signed, outcome: Outcome) -> Outcome {
        if !self.signer.sign(arrived.receipt(&self.subscription.name, signed)).await {
            return Outcome::GivenUp;
        }
        failpoint(Failpoint::DownstreamAfterReceiptConfirm);
        outcome
    }

    async fn unless_given_up(&self, claim: Claim, outcome: Outcome) -> Outcome {
        if outcome == Outcome::GivenUp { outcome } else { self.give_back(claim, outcome).await }
    }

    async fn give_back(&self, claim: Claim, outcome: Outcome) -> Outcome {
        self.desk.release(claim).await.map_or(Outcome::GivenUp, |_| outcome)
    }

    fn count_possible_duplicate(&self, arrived: &Arrived, why: &str) {
        let subscription = self.subscription.name.to_string();
        tracing::warn!(message_id = %arrived.arrival.id, %subscription, why, "the effect may have happened twice");
        metrics::counter!(names::POSSIBLE_DUPLICATES_TOTAL, "subscription" => subscription).increment(1);
    }
}

impl Outcome {
    /// The word used in spans and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::DoneBefore => "done_before",
            Self::Retrying => "retrying",
            Self::PutBack => "put_back",
            Self::Failed(reason) => reason.as_str(),
            Self::Suspect => "suspect",
            Self::ClaimsAway => "claims_away",
            Self::GivenUp => "given_up",
        }
    }
}

/// Longest detail that travels, bytes.
pub const DETAIL_MAX: usize = 300;

/// The beginning of a text, for a receipt or a header.
#[must_use]
pub fn brief(text: &str) -> &str {
    &text[..text.floor_char_boundary(DETAIL_MAX)]
}

fn span_of(reception: &Reception, arrived: &Arrived) -> tracing::Span {
    let arrival = &arrived.arrival;
    let span = tracing::info_span!(
        names::SPAN_PROCESS,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_PROCESS, reception.subscription.name.as_str()),
        { names::STEP } = "3",
        { names::OTEL_KIND } = names::CONSUMER,
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::PROCESS,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_PROCESS,
        { names::MESSAGING_DESTINATION } = %arrival.exchange,
        { names::MESSAGING_ROUTING_KEY } = %arrival.routing_key,
        { names::MESSAGING_SUBSCRIPTION } = %reception.subscription.name,
        { names::MESSAGING_MESSAGE_ID } = %arrival.id,
        { names::MESSAGING_BODY_SIZE } = names::int(arrival.body.len()),
        { names::ATTEMPT } = names::int(arrival.attempt.number),
        { names::EPOCH } = names::int(arrival.attempt.epoch),
        { names::UPSTREAM } = %arrival.upstream,
        { names::OUTCOME } = tracing::field::Empty,
        { names::REASON } = tracing::field::Empty,
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    if let Some(trace) = &arrival.trace {
        propagate::set_parent(&span, &trace.traceparent, trace.tracestate.as_deref());
    }
    span
}
