//! How exchanges differ, and what keeps messages from an alternate exchange.
//!
//! A message goes to the alternate exchange only if no binding lets it through, whoever made that binding. So a binding that the file does not
//! know takes messages away from the subscriptions behind the alternate exchange: nothing is lost, but they get it only when a check is due.

use countersign_broker::topology::{ALTERNATE, Plan};
use countersign_delivery::topology::Exchange;
use serde_json::Value;

use crate::doctor::finding::Finding;
use crate::doctor::management::{self, Managed};
use crate::doctor::policies;

const ARGUMENT: &str = "topology.queue";
const ALTERNATES: &str = "topology.alternate";

/// How exchanges differ, for when the broker may not be asked by declaring them again.
pub fn judge_arguments(plan: &Plan, managed: &Managed, mend: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in &plan.exchanges {
        let Some(seen) = find(managed, wanted) else { continue };
        let alternate = seen.arguments.get(ALTERNATE).cloned().unwrap_or_default();
        let rows = [
            ("type", Value::from(wanted.kind.as_str()), Value::from(seen.kind.as_str())),
            ("durable", wanted.durable.into(), seen.durable.into()),
            ("auto_delete", wanted.auto_delete.into(), seen.auto_delete.into()),
            ("internal", wanted.internal.into(), seen.internal.into()),
            (ALTERNATE, wanted.alternate.clone().into(), alternate),
        ];
        findings.extend(rows.iter().filter(|(_, wanted, seen)| wanted != seen).map(|(name, expected, seen)| {
            let said = format!("its {name} is {} instead of {}", shown(seen), shown(expected));
            Finding::error(ARGUMENT, format!("exchange {}", wanted.name), said, mend)
        }));
    }
    findings
}

/// What keeps messages from the alternate exchanges of the file, and alternate exchanges that are not in it.
pub fn judge_alternates(plan: &Plan, managed: &Managed) -> Vec<Finding> {
    let mut findings: Vec<Finding> = plan.exchanges.iter().flat_map(|exchange| passed_by(plan, managed, exchange)).collect();
    findings.extend(plan.exchanges.iter().filter_map(|exchange| by_policy(managed, exchange)));
    let alternates = plan.exchanges.iter().filter(|exchange| exchange.alternate.is_some()).count();
    if findings.is_empty() && alternates > 0 {
        let found = format!("nothing keeps messages from any of {alternates}");
        findings.push(Finding::ok(ALTERNATES, "alternate exchanges", found));
    }
    findings
}

/// Bindings beside the file, of an exchange that has an alternate.
fn passed_by(plan: &Plan, managed: &Managed, exchange: &Exchange) -> Vec<Finding> {
    let Some(alternate) = &exchange.alternate else { return Vec::new() };
    let beside = managed
        .bindings
        .iter()
        .filter(|seen| seen.source == exchange.name && !plan.bindings.iter().any(|wanted| policies::is(wanted, seen)));
    let finding = |seen: &management::Binding| {
        let to = format!("{} {}", seen.destination_type, seen.destination);
        Finding::warning(
            ALTERNATES,
            format!("exchange {}", exchange.name),
            format!(
                "its binding to {to} by {:?} is not in the file: what it lets through does not go to the alternate exchange {alternate}, \
                 and subscriptions there get it only when a check is due",
                seen.routing_key
            ),
            format!(
                "take it away, or bind {to} to an exchange without an alternate; if it is a subscription's, put it in the file"
            ),
        )
    };
    beside.map(finding).collect()
}

/// The broker heeds a policy's alternate exchange where the exchange itself names none.
fn by_policy(managed: &Managed, exchange: &Exchange) -> Option<Finding> {
    if exchange.alternate.is_some() {
        return None;
    }
    let name = find(managed, exchange)?.policy.as_ref()?;
    let policy = managed.policies.as_ref()?.iter().find(|policy| policy.name == *name)?;
    let alternate = policy.definition.get(ALTERNATE)?.as_str()?;
    Some(Finding::warning(
        ALTERNATES,
        format!("exchange {}", exchange.name),
        format!(
            "policy {name} gives it the alternate exchange {alternate}, which is not in the file: upstream refuses what it would take"
        ),
        format!(
            "name it in the file (`alternate = {alternate:?}`) and make the exchange anew, or take {ALTERNATE} out of policy {name}"
        ),
    ))
}

