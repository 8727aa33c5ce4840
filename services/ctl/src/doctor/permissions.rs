//! Whether each service's broker user may do what that service does, found out without doing it.

use std::time::Duration;

use countersign_broker::Config;
use countersign_broker::checkup::{Right, Standing, rights};
use countersign_broker::topology::{Grant, Plan};
use countersign_delivery::Topology;

use crate::doctor::ask::within;
use crate::doctor::connections::Reached;
use crate::doctor::finding::Finding;
use crate::doctor::settings::{Part, Which};
use crate::permissions::quoted;

const PERMISSIONS: &str = "permissions.broker";

/// What a service does with the broker: publish, consume, and declare if it is told to.
fn needs(which: Which, part: &Part, topology: &Topology) -> Vec<Right> {
    let mut needs = granted(which, part, topology).rights();
    if part.topology.apply {
        needs.extend(Plan::of(topology).queues.into_iter().map(|queue| Right::Configure(queue.name)));
    }
    needs
}

fn granted(which: Which, part: &Part, topology: &Topology) -> Grant {
    match which {
        Which::Upstream => Grant::upstream(topology),
        Which::Downstream => {
            let own = &part.downstream.subscriptions;
            // A downstream with handlers in code names none: it may have any.
            Grant::downstream(topology, |one| own.is_empty() || own.iter().any(|own| own.name == one.name.as_str()))
        }
        Which::Callback => Grant::callback(topology),
    }
}

/// Asks the broker, as the service's own user.
pub async fn check(reached: &Reached, part: &Part, topology: &Topology, limit: Duration) -> Vec<Finding> {
    if reached.server.is_err() {
        let found = "not asked: there is no connection";
        return vec![Finding::skipped(PERMISSIONS, reached.which.as_str(), found, "see under connections")];
    }
    let needs = needs(reached.which, part, topology);
    match within(limit, Box::pin(rights(&reached.config, &needs))).await {
        Ok(standings) => judge(reached.which, &reached.config, &granted(reached.which, part, topology), &needs, &standings),
        Err(words) => {
            let remedy = "try again, with a longer --timeout-ms if the broker is slow";
            vec![Finding::skipped(PERMISSIONS, reached.which.as_str(), format!("could not be asked: {words}"), remedy)]
        }
    }
}

fn judge(which: Which, config: &Config, grant: &Grant, needs: &[Right], standings: &[Standing]) -> Vec<Finding> {
    let login = config.login();
    let (user, vhost) = login.as_ref().map_or(("?", "?"), |login| (&login.user, &login.vhost));
    let of = |wanted: fn(&Standing) -> bool| -> Vec<&Right> {
        needs.iter().zip(standings).filter(|(_, standing)| wanted(standing)).map(|(right, _)| right).collect()
    };
    let denied = of(|standing| matches!(standing, Standing::Denied(_)));
    let (declare, work): (Vec<&Right>, Vec<&Right>) = denied.into_iter().partition(|right| matches!(right, Right::Configure(_)));
    let mut findings = Vec::new();
    if !work.is_empty() {
        findings.push(Finding::error(
            PERMISSIONS,
            which.as_str(),
            format!("user {user} may not {}", listed(&work)),
            format!("grant what it needs, besides what it has: `{}`", command(user, vhost, grant)),
        ));
    }
    if let Some(first) = declare.first() {
        findings.push(Finding::error(
            PERMISSIONS,
            which.as_str(),
            format!("[topology] apply is on, but user {user} may not {first} and {} more", declare.len() - 1),
            format!("set [topology] apply = false in {which}.toml and run `countersign topology apply` as a user that may"),
        ));
    }
    let unclear = needs.iter().zip(standings).filter_map(|(right, standing)| match standing {
        Standing::Unclear(words) => Some(format!("{right}: {words}")),
        _ => None,
    });
    findings.extend(unclear.map(|found| {
        Finding::skipped(PERMISSIONS, which.as_str(), found, format!("look at `rabbitmqctl list_user_permissions {user}`"))
    }));
    if findings.is_empty() {
        let asked = standings.iter().filter(|standing| **standing == Standing::Granted).count();
        findings.push(Finding::ok(PERMISSIONS, which.as_str(), format!("user {user} has the {asked} rights it needs")));
    }
    findings
}

