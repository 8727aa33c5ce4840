//! Whether each server and each service is there, and why not.

use std::time::Duration;

use countersign_broker::checkup::{self, Server};
use countersign_broker::{Config, DownReason, Error};
use serde_json::Value;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::doctor::ask::{Answer, Http, Shown, within};
use crate::doctor::finding::Finding;
use crate::doctor::settings::{Installed, Part, Which, reachable};
use crate::target::Target;

const BROKER: &str = "connections.broker";
const HTTP: &str = "connections.http";
const GRPC: &str = "connections.grpc";

/// One service's broker, as the service itself logs in.
#[derive(Debug)]
pub struct Reached {
    pub which: Which,
    pub config: Config,
    pub server: Result<Server, Down>,
}

/// Why there is no connection.
#[derive(Debug)]
pub struct Down {
    found: String,
    remedy: String,
}

/// Logs in to the broker of each service whose configuration can be used.
pub async fn brokers(installed: &[Installed], limit: Duration) -> Vec<Reached> {
    let asked = installed.iter().filter_map(|one| Some((one.which, one.part.as_ref()?))).map(|(which, part)| async move {
        let config = bounded(&part.broker, limit);
        let answer = tokio::time::timeout(limit, checkup::server(&config)).await;
        let server = match answer {
            Ok(Ok(server)) => Ok(server),
            Ok(Err(error)) => Err(why(which, &error)),
            Err(_) => {
                let reason = DownReason::Unreachable {
                    place: config.place(),
                    detail: format!("no answer within {} ms", limit.as_millis()),
                };
                Err(why(which, &Error::Down(reason)))
            }
        };
        Reached { which, config, server }
    });
    futures::future::join_all(asked).await
}

/// Connecting ends before the check does, so that its own words are heard.
fn bounded(config: &Config, limit: Duration) -> Config {
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let connect_timeout_ms = config.connect_timeout_ms.min(limit_ms.saturating_mul(9) / 10).max(1);
    Config { connect_timeout_ms, ..config.clone() }
}

fn why(which: Which, error: &Error) -> Down {
    let remedy = match error {
        Error::Down(DownReason::WrongPassword { user }) => format!(
            "correct user and password of [broker] url in {which}.toml (or COUNTERSIGN_BROKER__URL), or set it: `rabbitmqctl change_password {user}`"
        ),
        Error::Down(DownReason::NoSuchVhost { vhost }) => {
            format!("create it: `rabbitmqctl add_vhost {vhost}`, or correct the path of [broker] url in {which}.toml")
        }
        Error::Down(DownReason::VhostForbidden { user, vhost }) => {
            format!("grant it: `rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ`")
        }
        Error::Down(DownReason::TooOld { .. }) => "upgrade RabbitMQ to 3.10 or later".into(),
        Error::Config(_) => format!("correct [broker] in {which}.toml"),
        _ => format!("start RabbitMQ there, let this machine through, or correct [broker] url in {which}.toml"),
    };
    let found = match error {
        Error::Down(reason) => reason.to_string(),
        other => format!("{:#}", anyhow::anyhow!(other.to_string())),
    };
    Down { found, remedy }
}

/// What logging in came to; and whether all services use one broker.
pub fn judge_brokers(reached: &[Reached]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = reached
        .iter()
        .map(|one| match &one.server {
            Ok(server) => {
                let found = format!("{} {} at {}", server.product, server.version, one.config.place());
                Finding::ok(BROKER, one.which.as_str(), found)
            }
            Err(down) => Finding::error(BROKER, one.which.as_str(), &down.found, &down.remedy),
        })
        .collect();
    let Some(first) = reached.first() else { return findings };
    for other in reached.iter().filter(|other| other.config.place() != first.config.place()) {
        findings.push(Finding::warning(
            BROKER,
            other.which.as_str(),
            format!("uses {}, but {} uses {}", other.config.place(), first.which, first.config.place()),
            "all three must meet on one broker and virtual host: give [broker] url the same one everywhere (two names of one place do no harm)",
        ));
    }
    findings
}

