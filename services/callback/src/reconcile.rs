//! The third net: what every upstream has stored is compared with what was signed for, and what nobody knows of is checked.
//!
//! Checks ride on the same broker as messages; when it loses both, nothing comes due. So callback asks each upstream for sums of what it has
//! stored, by subscription and minute ([`sums`](mod@sums)), and compares them with MSG DB. Where they differ, the subscription must first
//! show by a probe that it is not merely behind ([`witness`]: a backlog is not a loss); then messages are looked up one by one, and a check
//! that is due at once is published for what is missing ([`compare`]). The ordinary path judges it by evidence. [`targets`] says whom to
//! ask, [`schedule`] asks by itself.
//!
//! What can fail: upstream (its certificate says so, the others go on); MSG DB (nothing is certified); the broker (what was not confirmed is
//! found again by the next round); this process, anywhere (a turn's lease ends, and another replica begins anew: it only reads, and a check too many is judged
//! like any other).
//!
//! Messages of mode `confirmed`, and of `outbox` without a check, have receipts but are not in upstream's sums: a minute that has them
//! beside others differs and costs a listing, nothing else.
//!
//! **Invariant:** nothing is decided here: a missing message gets a check, never a resend.

mod compare;
pub mod schedule;
mod seen;
mod sums;
mod targets;
mod witness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::reconciliation::Reconciliation;
use countersign_delivery::reconcile::{Certificate, Limit, Narrowed, State, Window, narrow};
use countersign_delivery::{SubscriptionName, Timestamp, UpstreamName};
use countersign_telemetry::{failed, names};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::desk::Desk;
use crate::upstreams::addresses::Addresses;
use crate::upstreams::digests::{DigestError, Digests};

pub use seen::Seen;

/// What [`Figures::missing_max`] is outside of tests.
pub const MISSING_MAX: usize = 100_000;

/// Figures of reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How long a subscription may take to answer a probe before it is skipped.
    pub probe_wait: Duration,
    /// How long MSG DB keeps what is done, milliseconds; none: for ever.
    pub retention_ms: Option<u64>,
    /// Missing messages that one round has checked at most; the next round goes on.
    pub missing_max: usize,
}

/// Everything that reconciliation works with. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Reconciler {
    desk: Desk,
    books: Arc<dyn Reconciliation>,
    digests: Arc<dyn Digests>,
    addresses: Arc<Addresses>,
    figures: Figures,
    /// One at a time in this process.
    turn: Arc<Semaphore>,
}

/// What to reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which minutes.
    pub asked: Window,
    /// Whose messages; empty: every upstream that is known.
    pub upstreams: Vec<UpstreamName>,
    /// Only say what is missing: publish nothing, and keep no certificate.
    pub validate_only: bool,
}

/// What a round remembers from one upstream to the next.
#[derive(Debug, Default)]
struct Round {
    /// Subscriptions that did not answer in time: they are not waited for again.
    silent: BTreeSet<SubscriptionName>,
    /// Checks published.
    checked: usize,
}

/// Why one upstream could not be reconciled.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// MSG DB did not do what it was asked: nobody can be reconciled.
    #[error(transparent)]
    Database(#[from] PortError),
    /// Upstream did not answer, or as somebody else.
    #[error("{0}")]
    Upstream(String),
}

impl From<DigestError> for Failure {
    fn from(error: DigestError) -> Self {
        Self::Upstream(error.to_string())
    }
}

/// Another reconciliation runs in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reconciliation is under way in this callback")]
pub struct Busy;

impl Reconciler {
    /// Works on the desk's deliveries and queues, the books of MSG DB, and what upstreams answer.
    #[must_use]
    pub fn new(
        desk: Desk,
        books: Arc<dyn Reconciliation>,
        digests: Arc<dyn Digests>,
        addresses: Addresses,
        figures: Figures,
    ) -> Self {
        Self { desk, books, digests, addresses: Arc::new(addresses), figures, turn: Arc::new(Semaphore::new(1)) }
    }

