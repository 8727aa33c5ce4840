//! Whether the broker has what the topology says, and whether anybody reads it.

use std::path::Path;
use std::time::Duration;

use countersign_boot::topology::TopologySource;
use countersign_broker::Config;
use countersign_broker::checkup::{Holding, holdings};
use countersign_broker::topology::{Difference, How, Plan, compare};
use countersign_delivery::Topology;

use crate::doctor::ask::{Http, within};
use crate::doctor::exchanges;
use crate::doctor::finding::Finding;
use crate::doctor::management::{self, Address, Managed};
use crate::doctor::policies;
use crate::doctor::settings::{Part, Which};

const FILE: &str = "configuration.topology";
const QUEUE: &str = "topology.queue";
const CONSUMERS: &str = "topology.consumers";
const WAITING: &str = "topology.waiting";
const MANAGEMENT: &str = "topology.management";

/// The topology, and how to name it on a command line.
#[derive(Debug)]
pub struct Wanted {
    pub topology: Topology,
    /// `--file FILE`, or a word when it is built in.
    file: Option<String>,
}

impl Wanted {
    /// The remedy for whatever is missing.
    fn apply(&self) -> String {
        match &self.file {
            Some(file) => format!("run `countersign topology apply --file {file}`"),
            None => "write a topology file, name it in [topology] file of each service, and run `countersign topology apply --file FILE`".into(),
        }
    }
}

/// Reads the topology of each service, or the one of `--topology` for all; says whether they agree.
pub fn read(given: Option<&Path>, parts: &[(Which, Option<Part>)]) -> (Option<Wanted>, Vec<Finding>) {
    let source = |part: &Part| match given {
        Some(file) => TopologySource { file: Some(file.to_owned()), apply: false },
        None => part.topology.clone(),
    };
    let mut wanted: Option<(Which, Wanted)> = None;
    let mut findings = Vec::new();
    for (which, part) in parts {
        let Some(part) = part else { continue };
        let source = source(part);
        let file = source.file.as_ref().map(|file| file.display().to_string());
        match (source.load(), &wanted) {
            (Ok(topology), Some((first, one))) if one.topology != topology => findings.push(Finding::error(
                FILE,
                which.as_str(),
                format!("its topology differs from that of {first}: they would expect different queues"),
                "name the same file in [topology] file of all three",
            )),
            (Ok(topology), None) => wanted = Some((*which, Wanted { topology, file })),
            (Ok(_), Some(_)) => {}
            (Err(error), _) => findings.push(Finding::error(
                FILE,
                which.as_str(),
                format!("{:#}", anyhow::Error::from(error)),
                "mend the file, or name another with --topology FILE; a relative path starts from the folder the command runs in",
            )),
        }
    }
    if let Some((_, wanted)) = &wanted
        && findings.is_empty()
    {
        let file = wanted.file.as_deref().unwrap_or("built-in default");
        findings.push(Finding::ok(FILE, "topology", format!("{file}; subscriptions: {}", wanted.topology.subscriptions.len())));
    }
    (wanted.map(|(_, wanted)| wanted), findings)
}

/// Compares the broker with the topology over AMQP and, if it can be reached, over the management interface.
pub async fn check(
    wanted: &Wanted,
    config: &Config,
    http: &Http,
    management_url: Option<&str>,
    limit: Duration,
) -> (Vec<Finding>, Option<Managed>) {
    let plan = Plan::of(&wanted.topology);
    let names: Vec<String> = plan.queues.iter().map(|queue| queue.name.clone()).collect();
    let address = Address::new(management_url, config);
    let managing = async {
        match &address {
            Some(address) => Some(management::ask(http, address).await),
            None => None,
        }
    };
    let (differences, held, managed) =
        tokio::join!(within(limit, compare(config, &wanted.topology)), within(limit, holdings(config, &names)), managing);
    let mut findings = Vec::new();
    let mut not_compared = false;
    match differences {
        Ok(differences) => {
            not_compared = differences.iter().any(|one| matches!(one.how, How::NotCompared(_)));
            findings.extend(judge_differences(wanted, &plan, &differences));
        }
        Err(words) => findings.push(Finding::error(QUEUE, "queues", format!("cannot be compared: {words}"), TRY_AGAIN)),
    }
    match managed {
        Some(Ok(managed)) => {
            if not_compared {
                findings.extend(exchanges::judge_arguments(&plan, &managed, &mend(wanted)));
                findings.extend(policies::judge_arguments(&plan, &managed, &mend(wanted)));
            }
            findings.extend(policies::judge(&plan, &managed, &wanted.apply()));
            findings.extend(exchanges::judge_alternates(&plan, &managed));
            findings.extend(judge_holdings_or(held, &wanted.topology));
            (findings, Some(managed))
        }
        Some(Err(closed)) => {
            let found = format!("policies and bindings were not looked at: {}", closed.found);
            findings.push(Finding::skipped(MANAGEMENT, "policies and bindings", found, closed.remedy));
            findings.extend(judge_holdings_or(held, &wanted.topology));
            (findings, None)
        }
        None => (findings, None),
    }
}

const TRY_AGAIN: &str = "try again, with a longer --timeout-ms if the broker is slow";

/// Arguments of a queue cannot be changed while it is there.
fn mend(wanted: &Wanted) -> String {
    format!("let its messages be processed, delete it, and {}; or correct the file", wanted.apply())
}

