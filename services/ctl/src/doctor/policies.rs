//! What policies do to queues behind their arguments' back, and which bindings are lost.
//!
//! For quorum queues a policy's `overflow` wins over the argument, and of two limits (`message-ttl`, `max-length`, `delivery-limit`) the lower
//! one holds; of `dead-letter-*` the argument wins. So at-least-once dead-lettering, which takes `overflow = reject-publish`, can be undone by
//! a policy alone.

use std::collections::BTreeSet;

use countersign_broker::topology::{Argument, BindingPlan, Plan, QueuePlan};
use serde_json::{Map, Value};

use crate::doctor::finding::Finding;
use crate::doctor::management::{Binding, Managed};

const POLICY: &str = "topology.policy";
const BINDING: &str = "topology.binding";
const ARGUMENT: &str = "topology.queue";
/// The one argument that a queue of ours may have or not.
const BOUND: &str = "x-max-length";

/// Every queue's policies and every binding.
pub fn judge(plan: &Plan, managed: &Managed, apply: &str) -> Vec<Finding> {
    let mut findings = judge_policies(plan, managed);
    let missing: Vec<_> = plan.bindings.iter().filter(|wanted| !managed.bindings.iter().any(|seen| is(wanted, seen))).collect();
    findings.extend(missing.iter().map(|binding| {
        Finding::error(
            BINDING,
            format!("queue {}", binding.queue),
            format!(
                "its binding to exchange {} by {:?} is missing: the broker routes no such message to it, and only checks and resends get them there",
                binding.exchange, binding.routing_key
            ),
            apply,
        )
    }));
    if missing.is_empty() {
        findings.push(Finding::ok(BINDING, "bindings", format!("none of {} is missing", plan.bindings.len())));
    }
    findings
}

