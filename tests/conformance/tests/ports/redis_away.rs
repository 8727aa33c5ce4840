//! What the Redis adapter does when Redis goes away, stands still, forgets its scripts, or is demoted.

use std::time::{Duration, Instant};

use countersign_dedup::{Config, RedisClaims, Server};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};
use countersign_launcher::{Redis, RedisOptions};
use countersign_testkit::build::{a_message, subscription};
use tempfile::TempDir;

pub const LEASE_MS: u64 = 60_000;
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn claim_as(token: &str) -> [Claim; 1] {
    let message = a_message();
    let key = ClaimKey {
        subscription: subscription("inventory"),
        message_id: message.id,
        fingerprint: message.fingerprint,
        effect_epoch: 0,
    };
    [Claim { key, token: token.into(), epoch: 0, again: false }]
}

pub async fn private(options: RedisOptions) -> (TempDir, Redis, RedisClaims) {
    let dir = TempDir::new().unwrap();
    let redis = Redis::start_with(dir.path(), options).await.unwrap();
    let server = Server { url: redis.url().into(), connect_timeout_ms: 500, response_timeout_ms: 500, retry_pause_ms: 20 };
    let config = Config { server, ..Config::default() };
    (dir, redis, RedisClaims::connect(&config).unwrap())
}

pub async fn administrator(redis: &Redis) -> redis::aio::MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

