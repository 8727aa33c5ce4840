//! What callback judges by, so that others can say what comes next. Reads only.

use countersign_delivery::probe::{Lane, Probe};
use countersign_delivery::{SubscriptionName, Timestamp};
use countersign_wire::proto;
use tonic::Status;

use super::status;
use crate::desk::Desk;

/// Subscriptions in one question at most.
const SUBSCRIPTIONS_MAX: usize = 1_000;

/// Callback's figures and clock, and how the probes of the subscriptions `asked` for stand, in order.
pub(super) async fn outlook(desk: &Desk, asked: &[String]) -> Result<proto::GetOutlookResponse, Status> {
    if asked.len() > SUBSCRIPTIONS_MAX {
        let words = format!("subscriptions: {} were named, at most {SUBSCRIPTIONS_MAX} are answered", asked.len());
        return Err(Status::invalid_argument(words));
    }
    let named = asked.iter().map(|name| SubscriptionName::new(name));
    let named: Vec<SubscriptionName> =
        named.collect::<Result<_, _>>().map_err(|error| Status::invalid_argument(format!("subscriptions: {error}")))?;
    let lanes: Vec<Lane> = named.iter().flat_map(|name| lanes_of(desk, name)).collect();
    let probes = if lanes.is_empty() { Vec::new() } else { desk.deliveries.probes(&lanes).await.map_err(|e| status(&e))? };
    // Read last, so that nothing named above lies in the future.
    let now = desk.deliveries.now().await.map_err(|error| status(&error))?;
    let shown: Vec<(Lane, proto::ProbeLane)> =
        lanes.into_iter().zip(&probes).map(|(lane, probes)| (lane.clone(), lane_shown(&lane, probes))).collect();
    let subscriptions = named.iter().map(|name| subscription(desk, name, &shown)).collect();
    Ok(proto::GetOutlookResponse { now_ms: now.as_millis(), figures: Some(figures(desk)), subscriptions })
}

/// Straight first, then its retry tiers; none for a consumer that signs no probes or is not in the topology.
fn lanes_of(desk: &Desk, name: &SubscriptionName) -> Vec<Lane> {
    let Some(known) = desk.topology.subscription(name).filter(|known| known.probes) else { return Vec::new() };
    let delays = std::iter::once(None).chain(known.retry_delays_ms.iter().copied().map(Some));
    delays.map(|retry_delay_ms| Lane { subscription: name.clone(), retry_delay_ms }).collect()
}

/// How a lane stands; `probes` ascending by number.
fn lane_shown(lane: &Lane, probes: &[Probe]) -> proto::ProbeLane {
    let latest = probes.last();
    let silent = probes.iter().rev().take_while(|probe| probe.answered_at.is_none()).last();
    proto::ProbeLane {
        retry_delay_ms: lane.retry_delay_ms.unwrap_or(0),
        latest: latest.map_or(0, |probe| probe.number),
        latest_stored_at_ms: latest.map_or(0, |probe| probe.stored_at.as_millis()),
        latest_answered_at_ms: latest.and_then(|probe| probe.answered_at).map_or(0, Timestamp::as_millis),
        unanswered_since_ms: silent.map_or(0, |probe| probe.stored_at.as_millis()),
    }
}

fn subscription(desk: &Desk, name: &SubscriptionName, lanes: &[(Lane, proto::ProbeLane)]) -> proto::SubscriptionOutlook {
    let known = desk.topology.subscription(name);
    let own = lanes.iter().filter(|(lane, _)| lane.subscription == *name);
    proto::SubscriptionOutlook {
        subscription: name.to_string(),
        known: known.is_some(),
        probes: known.is_some_and(|known| known.probes),
        retry_delays_ms: known.map(|known| known.retry_delays_ms.clone()).unwrap_or_default(),
        lanes: own.map(|(_, shown)| *shown).collect(),
    }
}

fn figures(desk: &Desk) -> proto::JudgingFigures {
    let (policy, checks) = (&desk.policy, &desk.topology.checks);
    proto::JudgingFigures {
        max_resends: policy.max_resends,
        check_delay_ms: checks.check_delay_ms,
        recheck_delays_ms: checks.recheck_delays_ms.clone(),
        resend_lease_ms: policy.resend_lease_ms,
        probe_grace_ms: policy.probe_grace_ms,
        probe_spacing_ms: policy.probe_spacing_ms,
        probe_replace_ms: policy.probe_replace_ms,
        probe_replace_max_ms: policy.probe_replace_max_ms,
        unprobed_timeout_ms: policy.unprobed_timeout_ms,
        overdue_ms: policy.overdue_ms,
        dedup_retention_ms: desk.figures.dedup_retention_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(number: u64, answered_at: Option<i64>) -> Probe {
        let stored_at = Timestamp::from_millis(i64::try_from(number).unwrap() * 1_000);
        Probe { number, floor: 0, stored_at, answered_at: answered_at.map(Timestamp::from_millis) }
    }

    #[test]
    fn a_lane_is_silent_since_the_first_probe_after_the_last_answer() {
        let lane = Lane { subscription: SubscriptionName::new("inventory").unwrap(), retry_delay_ms: None };
        let rows = [
            (vec![], (0, 0, 0, 0)),
            (vec![probe(1, None)], (1, 1_000, 0, 1_000)),
            (vec![probe(1, None), probe(2, Some(2_500))], (2, 2_000, 2_500, 0)),
            (vec![probe(1, Some(1_200)), probe(2, None), probe(3, None)], (3, 3_000, 0, 2_000)),
        ];
        for (probes, expected) in rows {
            let shown = lane_shown(&lane, &probes);
            let seen = (shown.latest, shown.latest_stored_at_ms, shown.latest_answered_at_ms, shown.unanswered_since_ms);
            assert_eq!(seen, expected, "{probes:?}");
        }
    }
}
