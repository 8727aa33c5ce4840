//! Whether Redis can be trusted to remember what has been done.

use std::time::Duration;

use countersign_boot::SystemClock;
use countersign_dedup::checkup::{Persistence, Standing};
use countersign_dedup::{Config, RedisClaims, Server};
use countersign_delivery::Topology;
use countersign_delivery::ports::Clock as _;

use crate::doctor::ask::within;
use crate::doctor::finding::Finding;

const CONNECTION: &str = "connections.redis";
const ROLE: &str = "redis.role";
const EVICTION: &str = "redis.eviction";
const MEMORY: &str = "redis.memory";
const PERSISTENCE: &str = "redis.persistence";
const SUBJECT: &str = "redis";
/// Of `maxmemory`, in hundredths, from which on it is nearly full.
const NEARLY_FULL_PERCENT: u64 = 90;

/// What Redis answered, or why it did not; and this machine's clock before and after, milliseconds.
#[derive(Debug)]
pub struct Asked {
    pub place: String,
    pub standing: Result<Standing, String>,
    pub between_ms: (i64, i64),
}

/// Asks the Redis of downstream.
pub async fn ask(server: &Server, limit: Duration) -> Asked {
    let before = SystemClock.now().as_millis();
    let asking = async {
        let config = Config { server: server.clone(), ..Config::default() };
        let claims = RedisClaims::connect(&config).map_err(|error| error.to_string())?;
        claims.standing().await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    };
    let standing = within(limit, asking).await;
    Asked { place: server.url.redacted(), standing, between_ms: (before, SystemClock.now().as_millis()) }
}

/// Whether the guard of any subscription claims in Redis.
pub fn is_used(topology: &Topology) -> bool {
    topology.subscriptions.iter().any(|subscription| subscription.guard.uses_redis())
}

/// Said when none does.
pub fn not_used() -> Finding {
    Finding::ok(CONNECTION, SUBJECT, "not asked: every subscription has guard inbox, which needs no Redis")
}

/// Whether it answers.
pub fn judge_connection(asked: &Asked) -> Finding {
    match &asked.standing {
        Ok(_) => Finding::ok(CONNECTION, SUBJECT, format!("answers at {}", asked.place)),
        Err(words) => {
            let remedy = if ["NOAUTH", "WRONGPASS", "AuthenticationFailed", "authentication"]
                .iter()
                .any(|word| words.contains(word))
            {
                "correct user and password of [redis] url in downstream.toml (or COUNTERSIGN_REDIS__URL)"
            } else if ["NOPERM", "NoPerm"].iter().any(|word| words.contains(word)) {
                "let its user run EVALSHA, SCRIPT LOAD, TIME and INFO, and what the scripts run: GET MGET EXISTS SET DEL PTTL PEXPIRE, and for pauses HMGET HSET (`ACL SETUSER`)"
            } else {
                "start Redis there, let this machine through, or correct [redis] url in downstream.toml; nothing is consumed meanwhile"
            };
            Finding::error(CONNECTION, SUBJECT, format!("{} does not answer: {words}", asked.place), remedy)
        }
    }
}

/// How it stands.
pub fn judge(standing: &Standing) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !matches!(standing.role.as_str(), "master" | "") {
        findings.push(Finding::error(
            ROLE,
            SUBJECT,
            format!("it is a {} that takes no writes", standing.role),
            "name the primary in [redis] url, or promote this one (`REPLICAOF NO ONE`)",
        ));
    }
    findings.push(judge_eviction(standing));
    findings.extend(judge_memory(standing));
    findings.push(judge_persistence(&standing.persistence));
    findings
}

fn judge_eviction(standing: &Standing) -> Finding {
    let eviction = &standing.eviction;
    if eviction.is_safe() {
        return Finding::ok(
            EVICTION,
            SUBJECT,
            format!("maxmemory-policy {}, maxmemory {}", eviction.policy, eviction.maxmemory_bytes),
        );
    }
    Finding::error(
        EVICTION,
        SUBJECT,
        format!(
            "maxmemory-policy is {} with maxmemory {}: a full Redis forgets what has been done, and a message sent again has a second effect",
            eviction.policy, eviction.maxmemory_bytes
        ),
        "`CONFIG SET maxmemory-policy noeviction`, and write it into redis.conf; keep caches in another Redis",
    )
}

fn judge_memory(standing: &Standing) -> Option<Finding> {
    let (used, limit) = (standing.used_memory_bytes, standing.eviction.maxmemory_bytes);
    let nearly = limit > 0 && used.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL_PERCENT);
    nearly.then(|| {
        Finding::warning(
            MEMORY,
            SUBJECT,
            format!("{used} of {limit} bytes are used: a full Redis takes no claims, and nothing is consumed then"),
            "raise maxmemory, or lower downstream.dedup_retention_ms as far as the resend horizon allows (see under retention)",
        )
    })
}

