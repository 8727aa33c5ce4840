//! Whether upstream keeps its messages for as long as they can be asked for.

use countersign_delivery::Topology;
use countersign_delivery::horizon::longest_resend_horizon_ms;

use crate::doctor::finding::Finding;
use crate::doctor::retention::differing;
use crate::doctor::settings::{Callback, Downstream, Part, Upstream};

const STORED: &str = "retention.stored";
const POLICY: &str = "retention.stored_policy";
const SUBJECT: &str = "upstream.retention_ms";

/// Upstream's retention against the horizon and callback's retention, and the figures it computes the horizon from. `parts` in the order
/// of [`Which::ALL`](crate::doctor::settings::Which::ALL).
pub fn judge(topology: Option<&Topology>, parts: [Option<&Part>; 3]) -> Vec<Finding> {
    let [Some(upstream), Some(downstream), Some(callback)] = parts else {
        let found = "not judged: a configuration file cannot be used";
        return vec![Finding::skipped(STORED, SUBJECT, found, "see under configuration")];
    };
    let told = judge_told(upstream, downstream, callback);
    let horizon = topology.map_or(0, |topology| {
        let (timeout_ms, lease_ms) = (downstream.downstream.longest_timeout_ms(), downstream.downstream.lease_ms);
        longest_resend_horizon_ms(topology, &callback.policy, timeout_ms, lease_ms)
    });
    vec![told, judge_kept(&upstream.upstream, horizon, &callback.callback)]
}

fn judge_kept(upstream: &Upstream, horizon_ms: u64, callback: &Callback) -> Finding {
    let (kept, asked) = (upstream.retention_ms, callback.dedup_retention_ms);
    if kept == 0 {
        return Finding::ok(STORED, SUBJECT, "0: upstream keeps every message");
    }
    if kept < horizon_ms {
        let found =
            format!("{kept}, but a message can be sent again after {horizon_ms} ms, and upstream would not know it any more");
        return Finding::error(STORED, SUBJECT, found, format!("set it to at least {}, or to 0", horizon_ms.max(asked)));
    }
    if kept < asked {
        let found = format!(
            "{kept}, but callback orders resends of messages up to {asked} ms old (callback.dedup_retention_ms): after an outage it would \
             ask for messages that are deleted, and park them"
        );
        return Finding::warning(STORED, SUBJECT, found, format!("set it to at least {asked}, or to 0"));
    }
    Finding::ok(STORED, SUBJECT, format!("settled messages are kept for {kept} ms, and none is asked for after {asked} ms"))
}

/// The figures that upstream was told of the others.
fn judge_told(upstream: &Part, downstream: &Part, callback: &Part) -> Finding {
    let (Upstream { handler_timeout_ms, handler_lease_ms, .. }, theirs) = (&upstream.upstream, &downstream.downstream);
    let mut wrong = differing(&upstream.policy, &callback.policy);
    wrong.extend(too_small("handler_timeout_ms", *handler_timeout_ms, "downstream's longest timeout_ms", theirs));
    if *handler_lease_ms < theirs.lease_ms {
        wrong.push(format!("handler_lease_ms ({handler_lease_ms} < {}, downstream's lease_ms)", theirs.lease_ms));
    }
    if wrong.is_empty() {
        return Finding::ok(POLICY, "[policy]", "upstream.toml says of resends what callback.toml and downstream.toml say");
    }
    Finding::warning(
        POLICY,
        "[policy]",
        format!("upstream computes how late a resend can come from figures that are not followed: {}", wrong.join(", ")),
        "copy [policy] from callback.toml to upstream.toml, raise upstream.handler_… to downstream's figures, and start upstream again",
    )
}

fn too_small(key: &str, told: u64, of: &str, downstream: &Downstream) -> Option<String> {
    let longest = downstream.longest_timeout_ms();
    (told < longest).then(|| format!("{key} ({told} < {longest}, {of})"))
}

#[cfg(test)]
mod tests {
    use countersign_delivery::policy::Policy;

    use super::*;
    use crate::doctor::finding::Severity;

    const BOUND: &str = "[[subscription]]\nname = 'inventory'\nbind = [{ exchange = 'countersign.messages' }]";

    fn severities(upstream: &Part, downstream: &Part, callback: &Part) -> [Severity; 2] {
        let topology = Topology::from_toml(BOUND).unwrap();
        let findings = judge(Some(&topology), [Some(upstream), Some(downstream), Some(callback)]);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok || !finding.remedy.is_empty()));
        [findings[0].severity, findings[1].severity]
    }

    fn keeping(retention_ms: u64) -> Part {
        Part { upstream: Upstream { retention_ms, ..Upstream::default() }, ..Part::default() }
    }

    #[test]
    fn messages_must_be_kept_for_as_long_as_they_are_asked_for() {
        let plain = Part::default();
        assert_eq!(severities(&plain, &plain, &plain), [Severity::Ok, Severity::Ok]);
        assert_eq!(severities(&keeping(0), &plain, &plain), [Severity::Ok, Severity::Ok], "everything is kept");
        assert_eq!(severities(&keeping(60_000), &plain, &plain), [Severity::Ok, Severity::Error], "shorter than the horizon");
        let day = plain.callback.dedup_retention_ms - 24 * 3_600_000;
        assert_eq!(severities(&keeping(day), &plain, &plain), [Severity::Ok, Severity::Warning], "shorter than callback's");
    }

    #[test]
    fn what_upstream_was_told_must_be_what_the_others_do() {
        let plain = Part::default();
        let patient = Part { policy: Policy { max_resends: 4, ..Policy::default() }, ..Part::default() };
        assert_eq!(severities(&plain, &plain, &patient)[0], Severity::Warning, "callback's policy");
        let slow = Part { downstream: Downstream { timeout_ms: 90_000, ..Downstream::default() }, ..Part::default() };
        assert_eq!(severities(&plain, &slow, &plain)[0], Severity::Warning, "a slower handler");
        let leased = Part { downstream: Downstream { lease_ms: 90_000, ..Downstream::default() }, ..Part::default() };
        assert_eq!(severities(&plain, &leased, &plain)[0], Severity::Warning, "a longer lease");
        assert_eq!(severities(&patient, &plain, &patient)[0], Severity::Ok);
    }
}
