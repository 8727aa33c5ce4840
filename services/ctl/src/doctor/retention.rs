//! Whether what has been done is remembered for longer than a message can come again.

use countersign_delivery::Topology;
use countersign_delivery::horizon::resend_horizon_ms;
use countersign_delivery::policy::Policy;
use serde_json::Value;

use crate::doctor::finding::Finding;
use crate::doctor::settings::Downstream;

const HORIZON: &str = "retention.horizon";
const POLICY: &str = "retention.policy";
const FIGURE: &str = "retention.figure";

/// The figures of both services that must fit each other.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    pub downstream: &'a Downstream,
    /// `[policy]` of downstream.
    pub theirs: &'a Policy,
    /// `[policy]` of callback: the one that resends follow.
    pub policy: &'a Policy,
    /// `callback.dedup_retention_ms`.
    pub callback_retention_ms: u64,
}

/// Both policies, both retentions, and the horizon of each subscription.
pub fn judge(topology: Option<&Topology>, figures: &Figures<'_>) -> Vec<Finding> {
    let mut findings = vec![judge_policies(figures), judge_figures(figures)];
    if let Some(topology) = topology {
        findings.extend(judge_horizons(topology, figures));
    }
    findings
}

fn judge_horizons(topology: &Topology, figures: &Figures<'_>) -> Vec<Finding> {
    let own = figures.downstream;
    let kept = own.dedup_retention_ms;
    let judge = |subscription: &countersign_delivery::topology::Subscription| {
        let name = subscription.name.as_str();
        let under = |policy| resend_horizon_ms(topology, subscription, policy, own.timeout_ms(name), own.lease_ms);
        let horizon = under(figures.policy).max(under(figures.theirs));
        if kept >= horizon {
            return Finding::ok(
                HORIZON,
                name,
                format!("done is known for {kept} ms, and nothing is sent again after {horizon} ms"),
            );
        }
        Finding::error(
            HORIZON,
            name,
            format!(
                "downstream.dedup_retention_ms is {kept}, but a message can be sent again after {horizon} ms: downstream refuses to start"
            ),
            format!(
                "set dedup_retention_ms to at least {horizon}, in [downstream] of downstream.toml and in [callback] of callback.toml"
            ),
        )
    };
    topology.subscriptions.iter().filter(|subscription| subscription.probes).map(judge).collect()
}

fn judge_policies(figures: &Figures<'_>) -> Finding {
    let subject = "[policy]";
    let differing = differing(figures.theirs, figures.policy);
    if differing.is_empty() {
        return Finding::ok(POLICY, subject, "the same in downstream.toml and callback.toml");
    }
    Finding::error(
        POLICY,
        subject,
        format!(
            "downstream.toml and callback.toml differ in {}: downstream computes the horizon from figures that callback does not follow",
            differing.join(", ")
        ),
        "copy [policy] from callback.toml to downstream.toml and start downstream again",
    )
}

/// `key (one ≠ other)` for each key that differs.
pub fn differing(one: &Policy, other: &Policy) -> Vec<String> {
    let table = |policy: &Policy| match serde_json::to_value(policy) {
        Ok(Value::Object(table)) => table,
        _ => serde_json::Map::new(),
    };
    let (one, other) = (table(one), table(other));
    let keys = one.keys().filter(|key| one.get(*key) != other.get(*key));
    keys.map(|key| format!("{key} ({} ≠ {})", one[key], other.get(key).unwrap_or(&Value::Null))).collect()
}

fn judge_figures(figures: &Figures<'_>) -> Finding {
    let (downstream, callback) = (figures.downstream.dedup_retention_ms, figures.callback_retention_ms);
    let subject = "dedup_retention_ms";
    if downstream == callback {
        return Finding::ok(FIGURE, subject, format!("{downstream} in downstream.toml and callback.toml"));
    }
    let costs = if callback > downstream {
        "callback would send again what downstream has forgotten, and downstream refuses it as stale"
    } else {
        "callback gives up on messages that downstream would still recognise"
    };
    Finding::error(
        FIGURE,
        subject,
        format!("{downstream} in [downstream] of downstream.toml, but {callback} in [callback] of callback.toml: {costs}"),
        "set callback.dedup_retention_ms to the value of downstream.dedup_retention_ms",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn topology() -> Topology {
        let exchange = "exchange = 'countersign.messages'";
        Topology::from_toml(&format!(
            "[[subscription]]\nname = 'inventory'\nbind = [{{ {exchange} }}]\n[[subscription]]\nname = 'foreign'\nprobes = false\nbind = [{{ {exchange} }}]"
        ))
        .unwrap()
    }

    fn errors(downstream: &Downstream, theirs: &Policy, policy: &Policy, callback_retention_ms: u64) -> Vec<&'static str> {
        let figures = Figures { downstream, theirs, policy, callback_retention_ms };
        let findings = judge(Some(&topology()), &figures);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok || !finding.remedy.is_empty()));
        findings.iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.check).collect()
    }

    #[test]
    fn what_does_not_fit_together_is_an_error() {
        let (own, policy) = (Downstream::default(), Policy::default());
        let week = own.dedup_retention_ms;
        let hour = Downstream { dedup_retention_ms: 3_600_000, ..Downstream::default() };
        let patient = Policy { max_resends: 1_000, ..Policy::default() };
        assert_eq!(errors(&own, &policy, &policy, week), [""; 0]);
        assert_eq!(errors(&hour, &policy, &policy, 3_600_000), [HORIZON]);
        assert_eq!(errors(&own, &policy, &policy, week - 1), [FIGURE]);
        assert_eq!(errors(&own, &policy, &patient, week), [POLICY, HORIZON], "callback's figures count");
        assert_eq!(errors(&own, &patient, &patient, week), [HORIZON]);
    }

    #[test]
    fn every_differing_key_is_named_with_both_values() {
        let other = Policy { max_resends: 5, overdue_ms: 7, ..Policy::default() };
        let said = differing(&Policy::default(), &other).join(", ");
        assert!(said.contains("max_resends (3 ≠ 5)") && said.contains("overdue_ms (1200000 ≠ 7)"), "{said}");
    }
}