/// What a service's HTTP server answered.
#[derive(Debug)]
pub struct Heard {
    pub which: Which,
    pub ready: Result<Answer, String>,
    pub metrics: Result<Answer, String>,
}

/// Asks each service for its readiness and its metrics.
pub async fn services(installed: &[Installed], http: &Http) -> Vec<Heard> {
    let asked = installed.iter().map(|one| async move {
        let (ready, metrics) = (format!("{}/health/ready", one.http_url), format!("{}/metrics", one.http_url));
        let (ready, metrics) = tokio::join!(http.get(&ready, Shown::Token), http.get(&metrics, Shown::Token));
        Heard { which: one.which, ready, metrics }
    });
    futures::future::join_all(asked).await
}

/// What each service says of itself and of what it depends on.
pub fn judge_services(installed: &[Installed], heard: &[Heard]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (one, heard) in installed.iter().zip(heard) {
        let which = one.which;
        let elsewhere = format!("start it (`{which} --config FILE`), or name its address with --{which}-http URL");
        let readiness = match &heard.ready {
            Ok(answer) => answer.json().map_err(|words| (words, answer.status)),
            Err(words) => {
                findings.push(Finding::error(
                    HTTP,
                    which.as_str(),
                    format!("does not answer at {}: {words}", one.http_url),
                    elsewhere,
                ));
                continue;
            }
        };
        match readiness {
            Ok(body) if body.get("phase").is_some() => findings.extend(judge_readiness(which, one.part.as_ref(), &body)),
            Ok(_) => findings.push(Finding::error(
                HTTP,
                which.as_str(),
                format!("what answers at {} is no service of Countersign", one.http_url),
                elsewhere,
            )),
            Err((words, status)) => {
                let found = format!("what answers at {} is no service of Countersign (status {status}): {words}", one.http_url);
                findings.push(Finding::error(HTTP, which.as_str(), found, elsewhere));
            }
        }
    }
    findings
}

fn judge_readiness(which: Which, part: Option<&Part>, body: &Value) -> Vec<Finding> {
    if body["ready"] == true {
        return vec![Finding::ok(HTTP, which.as_str(), "ready")];
    }
    let none = serde_json::Map::new();
    let dependencies = body["dependencies"].as_object().unwrap_or(&none);
    let unready = dependencies.iter().filter(|(_, state)| state["ready"] != true);
    let mut findings: Vec<Finding> = unready
        .map(|(name, state)| {
            let reason = state["reason"].as_str().unwrap_or("no reason given");
            Finding::error(HTTP, which.as_str(), format!("not ready: {name}: {reason}"), remedy_for(which, part, name))
        })
        .collect();
    if findings.is_empty() {
        let phase = body["phase"].as_str().unwrap_or("unknown");
        findings.push(Finding::error(
            HTTP,
            which.as_str(),
            format!("not ready: it is {phase}"),
            "wait until it has started, or start it again",
        ));
    }
    findings
}

fn remedy_for(which: Which, part: Option<&Part>, dependency: &str) -> String {
    match dependency {
        "database" => {
            let kind = part.map_or("its database", |part| part.database.kind());
            format!("make {kind} reachable from {which}, or correct [database] url in {which}.toml")
        }
        "topology" => "run `countersign topology apply --file FILE` with a user that may configure; see under topology".into(),
        "redis" => "see under redis; downstream consumes nothing until Redis answers".into(),
        "broker" => format!("see under connections and permissions; {which} connects again by itself"),
        "receipts" | "checks" => "see under topology and permissions: callback must be able to consume that queue".into(),
        _ => format!("look into the log of {which}"),
    }
}

/// One gRPC address and what answered there: Ok when it is the service that was asked for.
#[derive(Debug)]
pub struct Called {
    which: Which,
    url: String,
    answer: Result<(), String>,
    /// Where its configuration says that it listens.
    configured: Option<String>,
}