fn find<'a>(managed: &'a Managed, wanted: &Exchange) -> Option<&'a management::Exchange> {
    managed.exchanges.iter().find(|seen| seen.name == wanted.name)
}

fn shown(value: &Value) -> String {
    if value.is_null() { "none".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::Topology;
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::management::{Binding, Policy};

    fn plan() -> Plan {
        let text = "[[exchange]]\nname = 'orders'\nkind = 'topic'\nalternate = 'rest'\n[[exchange]]\nname = 'rest'\nkind = 'fanout'\n\
            [[subscription]]\nname = 'work'\nbind = [{ exchange = 'orders', routing_key = 'a' }, { exchange = 'rest' }]";
        Plan::of(&Topology::from_toml(text).unwrap())
    }

    fn exchange(name: &str, kind: &str, arguments: Value) -> management::Exchange {
        management::Exchange { name: name.into(), kind: kind.into(), durable: true, arguments, ..Default::default() }
    }

    /// As the file says.
    fn managed() -> Managed {
        let answer = crate::doctor::ask::Answer { status: 200, body: String::new(), date: None, between_ms: (0, 0) };
        let exchanges = vec![exchange("orders", "topic", json!({ ALTERNATE: "rest" })), exchange("rest", "fanout", json!({}))];
        let bindings = vec![binding("orders", "work", "a"), binding("rest", "work", "")];
        Managed { exchanges, queues: Vec::new(), bindings, policies: None, operator_policies: None, answer }
    }

    fn binding(source: &str, queue: &str, key: &str) -> Binding {
        let arguments = json!({});
        let (source, destination, routing_key) = (source.into(), queue.into(), key.into());
        Binding { source, destination, destination_type: "queue".into(), routing_key, arguments }
    }

    #[test]
    fn differing_exchanges_are_named_with_both_values() {
        assert!(judge_arguments(&plan(), &managed(), "mend").is_empty());
        let mut managed = managed();
        managed.exchanges[0].arguments = json!({});
        managed.exchanges[1].arguments = json!({ ALTERNATE: "orders" });
        managed.exchanges[1].kind = "direct".into();
        managed.exchanges[1].internal = true;
        let findings = judge_arguments(&plan(), &managed, "mend");
        let said: Vec<_> = findings.iter().map(|finding| format!("{} {}", finding.subject, finding.found)).collect();
        let expected = [
            "exchange orders its alternate-exchange is none instead of \"rest\"",
            "exchange rest its type is \"direct\" instead of \"fanout\"",
            "exchange rest its internal is true instead of false",
            "exchange rest its alternate-exchange is \"orders\" instead of none",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_binding_beside_the_file_keeps_messages_from_the_alternate_exchange() {
        let healthy = judge_alternates(&plan(), &managed());
        assert!(healthy.len() == 1 && healthy[0].severity == Severity::Ok, "{healthy:?}");
        let mut managed = managed();
        managed.bindings.extend([binding("orders", "foreign", "#"), binding("rest", "foreign", "")]);
        let findings = judge_alternates(&plan(), &managed);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((finding.severity, finding.subject.as_str()), (Severity::Warning, "exchange orders"));
        assert!(finding.found.contains("queue foreign by \"#\"") && finding.remedy.contains("take it away"), "{finding:?}");
    }

    #[test]
    fn an_alternate_exchange_by_policy_counts_only_where_the_exchange_names_none() {
        let mut managed = managed();
        let definition = json!({ ALTERNATE: "elsewhere" }).as_object().unwrap().clone();
        managed.policies = Some(vec![Policy { name: "p".into(), definition }]);
        managed.exchanges[0].policy = Some("p".into());
        assert_eq!(judge_alternates(&plan(), &managed)[0].severity, Severity::Ok, "the argument wins");
        managed.exchanges[1].policy = Some("p".into());
        let findings = judge_alternates(&plan(), &managed);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert!(
            finding.subject == "exchange rest" && finding.found.contains("policy p gives it the alternate exchange elsewhere")
        );
    }
}
