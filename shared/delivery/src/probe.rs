//! Probes: markers that callback sends through a work queue, to learn what has been delivered by now.
//!
//! Queue depth and age prove nothing: what consumers hold is invisible, and slow is not lost. A probe that comes out at the
//! far end proves that everything published before it has at least been handed to a consumer. One is not enough, since a
//! crashed consumer's message is put back *behind* it; so the rule wants two, the second stored after the first one's grace.
//!
//! Each probe remembers its `floor`: the largest probe of its lane whose answer was older than the grace when this one
//! was stored. An answered probe with floor F therefore proves everything that was published before probe F.

use crate::id::SubscriptionName;
use crate::policy::Policy;
use crate::time::Timestamp;

/// The way a probe takes: straight through the work queue, or through one of its retry tiers first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Whose work queue.
    pub subscription: SubscriptionName,
    /// The retry tier it goes through first, by its delay in milliseconds; none: straight.
    pub retry_delay_ms: Option<u64>,
}

/// One probe as MSG DB stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Counts up from 1 within the lane.
    pub number: u64,
    /// The largest probe of the lane whose answer's grace was over when this one was stored; 0: none.
    pub floor: u64,
    /// When it was stored, by MSG DB's clock; it was published after that.
    pub stored_at: Timestamp,
    /// When its answer was stored, by the same clock.
    pub answered_at: Option<Timestamp>,
}

/// What a lane's probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneView {
    /// The largest number stored so far; 0: none.
    pub latest: u64,
    /// What was published before this probe has been delivered, and has had its time to be signed or put back; 0: nothing.
    pub proven: u64,
}

/// Reads a lane's probes, in any order.
#[must_use]
pub fn view(probes: &[Probe]) -> LaneView {
    let answered = probes.iter().filter(|probe| probe.answered_at.is_some());
    LaneView {
        latest: probes.iter().map(|probe| probe.number).max().unwrap_or(0),
        proven: answered.map(|probe| probe.floor).max().unwrap_or(0),
    }
}

/// The probe to be stored and sent next, if one is wanted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextProbe {
    /// Its number.
    pub number: u64,
    /// Its floor.
    pub floor: u64,
}

/// Whether a lane wants a probe now, given that some check waits for evidence newer than probe `demand`.
///
/// `probes` is the lane's recent history, ascending by number. At most one probe is outstanding within its interval; an unanswered one is
/// replaced at doubling intervals up to a cap.
#[must_use]
pub fn next_probe(probes: &[Probe], demand: u64, now: Timestamp, policy: &Policy) -> Option<NextProbe> {
    let LaneView { latest, proven } = view(probes);
    let floor = probes.iter().filter(|probe| grace_is_over(probe, now, policy)).map(|probe| probe.number).max().unwrap_or(0);
    let next = NextProbe { number: latest + 1, floor };
    let Some(last) = probes.last() else { return Some(next) };
    let silent = probes.iter().rev().take_while(|probe| probe.answered_at.is_none()).count();
    let due = match silent {
        0 => policy.probe_spacing_ms,
        silent => replace_after_ms(silent, policy),
    };
    let useful = silent > 0 || latest <= demand || floor > proven;
    (useful && now.millis_since(last.stored_at) >= due).then_some(next)
}

fn grace_is_over(probe: &Probe, now: Timestamp, policy: &Policy) -> bool {
    probe.answered_at.is_some_and(|at| now.millis_since(at) >= policy.probe_grace_ms)
}

fn replace_after_ms(silent: usize, policy: &Policy) -> u64 {
    let doublings = u32::try_from(silent.saturating_sub(1)).unwrap_or(u32::MAX).min(20);
    policy.probe_replace_ms.saturating_mul(1 << doublings).min(policy.probe_replace_max_ms)
}