/// Asks upstream and callback for their health.
///
/// # Errors
/// When an address cannot be read.
pub async fn calls(installed: &[Installed], target: &Target, limit: Duration) -> anyhow::Result<Vec<Called>> {
    let mut asked = Vec::new();
    for (which, url, service) in [
        (Which::Upstream, &target.upstream, "countersign.v1.UpstreamService"),
        (Which::Callback, &target.callback, "countersign.v1.CallbackService"),
    ] {
        let endpoint = target.client().endpoint(url).map_err(|error| anyhow::anyhow!("--{which}: {error}"))?;
        let endpoint = endpoint.connect_timeout(limit).timeout(limit);
        let part = installed.iter().find(|one| one.which == which).and_then(|one| one.part.as_ref());
        let configured = part.and_then(|part| Some(format!("{}://{}", part.scheme(), reachable(part.grpc.listen?))));
        asked.push(async move {
            let answer = within(limit, call(endpoint, service)).await;
            Called { which, url: url.clone(), answer, configured }
        });
    }
    Ok(futures::future::join_all(asked).await)
}

async fn call(endpoint: Endpoint, service: &str) -> Result<(), String> {
    let channel = endpoint.connect().await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    match HealthClient::new(channel).check(HealthCheckRequest { service: service.into() }).await {
        // What it says of its health is readiness again, which is asked over HTTP with reasons.
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Err(format!("what answers there has no {service}")),
        Err(status) => Err(format!("{} ({:?})", status.message(), status.code())),
    }
}

/// Whether the addresses that the other verbs use are right.
pub fn judge_calls(called: &[Called]) -> Vec<Finding> {
    let judge = |one: &Called| match &one.answer {
        Ok(()) => Finding::ok(GRPC, one.which.as_str(), format!("answers at {}", one.url)),
        Err(words) => {
            let which = one.which;
            let address = one.configured.as_deref().unwrap_or("URL");
            Finding::error(
                GRPC,
                which.as_str(),
                format!("no gRPC at {}: {words}", one.url),
                format!(
                    "start {which}, or name its address with --{which} {address} (or COUNTERSIGN_{}_URL)",
                    which.as_str().to_uppercase()
                ),
            )
        }
    };
    called.iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use serde_json::json;

    #[test]
    fn every_unready_dependency_is_told_with_its_reason_and_a_remedy() {
        let dependency = |ready: bool, reason: &str| json!({"ready": ready, "reason": reason});
        let names = ["broker", "database", "topology", "redis", "receipts", "else"];
        let dependencies: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), dependency(false, "gone"))).collect();
        let body = json!({"ready": false, "phase": "running", "dependencies": dependencies});
        let findings = judge_readiness(Which::Callback, Some(&Part::default()), &body);
        assert_eq!(findings.len(), names.len());
        assert!(
            findings.iter().all(|one| one.severity == Severity::Error && one.found.contains("gone") && !one.remedy.is_empty())
        );
        assert!(findings.iter().any(|one| one.remedy.contains("SQLite")), "{findings:?}");
    }

    #[test]
    fn a_service_that_stops_is_not_ready_although_its_dependencies_are() {
        let body = json!({"ready": false, "phase": "stopping", "dependencies": {"broker": {"ready": true}}});
        let findings = judge_readiness(Which::Upstream, None, &body);
        assert!(findings[0].severity == Severity::Error && findings[0].found.contains("stopping"), "{findings:?}");
    }

    #[test]
    fn every_reason_to_be_without_a_broker_has_a_remedy_of_its_own() {
        let text = |text: &str| text.to_owned();
        let rows = [
            (DownReason::WrongPassword { user: text("app") }, "change_password app"),
            (DownReason::NoSuchVhost { vhost: text("shop") }, "add_vhost shop"),
            (DownReason::VhostForbidden { user: text("app"), vhost: text("shop") }, "set_permissions -p shop app"),
            (DownReason::TooOld { version: text("3.9.1") }, "upgrade"),
            (DownReason::Unreachable { place: text("x"), detail: text("refused") }, "start RabbitMQ"),
        ];
        for (reason, word) in rows {
            let down = why(Which::Upstream, &Error::Down(reason));
            assert!(down.remedy.contains(word), "{down:?}");
        }
    }
}
