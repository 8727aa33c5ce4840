//! Whether versions are known to work, and to work together.

use crate::doctor::connections::{Heard, Reached};
use crate::doctor::finding::Finding;
use crate::doctor::settings::Which;

const BROKER: &str = "versions.broker";
const REDIS: &str = "versions.redis";
const SERVICES: &str = "versions.services";
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Major and minor.
type Version = (u32, u32);

/// What of `RabbitMQ` is known to do. Older than the first of them is refused when connecting.
const RABBITMQ_TRIED: (Version, Version) = ((3, 10), (4, u32::MAX));
/// `HSET` takes several fields since this Redis, which pauses need.
const REDIS_OLDEST: Version = (4, 0);
/// What of Redis is known to do.
const REDIS_TRIED: (Version, Version) = ((6, 2), (8, u32::MAX));

/// Of brokers that answered.
pub fn judge_brokers(reached: &[Reached]) -> Vec<Finding> {
    let answered = reached.iter().filter_map(|one| Some((one.which, one.server.as_ref().ok()?)));
    answered.map(|(which, server)| judge_broker(which.as_str(), &server.product, &server.version)).collect()
}

fn judge_broker(subject: &str, product: &str, version: &str) -> Finding {
    let remedy = "use RabbitMQ 3.10 to 4.x, or run the tests against this one first (`tests/run`)";
    match parse(version) {
        _ if product != "RabbitMQ" => {
            Finding::warning(BROKER, subject, format!("{product:?} {version} is not RabbitMQ, and has never been tried"), remedy)
        }
        Some(found) if (RABBITMQ_TRIED.0..=RABBITMQ_TRIED.1).contains(&found) => {
            Finding::ok(BROKER, subject, format!("RabbitMQ {version}"))
        }
        _ => Finding::warning(BROKER, subject, format!("RabbitMQ {version} has never been tried"), remedy),
    }
}

/// Of a Redis that answered.
pub fn judge_redis(version: &str) -> Finding {
    let subject = "redis";
    match parse(version) {
        Some(found) if found < REDIS_OLDEST => Finding::error(
            REDIS,
            subject,
            format!("Redis {version} is too old: the scripts of claims need 4.0"),
            "upgrade Redis to 6.2 or later",
        ),
        Some(found) if (REDIS_TRIED.0..=REDIS_TRIED.1).contains(&found) => {
            Finding::ok(REDIS, subject, format!("Redis {version}"))
        }
        _ => Finding::warning(
            REDIS,
            subject,
            format!("Redis {version} has never been tried"),
            "use Redis 6.2 to 8.x, or run the tests against this one first (`tests/run`)",
        ),
    }
}

/// Whether each address leads to the service it should, and all are of one version.
pub fn judge_services(heard: &[Heard]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in heard {
        let Ok(answer) = &one.metrics else { continue };
        findings.push(match build_info(&answer.body) {
            Some((service, version)) => judge_service(one.which, &service, &version),
            None => untold(one.which, answer.status),
        });
    }
    findings
}

fn judge_service(which: Which, service: &str, version: &str) -> Finding {
    if service != which.as_str() {
        let remedy = format!("name the address of {which} with --{which}-http URL");
        return Finding::error(SERVICES, which.as_str(), format!("what answers at its HTTP address is {service}"), remedy);
    }
    if version == OWN {
        return Finding::ok(SERVICES, which.as_str(), version);
    }
    Finding::warning(
        SERVICES,
        which.as_str(),
        format!("is version {version}, this command is {OWN}"),
        "install the same version of all services and of the command",
    )
}

/// What answers without telling its version.
fn untold(which: Which, status: u16) -> Finding {
    let remedy = match status {
        401 | 403 => "show a token of a caller with the role viewer: --token-file FILE",
        _ => "see under connections",
    };
    Finding::skipped(
        SERVICES,
        which.as_str(),
        format!("its version could not be read: /metrics answers with status {status}"),
        remedy,
    )
}

/// The labels `service` and `version` of `countersign_build_info`.
fn build_info(metrics: &str) -> Option<(String, String)> {
    let line = metrics.lines().find(|line| line.starts_with("countersign_build_info{"))?;
    let label = |name: &str| {
        let rest = line.split_once(&format!("{name}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    Some((label("service")?, label("version")?))
}

fn parse(version: &str) -> Option<Version> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn only_what_was_tried_is_ok() {
        let rows = [
            ("RabbitMQ", "3.10.8", Severity::Ok),
            ("RabbitMQ", "3.13.7", Severity::Ok),
            ("RabbitMQ", "4.1.0-rc.1", Severity::Ok),
            ("RabbitMQ", "5.0.0", Severity::Warning),
            ("RabbitMQ", "devel", Severity::Warning),
            ("LavinMQ", "2.0.0", Severity::Warning),
        ];
        for (product, version, severity) in rows {
            assert_eq!(judge_broker("upstream", product, version).severity, severity, "{product} {version}");
        }
        for (version, severity) in [
            ("3.2.1", Severity::Error),
            ("4.0.9", Severity::Warning),
            ("6.2.0", Severity::Ok),
            ("8.0.1", Severity::Ok),
            ("", Severity::Warning),
        ] {
            assert_eq!(judge_redis(version).severity, severity, "{version}");
        }
    }

    #[test]
    fn a_service_of_another_version_or_another_name_is_found() {
        let metrics = format!("# TYPE x\ncountersign_build_info{{service=\"callback\",version=\"{OWN}\"}} 1\n");
        let (service, version) = build_info(&metrics).unwrap();
        assert_eq!(judge_service(Which::Callback, &service, &version).severity, Severity::Ok);
        assert_eq!(judge_service(Which::Upstream, &service, &version).severity, Severity::Error);
        assert_eq!(judge_service(Which::Callback, &service, "0.0.1").severity, Severity::Warning);
        let refused = untold(Which::Callback, 401);
        assert!(refused.severity == Severity::Skipped && refused.remedy.contains("--token-file"), "{refused:?}");
        assert_eq!(build_info("countersign_build_information{} 1"), None);
    }
}
