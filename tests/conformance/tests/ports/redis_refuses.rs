//! What the Redis adapter does when Redis answers, but does not take what a claim writes: whatever lets a claim fail must fail the probe.

use countersign_dedup::Config;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims, Held};
use countersign_launcher::{Redis, RedisOptions, wait_until};
use metrics_exporter_prometheus::PrometheusBuilder;
use redis::aio::MultiplexedConnection;

use super::redis_away::{LEASE_MS, PATIENCE, administrator, claim_as, private};

/// Keys that a slow loader takes seconds for.
const KEYS: usize = 2_000;

async fn tell(administrator: &mut MultiplexedConnection, line: &str) {
    let mut words = line.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    for word in words {
        cmd.arg(if word == "''" { "" } else { word });
    }
    cmd.exec_async(administrator).await.unwrap_or_else(|error| panic!("{line}: {error}"));
}

fn other(token: &str, number: u64) -> [Claim; 1] {
    let [mut claim] = claim_as(token);
    claim.key.message_id = countersign_testkit::build::message_id(number);
    [claim]
}

#[tokio::test]
async fn a_record_of_another_type_is_an_error_and_never_fresh() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    let claim = claim_as("a");
    let (prefix, key) = (Config::default().prefix, &claim[0].key);
    let record = format!("{prefix}:{{{}}}:{}", key.subscription, key.message_id);
    tell(&mut administrator(&redis).await, &format!("HSET {record} starts 1")).await;
    claims.claim(&claim, LEASE_MS).await.unwrap_err();
}

/// The batch is repeated as a whole, under the same tokens, so nobody may take it for one that did nothing.
#[tokio::test]
async fn a_batch_that_fails_in_its_middle_has_happened_perhaps() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    let batch = [claim_as("a"), other("b", 7), other("c", 8)].concat();
    let key = &batch[1].key;
    let record = format!("{}:{{{}}}:{}", Config::default().prefix, key.subscription, key.message_id);
    tell(&mut administrator(&redis).await, &format!("HSET {record} starts 1")).await;
    let error = claims.claim(&batch, LEASE_MS).await.unwrap_err();
    assert!(matches!(error, PortError::OutcomeUnknown(..)), "{error}");
    tell(&mut administrator(&redis).await, &format!("DEL {record}")).await;
    assert_eq!(claims.claim(&batch, LEASE_MS).await.unwrap(), vec![Claimed::Fresh { starts: 1 }; 3], "one start each");
}

#[tokio::test]
async fn whatever_refuses_a_claim_refuses_the_probe_and_is_counted_by_its_reason() {
    // How it is broken, how it is mended, the reason.
    let rows: [(&[&str], &[&str], &str); 6] = [
        (&["CONFIG SET maxmemory 1"], &["CONFIG SET maxmemory 0"], "oom"),
        (&["REPLICAOF 127.0.0.1 1"], &["REPLICAOF NO ONE"], "readonly"),
        (&["ACL SETUSER default -evalsha"], &["ACL SETUSER default +evalsha"], "permission"),
        // One that only a script runs.
        (&["ACL SETUSER default -set"], &["ACL SETUSER default +set"], "permission"),
        (&["ACL SETUSER default resetkeys ~else:*"], &["ACL SETUSER default ~*"], "permission"),
        (&["CONFIG SET requirepass hush", "CLIENT KILL TYPE normal SKIPME yes"], &["CONFIG SET requirepass ''"], "auth"),
    ];
    for (broken, mended, reason) in rows {
        let recorder = PrometheusBuilder::new().build_recorder();
        let counted = recorder.handle();
        let _recorded = metrics::set_default_local_recorder(&recorder);
        let (_dir, redis, claims) = private(RedisOptions::default()).await;
        let mut administrator = administrator(&redis).await;
        claims.ping().await.unwrap();
        for line in broken {
            tell(&mut administrator, line).await;
        }
        let refused = claims.claim(&claim_as("a"), LEASE_MS).await;
        assert!(matches!(refused, Err(PortError::Unavailable(..))), "{broken:?}: {refused:?}");
        let probed = claims.ping().await;
        assert!(matches!(probed, Err(PortError::Unavailable(..))), "{broken:?}: {probed:?}");
        assert!(!claims.is_up(), "{broken:?}: readiness tells the truth");
        let line = format!("countersign_claims_away_total{{reason=\"{reason}\"}} 1");
        assert!(counted.render().contains(&line), "{broken:?}: {}", counted.render());
        for line in mended {
            tell(&mut administrator, line).await;
        }
        tokio::time::timeout(PATIENCE, claims.up()).await.expect("it takes writes again");
        assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }], "{broken:?}");
    }
}