fn judge_policies(plan: &Plan, managed: &Managed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut unseen = BTreeSet::new();
    for wanted in &plan.queues {
        let Some(seen) = managed.queues.iter().find(|seen| seen.name == wanted.name) else { continue };
        match seen.policy_definition(managed) {
            Some(definition) => findings.extend(judge_policy(wanted, &seen.policies(), &definition)),
            None => drop(unseen.insert(seen.policies())),
        }
    }
    findings.extend(unseen.into_iter().map(|policies| {
        let found = format!("{policies} matches some of the queues, but this user may not see what it sets");
        let remedy = "let the user see policies (`rabbitmqctl set_user_tags USER policymaker`), or look yourself: `rabbitmqctl list_policies`";
        Finding::skipped(POLICY, "policies", found, remedy)
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(
            POLICY,
            "policies",
            format!("none changes any of the {} queues for the worse", plan.queues.len()),
        ));
    }
    findings
}

/// Whether the binding that is there is the one of the file.
pub fn is(wanted: &BindingPlan, seen: &Binding) -> bool {
    let arguments = wanted.arguments.iter().all(|(name, value)| seen.arguments.get(name).and_then(Value::as_str) == Some(value));
    let places = seen.destination_type == "queue" && seen.destination == wanted.queue && seen.source == wanted.exchange;
    places && seen.routing_key == wanted.routing_key && arguments
}

/// How the arguments of queues differ, for when the broker may not be asked by declaring them again.
pub fn judge_arguments(plan: &Plan, managed: &Managed, mend: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in &plan.queues {
        let Some(seen) = managed.queues.iter().find(|seen| seen.name == wanted.name) else { continue };
        for (name, value) in &wanted.arguments {
            let found = seen.arguments.get(*name);
            let same = match value {
                Argument::Text(text) => found.and_then(Value::as_str) == Some(text),
                Argument::Number(number) => found.and_then(Value::as_i64) == Some(*number),
            };
            if !same {
                let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                let said = format!("its argument {name} is {found} instead of {}", shown(value));
                findings.push(Finding::error(ARGUMENT, format!("queue {}", wanted.name), said, mend));
            }
        }
        if let Some(found) = seen.arguments.get(BOUND).filter(|_| !wanted.arguments.contains_key(BOUND)) {
            let said = format!("its argument {BOUND} is {found}, and the topology gives it no max_length");
            findings.push(Finding::error(ARGUMENT, format!("queue {}", wanted.name), said, mend));
        }
    }
    findings
}

fn shown(value: &Argument) -> String {
    match value {
        Argument::Text(text) => format!("{text:?}"),
        Argument::Number(number) => number.to_string(),
    }
}

/// `policies` names what `definition` comes from.
fn judge_policy(queue: &QueuePlan, policies: &str, definition: &Map<String, Value>) -> Vec<Finding> {
    let subject = format!("queue {}", queue.name);
    let remedy = format!(
        "take this key out of {} of the virtual host, or narrow its pattern so that {} does not match (`rabbitmqctl list_policies`)",
        policies, queue.name
    );
    let overflow = definition.get("overflow").and_then(Value::as_str);
    let harms = definition.iter().filter_map(|(key, value)| Some((key, value, harm(queue, key, value, overflow)?)));
    harms
        .map(|(key, value, harm)| {
            let found = format!("{policies} sets {key} = {value}: {}", harm.costs);
            if harm.loses {
                Finding::error(POLICY, &subject, found, &remedy)
            } else {
                Finding::warning(POLICY, &subject, found, &remedy)
            }
        })
        .collect()
}

struct Harm {
    /// Messages are lost or parked unprocessed; else they are merely late.
    loses: bool,
    costs: &'static str,
}

/// What one key of a policy does to a queue of ours, if it does harm.
fn harm(queue: &QueuePlan, key: &str, value: &Value, overflow: Option<&str>) -> Option<Harm> {
    let loses = |costs| Some(Harm { loses: true, costs });
    let delays = |costs| Some(Harm { loses: false, costs });
    let own = |name: &str| match queue.arguments.get(name) {
        Some(Argument::Number(number)) => Some(*number),
        _ => None,
    };
    let lower = |name: &str| own(name).is_none_or(|own| value.as_i64().is_none_or(|value| value < own));
    match (key, queue.dead_letters()) {
        ("overflow", true) if value != "reject-publish" => loses(
            "dead-lettering falls back to at most once, so what expires or is given up on can be lost on its way; when full, the oldest messages are dropped",
        ),
        ("expires", _) => loses("the queue is deleted with its messages when nobody uses it for that long"),
        ("message-ttl", true) if own("x-message-ttl").is_some() && lower("x-message-ttl") => {
            delays("its messages move on earlier than the topology says")
        }
        ("message-ttl", true) if own("x-message-ttl").is_none() => {
            loses("what waits longer is dead-lettered unprocessed, and parked")
        }
        ("message-ttl", false) => loses("what waits longer is thrown away, since nothing comes after this queue"),
        // Of two bounds the lower one holds, and the topology's own is meant.
        ("max-length", true) if own(BOUND).is_some() && !lower(BOUND) => None,
        ("max-length" | "max-length-bytes", true) => delays("a full queue refuses messages, and what publishes to it waits"),
        ("max-length" | "max-length-bytes", false) if overflow != Some("reject-publish") => {
            loses("when full, the oldest messages are dropped")
        }
        ("max-length" | "max-length-bytes", false) => delays("a full queue refuses messages, and what dead-letters to it waits"),
        ("delivery-limit", true) if lower("x-delivery-limit") => {
            delays("messages that a crashing consumer had merely prefetched are given up on early")
        }
        ("delivery-limit", false) if lower("x-delivery-limit") => {
            loses("what was looked at so often is thrown away, since nothing comes after this queue")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::management::Queue;
    use countersign_delivery::Topology;
    use serde_json::json;

    fn plan() -> Plan {
        let text = "[checks]\ncheck_delay_ms = 300\nrecheck_delays_ms = [200]\n[[subscription]]\nname = 'work'\nmax_length = 50\nretry_delays_ms = [100]\n\
            bind = [{ exchange = 'countersign.messages', routing_key = 'a.#' }, { exchange = 'countersign.messages', routing_key = 'b', arguments = { k = 'v' } }]";
        Plan::of(&Topology::from_toml(text).unwrap())
    }

    fn severity(queue: &str, definition: &Value) -> Option<Severity> {
        let plan = plan();
        let wanted = plan.queues.iter().find(|wanted| wanted.name == queue).unwrap();
        let findings = judge_policy(wanted, "policy p", definition.as_object().unwrap());
        assert!(
            findings.iter().all(|finding| finding.remedy.contains("policy p") && finding.remedy.contains(queue)),
            "{findings:?}"
        );
        findings.first().map(|finding| finding.severity)
    }

    #[test]
    fn each_key_of_a_policy_is_judged_by_what_it_costs_that_queue() {
        let (error, warning) = (Some(Severity::Error), Some(Severity::Warning));
        let rows = [
            ("work", json!({"overflow": "drop-head"}), error),
            ("countersign.checks.300", json!({"overflow": "drop-head"}), error),
            ("work.retry.100", json!({"overflow": "reject-publish"}), None),
            ("work.dead", json!({"overflow": "drop-head"}), None),
            ("countersign.receipts", json!({"message-ttl": 1}), error),
            ("countersign.checks.300", json!({"message-ttl": 299}), warning),
            ("countersign.checks.300", json!({"message-ttl": 300}), None),
            ("countersign.quarantine", json!({"message-ttl": 1}), error),
            ("countersign.checks.200", json!({"expires": 1}), error),
            ("work", json!({"max-length": 10}), warning),
            ("work", json!({"max-length": 50}), None),
            ("work", json!({"max-length-bytes": 50}), warning),
            ("work.retry.100", json!({"max-length": 50}), warning),
            ("work.dead", json!({"max-length": 10}), error),
            ("work.dead", json!({"max-length-bytes": 10, "overflow": "reject-publish"}), warning),
            ("work", json!({"delivery-limit": 3}), warning),
            ("work", json!({"delivery-limit": 5_000}), None),
            ("work.limit", json!({"delivery-limit": 3}), error),
            ("work", json!({"queue-leader-locator": "balanced", "dead-letter-strategy": "at-most-once"}), None),
            ("work", json!({}), None),
        ];
        for (queue, definition, expected) in rows {
            assert_eq!(severity(queue, &definition), expected, "{queue} {definition}");
        }
    }

    fn managed(queues: Vec<Queue>, bindings: Vec<Binding>) -> Managed {
        let answer = crate::doctor::ask::Answer { status: 200, body: String::new(), date: None, between_ms: (0, 0) };
        Managed { exchanges: Vec::new(), queues, bindings, policies: None, operator_policies: None, answer }
    }

    fn binding(routing_key: &str, arguments: Value) -> Binding {
        Binding {
            source: "countersign.messages".into(),
            destination: "work".into(),
            destination_type: "queue".into(),
            routing_key: routing_key.into(),
            arguments,
        }
    }

    #[test]
    fn a_policy_that_cannot_be_seen_is_no_proof_of_health() {
        let seen = Queue { name: "work".into(), policy: Some("secret".into()), ..Queue::default() };
        let findings = judge_policies(&plan(), &managed(vec![seen], Vec::new()));
        assert!(findings[0].severity == Severity::Skipped && findings[0].found.contains("policy secret"), "{findings:?}");
    }

    #[test]
    fn a_lost_binding_is_found_arguments_included() {
        let lost = |bindings: Vec<Binding>| {
            let findings = judge(&plan(), &managed(Vec::new(), bindings), "apply it");
            let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
            errors.map(|finding| (finding.check, finding.remedy.clone())).collect::<Vec<_>>()
        };
        let all = vec![binding("a.#", json!({})), binding("b", json!({"k": "v", "more": 1}))];
        assert_eq!(lost(all.clone()), []);
        assert_eq!(lost(all[..1].to_vec()), [(BINDING, "apply it".to_owned())]);
        assert_eq!(lost(vec![all[0].clone(), binding("b", json!({}))]).len(), 1);
        assert_eq!(lost(Vec::new()).len(), 2);
    }

    #[test]
    fn differing_arguments_are_named_with_both_values() {
        let arguments = json!({"x-queue-type": "quorum", "x-delivery-limit": 3, "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "work.limit", "x-dead-letter-strategy": "at-least-once"});
        let seen = Queue { name: "work".into(), arguments: arguments.clone(), ..Queue::default() };
        let findings = judge_arguments(&plan(), &managed(vec![seen], Vec::new()), "mend");
        let said: Vec<_> = findings.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(
            said,
            [
                "its argument x-delivery-limit is 3 instead of 1000",
                "its argument x-max-length is nothing instead of 50",
                "its argument x-overflow is nothing instead of \"reject-publish\""
            ]
        );
        let mut arguments = arguments;
        arguments[BOUND] = json!(7);
        let seen = Queue { name: "work.retry.100".into(), arguments, ..Queue::default() };
        let findings = judge_arguments(&plan(), &managed(vec![seen], Vec::new()), "mend");
        let bound = findings.iter().find(|finding| finding.found.contains(BOUND)).map(|finding| finding.found.as_str());
        assert_eq!(bound, Some("its argument x-max-length is 7, and the topology gives it no max_length"));
    }
}