fn judge_persistence(persistence: &Persistence) -> Finding {
    if persistence.failing {
        return Finding::error(
            PERSISTENCE,
            SUBJECT,
            "its last write to disk failed",
            "look into Redis' log and at the free space of its disk; after failed snapshots it refuses writes",
        );
    }
    let costs = "what was done is forgotten, and each message sent again may have one more effect";
    match (persistence.append_only, persistence.snapshots.as_deref()) {
        (true, _) => Finding::ok(PERSISTENCE, SUBJECT, "append-only file"),
        (false, Some("")) => Finding::warning(
            PERSISTENCE,
            SUBJECT,
            format!("persistence is off: when Redis restarts, {costs}"),
            "`CONFIG SET appendonly yes`, and write it into redis.conf; or have handlers store the Idempotency-Key",
        ),
        (false, Some(rule)) => Finding::ok(
            PERSISTENCE,
            SUBJECT,
            format!(
                "snapshots only ({rule}): what was done since the last one is forgotten with a crash; appendonly yes keeps it"
            ),
        ),
        (false, None) => Finding::skipped(
            PERSISTENCE,
            SUBJECT,
            "no append-only file; this account may not ask whether there are snapshots",
            "let it run `CONFIG GET save`, or make sure that persistence is on",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use countersign_dedup::health::Eviction;

    fn healthy() -> Standing {
        Standing {
            version: "7.0.15".into(),
            role: "master".into(),
            eviction: Eviction { policy: "noeviction".into(), maxmemory_bytes: 1_000 },
            used_memory_bytes: 100,
            persistence: Persistence { append_only: true, snapshots: Some(String::new()), failing: false },
            now_ms: 0,
        }
    }

    fn worst(standing: &Standing) -> (Severity, &'static str) {
        let findings = judge(standing);
        let worst = findings.iter().find(|finding| finding.severity != Severity::Ok);
        assert!(worst.is_none_or(|finding| !finding.remedy.is_empty()), "{findings:?}");
        worst.map_or((Severity::Ok, ""), |finding| (finding.severity, finding.check))
    }

    #[test]
    fn it_is_asked_unless_every_guard_is_inbox() {
        let of = |guards: [&str; 2]| {
            let [one, two] = guards;
            let bind = "bind = [{ exchange = 'countersign.messages' }]";
            let text = format!(
                "[[subscription]]\nname = 'a'\nguard = '{one}'\n{bind}\n[[subscription]]\nname = 'b'\nguard = '{two}'\n{bind}"
            );
            is_used(&Topology::from_toml(&text).unwrap())
        };
        assert!(!of(["inbox", "inbox"]));
        assert!(of(["inbox", "redis"]) && of(["tiered", "inbox"]) && of(["inbox", "redis+archive"]));
    }

    #[test]
    fn each_weakness_is_told_by_its_cost() {
        let persistence = |append_only, snapshots: Option<&str>, failing| Persistence {
            append_only,
            snapshots: snapshots.map(ToOwned::to_owned),
            failing,
        };
        let evicting = Eviction { policy: "allkeys-lru".into(), maxmemory_bytes: 1_000 };
        let unlimited = Eviction { policy: "allkeys-lru".into(), maxmemory_bytes: 0 };
        let rows = [
            (healthy(), (Severity::Ok, "")),
            (Standing { role: "slave".into(), ..healthy() }, (Severity::Error, ROLE)),
            (Standing { eviction: evicting, ..healthy() }, (Severity::Error, EVICTION)),
            (Standing { eviction: unlimited, used_memory_bytes: u64::MAX, ..healthy() }, (Severity::Ok, "")),
            (Standing { used_memory_bytes: 900, ..healthy() }, (Severity::Warning, MEMORY)),
            (Standing { used_memory_bytes: 899, ..healthy() }, (Severity::Ok, "")),
            (Standing { persistence: persistence(false, Some(""), false), ..healthy() }, (Severity::Warning, PERSISTENCE)),
            (Standing { persistence: persistence(false, Some("3600 1"), false), ..healthy() }, (Severity::Ok, "")),
            (Standing { persistence: persistence(false, None, false), ..healthy() }, (Severity::Skipped, PERSISTENCE)),
            (Standing { persistence: persistence(true, None, true), ..healthy() }, (Severity::Error, PERSISTENCE)),
        ];
        for (standing, expected) in rows {
            assert_eq!(worst(&standing), expected, "{standing:?}");
        }
    }
}