#[tokio::test]
async fn a_redis_that_cannot_save_takes_no_claims() {
    let (dir, redis, claims) = private(RedisOptions::default()).await;
    let mut administrator = administrator(&redis).await;
    claims.ping().await.unwrap();
    // A directory stands where the snapshot belongs.
    let snapshot = dir.path().join("redis/dump.rdb");
    std::fs::create_dir(&snapshot).unwrap();
    redis::cmd("CONFIG").arg("SET").arg("save").arg("3600 1000000").exec_async(&mut administrator).await.unwrap();
    tell(&mut administrator, "BGSAVE").await;
    wait_until("the snapshot to fail", PATIENCE, async || claims.ping().await.is_err()).await.unwrap();
    let refused = claims.claim(&claim_as("a"), LEASE_MS).await.unwrap_err();
    assert!(format!("{refused:?}").contains("MISCONF"), "{refused:?}");
    std::fs::remove_dir(&snapshot).unwrap();
    tell(&mut administrator, "BGSAVE").await;
    tokio::time::timeout(PATIENCE, claims.up()).await.expect("it takes writes again");
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
}

#[tokio::test]
async fn what_is_in_hand_when_memory_is_full_keeps_its_lease_and_its_mark_is_never_lost() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    let mut administrator = administrator(&redis).await;
    let (mine, failed) = (claim_as("a"), other("b", 2));
    claims.claim(&mine, LEASE_MS).await.unwrap();
    claims.claim(&failed, LEASE_MS).await.unwrap();
    tell(&mut administrator, "CONFIG SET maxmemory 1").await;
    assert!(matches!(claims.claim(&other("c", 3), LEASE_MS).await, Err(PortError::Unavailable(..))));
    assert!(matches!(claims.complete(&mine, LEASE_MS).await, Err(PortError::Unavailable(..))), "nothing has happened");
    assert_eq!(claims.renew(&mine, LEASE_MS).await.unwrap(), [Held::Ours], "a lease can be renewed");
    assert_eq!(claims.release(&failed).await.unwrap(), [Held::Ours], "and given back");
    tell(&mut administrator, "CONFIG SET maxmemory 0").await;
    assert_eq!(claims.complete(&mine, LEASE_MS).await.unwrap(), [Held::Ours]);
    assert_eq!(claims.claim(&claim_as("d"), LEASE_MS).await.unwrap(), [Claimed::Done]);
    assert_eq!(claims.claim(&other("d", 2), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 2 }]);
}

#[tokio::test]
async fn a_redis_that_is_loading_is_waited_for() {
    let options = RedisOptions { appendonly: true, loads_slowly: true };
    let (_dir, mut redis, claims) = private(options).await;
    let mut connection = administrator(&redis).await;
    claims.claim(&claim_as("a"), LEASE_MS).await.unwrap();
    let mut pipeline = redis::pipe();
    for key in 0..KEYS {
        pipeline.cmd("SET").arg(key).arg("x".repeat(100)).ignore();
    }
    pipeline.exec_async(&mut connection).await.unwrap();
    // As a snapshot it is loaded key by key.
    tell(&mut connection, "BGREWRITEAOF").await;
    wait_until("the file to be rewritten", PATIENCE, async || rewritten(&redis).await).await.unwrap();
    redis.kill9();
    wait_until("it to be gone", PATIENCE, async || redis.spawn_again().is_ok()).await.unwrap();
    let says_so = |error: &PortError| format!("{error:?}").contains("loading");
    wait_until("it to be loading", PATIENCE, async || claims.ping().await.is_err_and(|error| says_so(&error))).await.unwrap();
    let refused = claims.claim(&claim_as("b"), LEASE_MS).await;
    assert!(matches!(refused, Err(PortError::Unavailable(..))), "{refused:?}");
    tokio::time::timeout(PATIENCE, claims.up()).await.expect("it has loaded");
    let answer = claims.claim(&claim_as("b"), LEASE_MS).await.unwrap();
    assert!(matches!(answer[..], [Claimed::Held { .. }]), "{answer:?}");
}

async fn rewritten(redis: &Redis) -> bool {
    let mut connection = administrator(redis).await;
    let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut connection).await.unwrap();
    ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok"]
        .iter()
        .all(|line| info.contains(line))
}

#[tokio::test]
async fn writes_that_stand_still_fail_the_probe_although_reads_are_answered() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    let mut administrator = administrator(&redis).await;
    claims.ping().await.unwrap();
    tell(&mut administrator, "CLIENT PAUSE 600000 WRITE").await;
    assert!(claims.ping().await.is_err());
    tell(&mut administrator, "CLIENT UNPAUSE").await;
    tokio::time::timeout(PATIENCE, claims.up()).await.expect("it takes writes again");
}

#[tokio::test]
async fn a_probe_leaves_no_trace_and_needs_no_right_to_ask_for_more() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    let mut administrator = administrator(&redis).await;
    tell(&mut administrator, "ACL SETUSER default -info").await;
    claims.ping().await.unwrap();
    assert!(claims.is_up());
    tell(&mut administrator, "SCRIPT FLUSH").await;
    claims.ping().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut administrator).await.unwrap();
    assert_eq!(keys, ["countersign:since"], "but since when the record goes back");
    // One connection for all of it: what may not be asked is no reason to open another.
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut administrator).await.unwrap();
    let before = clients.lines().filter(|line| line.contains("cmd=evalsha") || line.contains("cmd=info")).count();
    assert_eq!(before, 1, "{clients}");
}