fn judge_differences(wanted: &Wanted, plan: &Plan, differences: &[Difference]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = differences
        .iter()
        .filter_map(|one| match &one.how {
            How::Missing => Some(Finding::error(QUEUE, &one.what, "does not exist", wanted.apply())),
            How::Other(words) => Some(Finding::error(QUEUE, &one.what, format!("is not as it should be: {words}"), mend(wanted))),
            How::NotCompared(_) => None,
        })
        .collect();
    let not_compared = differences.iter().filter(|one| matches!(one.how, How::NotCompared(_))).count();
    if not_compared > 0 {
        findings.push(Finding::skipped(
            QUEUE,
            "arguments",
            format!("this user may not configure: of {not_compared} exchanges and queues only that they are there is known from AMQP"),
            "none needed where the management interface can be asked; else run this once as a user that may configure (COUNTERSIGN_BROKER__URL)",
        ));
    }
    if findings.is_empty() {
        let found = format!(
            "as the topology says, dead-lettering at least once (exchanges: {}, queues: {})",
            plan.exchanges.len(),
            plan.queues.len()
        );
        findings.push(Finding::ok(QUEUE, "exchanges and queues", found));
    }
    findings
}

fn judge_holdings_or(held: Result<Vec<Holding>, String>, topology: &Topology) -> Vec<Finding> {
    match held {
        Ok(held) => judge_holdings(topology, &held),
        Err(words) => vec![Finding::skipped(CONSUMERS, "queues", format!("cannot be looked at: {words}"), TRY_AGAIN)],
    }
}

/// Who reads which queue, and what lies where only a human looks.
fn judge_holdings(topology: &Topology, held: &[Holding]) -> Vec<Finding> {
    let mut readers = vec![(topology.receipts_queue(), "callback"), (topology.checks_queue(), "callback")];
    let mut terminal = vec![topology.quarantine_queue()];
    for subscription in &topology.subscriptions {
        let name = subscription.name.to_string();
        let reader = if subscription.probes { "downstream" } else { "its consumer" };
        readers.push((name, reader));
        if subscription.probes {
            readers.push((subscription.limit_queue(), reader));
        }
        terminal.push(subscription.dead_queue());
    }
    let find = |queue: &str| held.iter().find(|holding| holding.queue == queue);
    let mut findings = Vec::new();
    for (queue, reader) in &readers {
        if let Some(holding) = find(queue).filter(|holding| holding.consumers == 0) {
            let found = format!("nobody consumes it; {} messages wait", holding.messages);
            let remedy = format!("start {reader}; if it runs, see whether it is ready and may read this queue");
            findings.push(Finding::warning(CONSUMERS, format!("queue {queue}"), found, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CONSUMERS, "queues", "every queue that is to be consumed is"));
    }
    for queue in terminal {
        let Some(holding) = find(&queue).filter(|holding| holding.messages > 0) else { continue };
        let remedy = if queue == topology.quarantine_queue() {
            "look at them in the management interface: nobody could read what they are; whoever published them must be mended"
                .to_owned()
        } else {
            "`countersign list --state parked` tells why; when the cause is mended, `countersign redrive ID` and purge this queue"
                .to_owned()
        };
        findings.push(Finding::warning(
            WAITING,
            format!("queue {queue}"),
            format!("{} messages lie here", holding.messages),
            remedy,
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn wanted() -> Wanted {
        let text = "[[subscription]]\nname = 'work'\nbind = [{ exchange = 'countersign.messages' }]\n\
            [[subscription]]\nname = 'foreign'\nprobes = false\nbind = [{ exchange = 'countersign.messages' }]";
        Wanted { topology: Topology::from_toml(text).unwrap(), file: Some("t.toml".into()) }
    }

    #[test]
    fn what_is_missing_or_differs_has_a_remedy() {
        let plan = Plan::of(&wanted().topology);
        let difference = |what: &str, how| Difference { what: what.into(), how };
        let differences = [
            difference("queue work", How::Missing),
            difference("queue foreign", How::Other("inequivalent arg".into())),
            difference("exchange x", How::NotCompared("no".into())),
            difference("queue y", How::NotCompared("no".into())),
        ];
        let findings = judge_differences(&wanted(), &plan, &differences);
        let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Error, Severity::Error, Severity::Skipped]);
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
        assert!(findings[0].remedy.contains("topology apply --file t.toml") && findings[1].remedy.contains("delete it"));
        assert_eq!(judge_differences(&wanted(), &plan, &[])[0].severity, Severity::Ok);
    }

    #[test]
    fn queues_without_a_reader_and_messages_for_humans_are_told() {
        let holding = |queue: &str, messages, consumers| Holding { queue: queue.into(), messages, consumers };
        let names = ["countersign.receipts", "countersign.checks", "work", "work.limit", "foreign"];
        let healthy: Vec<_> = names.iter().map(|queue| holding(queue, 3, 1)).collect();
        let warnings = |held: &[Holding]| -> Vec<String> {
            let findings = judge_holdings(&wanted().topology, held);
            let warnings = findings.into_iter().filter(|finding| finding.severity == Severity::Warning);
            warnings.map(|finding| format!("{} {}", finding.subject, finding.remedy)).collect()
        };
        assert_eq!(warnings(&healthy), [""; 0]);
        for (at, reader) in [(0, "callback"), (1, "callback"), (2, "downstream"), (3, "downstream"), (4, "its consumer")] {
            let mut held = healthy.clone();
            held[at].consumers = 0;
            let said = warnings(&held);
            assert!(said.len() == 1 && said[0].contains(&format!("start {reader}")), "{said:?}");
        }
        for (queue, word) in
            [("countersign.quarantine", "management"), ("work.dead", "redrive ID"), ("foreign.dead", "redrive ID")]
        {
            let said = warnings(&[holding(queue, 1, 0)]);
            assert!(said.len() == 1 && said[0].contains(word), "{said:?}");
        }
    }
}