fn listed(rights: &[&Right]) -> String {
    rights.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The command that grants these rights and no others.
fn command(user: &str, vhost: &str, grant: &Grant) -> String {
    let [configure, write, read] = grant.patterns();
    let [vhost, user, configure, write, read] = [vhost, user, &configure, &write, &read].map(quoted);
    format!("rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::settings::Subscription;

    fn topology() -> Topology {
        let text = "[[exchange]]\nname = 'orders'\nkind = 'topic'\n[[exchange]]\nname = 'unbound'\nkind = 'topic'\n\
            [[subscription]]\nname = 'a'\nbind = [{ exchange = 'orders' }]\n[[subscription]]\nname = 'b'\nbind = [{ exchange = 'orders' }]\n\
            [[subscription]]\nname = 'foreign'\nprobes = false\nbind = [{ exchange = 'orders' }]";
        Topology::from_toml(text).unwrap()
    }

    fn part(apply: bool, subscriptions: &[&str]) -> Part {
        let mut part = Part::default();
        part.topology.apply = apply;
        part.downstream.subscriptions =
            subscriptions.iter().map(|name| Subscription { name: (*name).into(), timeout_ms: None }).collect();
        part
    }

    #[test]
    fn each_service_needs_what_it_does_and_no_more() {
        let write = |exchange: &str| Right::Write(exchange.into());
        let read = |queue: &str| Right::Read(queue.into());
        let rows = [
            (Which::Upstream, part(false, &[]), vec![write(""), write("orders")]),
            (Which::Downstream, part(false, &["b"]), vec![write(""), read("b"), read("b.limit")]),
            (Which::Downstream, part(false, &[]), vec![write(""), read("a"), read("a.limit"), read("b"), read("b.limit")]),
            (
                Which::Callback,
                part(false, &[]),
                vec![
                    write(""),
                    write("countersign.events"),
                    read("a.dead"),
                    read("b.dead"),
                    read("countersign.checks"),
                    read("countersign.quarantine"),
                    read("countersign.receipts"),
                    read("foreign.dead"),
                ],
            ),
        ];
        for (which, part, expected) in rows {
            assert_eq!(needs(which, &part, &topology()), expected, "{which}");
        }
        let text = "[[exchange]]\nname = 'orders'\nkind = 'topic'\nalternate = 'rest'\n[[exchange]]\nname = 'rest'\nkind = 'fanout'\ninternal = true\n\
            [[subscription]]\nname = 'a'\nbind = [{ exchange = 'rest' }]";
        let by_alternate = needs(Which::Upstream, &part(false, &[]), &Topology::from_toml(text).unwrap());
        assert_eq!(by_alternate, [write(""), write("orders")], "by its alternate exchange");
        let declares = needs(Which::Callback, &part(true, &[]), &topology());
        assert!(declares.contains(&Right::Configure("a".into())), "{declares:?}");
    }

    #[test]
    fn what_is_denied_comes_with_the_command_that_grants_it() {
        let config = Config { url: "amqp://app:hush@mq/shop".into(), ..Config::default() };
        let grant = granted(Which::Upstream, &part(false, &[]), &topology());
        let needs = grant.rights();
        let findings = judge(Which::Upstream, &config, &grant, &needs, &[Standing::Granted, Standing::Denied("no".into())]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].severity == Severity::Error && findings[0].found.contains("app may not write to exchange orders"));
        assert!(
            findings[0].remedy.contains("set_permissions -p 'shop' 'app' '^$' '^(amq\\.default|orders)$' '^$'"),
            "{findings:?}"
        );
        assert!(!format!("{findings:?}").contains("hush"));
        let findings = judge(Which::Upstream, &config, &grant, &needs, &[Standing::Granted, Standing::NoSuchThing]);
        assert_eq!(findings[0].severity, Severity::Ok, "what is missing is told under topology");
        let findings = judge(Which::Upstream, &config, &grant, &needs, &[Standing::Unclear("odd".into()), Standing::Granted]);
        assert!(findings[0].severity == Severity::Skipped && !findings[0].remedy.is_empty(), "{findings:?}");
    }
}