    /// MSG DB's clock.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn now(&self) -> Result<Timestamp, PortError> {
        self.desk.deliveries.now().await
    }

    /// The last certificate of each upstream, by name.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn certificates(&self) -> Result<Vec<Certificate>, PortError> {
        let known = self.books.known_upstreams().await?;
        Ok(known.into_iter().filter_map(|known| known.certificate).collect())
    }

    /// The right to reconcile in this process.
    ///
    /// # Errors
    /// [`Busy`] while somebody has it.
    pub fn begin(&self) -> Result<SemaphorePermit<'_>, Busy> {
        self.turn.try_acquire().map_err(|_| Busy)
    }

    /// Reconciles a window of each upstream, one after the other; certificates in the order of names.
    ///
    /// # Errors
    /// [`PortError`] of MSG DB: what was certified before is kept.
    pub async fn reconcile(&self, _right: &SemaphorePermit<'_>, task: &Task) -> Result<Vec<Certificate>, PortError> {
        let mut round = Round::default();
        let mut certificates = Vec::new();
        for target in targets::of(self, &task.upstreams).await? {
            let span = tracing::info_span!(
                parent: None,
                names::SPAN_RECONCILE,
                { names::OTEL_KIND } = names::INTERNAL,
                { names::UPSTREAM } = target.called(),
                { names::OUTCOME } = tracing::field::Empty,
                { names::ERROR_TYPE } = tracing::field::Empty,
                { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
            );
            let certificate = self.one(&target, task.asked, task.validate_only, &mut round).instrument(span.clone()).await;
            let certificate = certificate.inspect_err(|_| failed(&span, "msg_db"))?;
            span.record(names::OUTCOME, certificate.state.as_str());
            if certificate.state == State::Unreachable {
                failed(&span, certificate.state.as_str());
            }
            certificates.push(certificate);
        }
        Ok(certificates)
    }

    /// Reconciles one upstream; its certificate is told, and kept unless nothing was to be done.
    async fn one(
        &self,
        target: &targets::Target,
        asked: Window,
        validate_only: bool,
        round: &mut Round,
    ) -> Result<Certificate, PortError> {
        let begun = Instant::now();
        let found = match &target.address {
            Ok(address) => self.compare(target, address, asked, validate_only, round).await,
            Err(why) => Err(Failure::Upstream(why.clone())),
        };
        let mut certificate = match found {
            Ok(certificate) => certificate,
            Err(Failure::Upstream(why)) => Certificate::unreachable(target.called(), asked, why),
            Err(Failure::Database(error)) => return Err(error),
        };
        certificate.at = self.now().await?;
        certificate.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tell(&certificate, validate_only);
        if let (Some(upstream), false) = (&target.name, validate_only) {
            self.books.keep_certificate(upstream, &certificate).await?;
        }
        Ok(certificate)
    }

    /// Sums first, then a witness for who differs, then messages, then checks.
    async fn compare(
        &self,
        target: &targets::Target,
        address: &str,
        asked: Window,
        validate_only: bool,
        round: &mut Round,
    ) -> Result<Certificate, Failure> {
        let Narrowed { window, why } = narrow(asked, &self.kept_from(self.now().await?), &[]);
        let mut books = sums::compare(self, target, address, window).await?;
        books.why.splice(0..0, why.into_iter().map(Into::into));
        let witnesses = witness::of(self, books.differ.keys(), round).await?;
        let room = self.figures.missing_max.saturating_sub(round.checked);
        let missing = compare::messages(self, address, &mut books, &witnesses, room).await?;
        if let Some(upstream) = books.upstream.clone() {
            compare::settle(self, &upstream, missing, &mut books, validate_only, round).await?;
        }
        Ok(Certificate::of(target.called(), asked, books.window, books.lines.into_values().collect(), &books.why))
    }

    /// Nothing older is comparable: it may have been deleted, or forgotten by those who did it.
    fn kept_from(&self, now: Timestamp) -> Vec<Limit> {
        let remembered = Limit {
            at: now.minus_millis(self.desk.figures.dedup_retention_ms),
            why: "what is older than dedup_retention is not compared: its consumers may have forgotten that they did it",
        };
        let kept = self.figures.retention_ms.map(|retention_ms| Limit {
            at: now.minus_millis(retention_ms),
            why: "what is older than callback's retention is not compared: its receipts are deleted",
        });
        std::iter::once(remembered).chain(kept).collect()
    }
}

/// One line a certificate, and its figures.
fn tell(certificate: &Certificate, validate_only: bool) {
    let Certificate { upstream, state, detail, took_ms, compared, .. } = certificate;
    let sum = |count: fn(&countersign_delivery::reconcile::Line) -> u64| certificate.sum(count);
    let (stored, verified, missing) = (sum(|line| line.stored), sum(|line| line.verified), sum(|line| line.missing));
    let (in_flight, parked, discarded) = (sum(|line| line.in_flight), sum(|line| line.parked), sum(|line| line.discarded));
    let (since_ms, until_ms, state) = (compared.since.as_millis(), compared.until.as_millis(), state.as_str());
    metrics::counter!(names::RECONCILIATIONS_TOTAL, "state" => state).increment(1);
    metrics::histogram!(names::RECONCILE_DURATION_SECONDS).record(Duration::from_millis(*took_ms).as_secs_f64());
    if !validate_only {
        metrics::counter!(names::RECONCILE_MISSING_TOTAL).increment(missing);
    }
    if certificate.state == State::Certified {
        tracing::info!(%upstream, state, stored, verified, in_flight, parked, discarded, since_ms, until_ms, took_ms, detail, "reconciled");
    } else {
        tracing::warn!(%upstream, state, stored, verified, in_flight, parked, discarded, missing, since_ms, until_ms, took_ms, detail, "reconciled, and not everything is certified");
    }
    if let Some(line) = certificate.lines.iter().find(|line| !line.adds_up()) {
        let words = format!("the counts of {} do not add up to what is stored: {line:?}", line.subscription);
        countersign_telemetry::invariants::violated("I1", &words);
    }
}