pub async fn tell(redis: &Redis, command: &[&str]) {
    let mut cmd = redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    cmd.exec_async(&mut administrator(redis).await).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_is_away_is_unavailable_and_comes_back_with_its_claims() {
    let (_dir, mut redis, claims) = private(RedisOptions { appendonly: true, ..RedisOptions::default() }).await;
    assert!(!claims.is_up(), "nothing was asked yet");
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    assert!(claims.is_up());

    redis.kill9();
    let error = claims.claim(&claim_as("a"), LEASE_MS).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(matches!(claims.ping().await, Err(PortError::Unavailable(..))));
    assert!(!claims.is_up());

    redis.start_again().await.unwrap();
    tokio::time::timeout(PATIENCE, claims.up()).await.expect("Redis is back");
    assert!(claims.is_up());
    let answer = claims.claim(&claim_as("b"), LEASE_MS).await.unwrap();
    assert!(matches!(answer[..], [Claimed::Held { .. }]), "{answer:?}");
    assert_eq!(claims.complete(&claim_as("a"), LEASE_MS).await.unwrap(), [Held::Ours]);
}

#[tokio::test]
async fn a_connection_that_was_cut_between_calls_is_replaced_unnoticed() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    tell(&redis, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    assert_eq!(claims.complete(&claim_as("a"), LEASE_MS).await.unwrap(), [Held::Ours]);
}

#[tokio::test]
async fn a_redis_that_stands_still_is_given_up_in_time_and_the_repeat_is_answered_as_the_first() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    claims.ping().await.unwrap();
    redis.pause().unwrap();
    let started = Instant::now();
    let claim = claim_as("a");
    let (one, other) = tokio::join!(claims.claim(&claim, LEASE_MS), claims.ping());
    assert!(matches!(one, Err(PortError::OutcomeUnknown(..))), "{one:?}");
    assert!(other.is_err() && started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    redis.resume().unwrap();
    // By now the first call has reached Redis, or will before this one.
    tokio::time::timeout(PATIENCE, claims.up()).await.expect("Redis is back");
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    tell(&redis, &["SCRIPT", "FLUSH"]).await;
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    assert_eq!(claims.release(&claim_as("a")).await.unwrap(), [Held::Ours]);
    assert!(claims.is_up());
}

#[tokio::test]
async fn a_demoted_primary_is_not_used_until_it_takes_writes_again() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    claims.ping().await.unwrap();
    // A replica of nobody: the port is closed, so it keeps what it has and refuses writes.
    tell(&redis, &["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(matches!(claims.claim(&claim_as("a"), LEASE_MS).await, Err(PortError::Unavailable(..))));
    assert!(!claims.is_up());
    assert!(matches!(claims.ping().await, Err(PortError::Unavailable(..))));
    assert!(!claims.is_up(), "readiness tells the truth");
    tell(&redis, &["REPLICAOF", "NO", "ONE"]).await;
    tokio::time::timeout(PATIENCE, claims.up()).await.expect("it takes writes again");
    assert_eq!(claims.claim(&claim_as("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
}

#[tokio::test]
async fn a_full_redis_refuses_instead_of_forgetting() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    assert!(claims.eviction().await.unwrap().is_safe());
    tell(&redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = claims.claim(&claim_as("a"), LEASE_MS).await;
    assert!(matches!(refused, Err(PortError::Unavailable(..))), "{refused:?}");
    tell(&redis, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let eviction = claims.eviction().await.unwrap();
    assert!(!eviction.is_safe(), "{eviction:?}");
}

#[tokio::test]
async fn a_large_batch_is_one_pipeline_after_another() {
    let (_dir, _redis, claims) = private(RedisOptions::default()).await;
    let batch: Vec<Claim> = (1..=2_500)
        .map(|n| Claim {
            key: ClaimKey { message_id: countersign_testkit::build::message_id(n), ..claim_as("a")[0].key.clone() },
            token: "a".into(),
            epoch: 0,
            again: false,
        })
        .collect();
    let fresh = vec![Claimed::Fresh { starts: 1 }; batch.len()];
    assert_eq!(claims.claim(&batch, LEASE_MS).await.unwrap(), fresh);
    assert_eq!(claims.complete(&batch, LEASE_MS).await.unwrap(), vec![Held::Ours; batch.len()]);
}

#[tokio::test]
async fn the_keys_are_those_that_operators_are_told_of() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    let claim = claim_as("a");
    claims.claim(&claim, LEASE_MS).await.unwrap();
    let record = format!("countersign:{{inventory}}:{}", claim[0].key.message_id);
    let key = format!("{record}:{}", claim[0].key.fingerprint.to_hex());
    let mut connection = administrator(&redis).await;
    let mut pipeline = redis::pipe();
    pipeline.cmd("GET").arg(&key).cmd("PTTL").arg(&key).cmd("PTTL").arg(&record);
    let (owner, lease, memory): (String, u64, u64) = pipeline.query_async(&mut connection).await.unwrap();
    assert_eq!(owner, "a");
    assert!((1..=LEASE_MS).contains(&lease) && memory > LEASE_MS, "{lease} {memory}");
    claims.complete(&claim, 2 * LEASE_MS).await.unwrap();
    pipeline.cmd("GET").arg(&record);
    let (owner, _, memory, text): (Option<String>, i64, u64, String) = pipeline.query_async(&mut connection).await.unwrap();
    assert_eq!(owner, None, "what is done needs no claim");
    assert!(memory > LEASE_MS && text.starts_with(&claim[0].key.fingerprint.to_hex()), "{memory} {text}");
    assert!(!format!("{:?}", RedisClaims::connect(&hushed()).unwrap()).contains("hush"));
}

fn hushed() -> Config {
    let server = Server { url: "redis://user:hush@127.0.0.1:1".into(), ..Server::default() };
    Config { server, ..Config::default() }
}

/// All data gone: what comes again may have been done, what comes for the first time cannot have been.
#[tokio::test]
async fn what_was_minted_before_the_record_began_and_comes_again_is_forgotten_and_not_fresh() {
    let (_dir, redis, claims) = private(RedisOptions::default()).await;
    tell(&redis, &["SET", "countersign:since", "0"]).await;
    let again = |token: &str| claim_as(token).map(|claim| Claim { again: true, ..claim });
    assert_eq!(claims.claim(&again("a"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 1 }]);
    tell(&redis, &["FLUSHALL"]).await;
    assert_eq!(claims.claim(&again("b"), LEASE_MS).await.unwrap(), [Claimed::Forgotten { starts: 1 }]);
    assert_eq!(claims.claim(&again("b"), LEASE_MS).await.unwrap(), [Claimed::Forgotten { starts: 1 }], "as the first time");
    assert_eq!(claims.release(&again("b")).await.unwrap(), [Held::Ours]);
    assert_eq!(claims.claim(&claim_as("c"), LEASE_MS).await.unwrap(), [Claimed::Fresh { starts: 2 }], "its first delivery");
}
