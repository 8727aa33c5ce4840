//! Reconciliation by itself: each upstream in turn, from a while before what was certified last until now.
//!
//! Any number of replicas share the turns: who has one holds a lease in MSG DB and renews it while it works; who loses it stops. A
//! subscription that is skipped, or a message that is missing, holds the certified time back, so that the next round begins there again.

use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::reconciliation::Turn;
use countersign_delivery::reconcile::{Certificate, MINUTE_MS, Window, minute_of};
use countersign_delivery::{Timestamp, UpstreamName};

use super::{Reconciler, Round, targets};

/// How long a turn is one replica's without a word of it, milliseconds.
const LEASE_MS: u64 = 60_000;
/// Between two renewals.
const RENEWAL: Duration = Duration::from_millis(LEASE_MS / 4);

/// When the schedule reconciles what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From the end of one round of an upstream to the next, milliseconds.
    pub interval_ms: u64,
    /// How far a round goes back behind what is certified, milliseconds.
    pub overlap_ms: u64,
}

/// Reconciles every upstream that is due; how many. None while another reconciliation runs in this process.
///
/// # Errors
/// [`PortError`] of MSG DB; turns that were taken end with their leases.
pub async fn round(reconciler: &Reconciler, schedule: Schedule) -> Result<usize, PortError> {
    let Ok(_right) = reconciler.begin() else { return Ok(0) };
    let (names, _) = targets::known(reconciler).await?;
    let (mut round, mut turns) = (Round::default(), 0);
    for upstream in names {
        if let Some(turn) = reconciler.books.take_turn(&upstream, LEASE_MS).await? {
            turns += usize::from(take(reconciler, schedule, upstream, turn, &mut round).await?);
        }
    }
    Ok(turns)
}

/// One turn; whether it was ours to its end.
async fn take(
    reconciler: &Reconciler,
    schedule: Schedule,
    upstream: UpstreamName,
    turn: Turn,
    round: &mut Round,
) -> Result<bool, PortError> {
    let now = reconciler.now().await?;
    let asked = asked(now, turn.certified_until, schedule.overlap_ms, reconciler.desk.figures.dedup_retention_ms);
    let Some((turn, certificate)) = work(reconciler, &upstream, asked, turn, round).await? else {
        tracing::warn!(%upstream, "the lease of a turn to reconcile was lost: another callback goes on");
        return Ok(false);
    };
    let certified_until = certificate.certified_until().or(turn.certified_until);
    reconciler.books.end_turn(&turn, certified_until, schedule.interval_ms).await
}

/// Reconciles, and renews the lease meanwhile; none when it was lost.
async fn work(
    reconciler: &Reconciler,
    upstream: &UpstreamName,
    asked: Window,
    mut turn: Turn,
    round: &mut Round,
) -> Result<Option<(Turn, Certificate)>, PortError> {
    let target = targets::named(reconciler, upstream.clone());
    let working = reconciler.one(&target, asked, false, round);
    tokio::pin!(working);
    loop {
        tokio::select! {
            certificate = &mut working => return Ok(Some((turn, certificate?))),
            () = tokio::time::sleep(RENEWAL) => match reconciler.books.renew_turn(&turn, LEASE_MS).await {
                Ok(Some(renewed)) => turn = renewed,
                Ok(None) => return Ok(None),
                Err(error) => tracing::warn!(%error, "a turn to reconcile could not be renewed; it is tried again"),
            },
        }
    }
}

/// From a while before what is certified, the first time from as long ago as anything can be sent again, until now. What is certified
/// ahead of now was certified by a clock that was set back since: those minutes are compared as they come.
fn asked(now: Timestamp, certified_until: Option<Timestamp>, overlap_ms: u64, dedup_retention_ms: u64) -> Window {
    let since = certified_until.map_or(now.minus_millis(dedup_retention_ms), |until| until.min(now).minus_millis(overlap_ms));
    Window { since: minute_of(since), until: minute_of(now).plus_millis(MINUTE_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_begins_before_what_is_certified_and_never_after_now() {
        let at = |minutes: i64| Timestamp::from_millis(minutes * MINUTE_MS.cast_signed());
        let rows = [
            ("the first", None, 40, 101),
            ("the next", Some(90), 80, 101),
            ("certified until now", Some(100), 90, 101),
            ("MSG DB's clock was set back", Some(500), 90, 101),
        ];
        for (what, certified, since, until) in rows {
            let asked = asked(at(100).plus_millis(7), certified.map(at), 10 * MINUTE_MS, 60 * MINUTE_MS);
            assert_eq!(asked, Window { since: at(since), until: at(until) }, "{what}");
        }
    }
}
