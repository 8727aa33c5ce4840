//! Claims on a lease: in memory, and in Redis; and batches at random, which both answer alike.

use countersign_dedup::{Config, RedisClaims, Server};
use countersign_delivery::Fingerprint;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};
use countersign_launcher::Ground;
use countersign_testkit::build::{message_id, subscription};
use countersign_testkit::claims::MemoryClaims;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::conformance::walk::Dice;
use countersign_testkit::{claims_suite, leases_suite};

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryClaims, ManualClock) {
        let clock = ManualClock::default();
        (MemoryClaims::new(&clock), clock)
    }

    claims_suite!(set_up);
    leases_suite!(set_up);

    pub(super) async fn claims() -> MemoryClaims {
        set_up("").await.0
    }
}

mod redis {
    use super::*;

    async fn set_up(test: &str) -> (RedisClaims, RealTime) {
        let ground = Ground::new(test).await.unwrap();
        let server = Server { url: ground.redis_url().into(), ..Server::default() };
        let config = Config { server, prefix: ground.name().into(), ..Config::default() };
        // As long ago as the suite's messages were minted.
        let mut connection = ::redis::Client::open(ground.redis_url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        ::redis::cmd("SET").arg(format!("{}:since", ground.name())).arg(0).query_async::<()>(&mut connection).await.unwrap();
        (RedisClaims::connect(&config).unwrap(), RealTime)
    }

    claims_suite!(set_up);
    leases_suite!(set_up);

    pub(super) async fn claims(test: &str) -> RedisClaims {
        set_up(test).await.0
    }
}

/// Longer than the walk takes, milliseconds.
const LEASE_MS: u64 = 600_000;

/// One claim of a few messages, under few tokens, so that they meet often.
fn thrown(dice: &mut Dice) -> Claim {
    let one_of = |dice: &mut Dice, sides| u32::try_from(dice.below(sides)).unwrap();
    let body = if dice.below(6) == 0 { "impostor" } else { "genuine" };
    let epoch = one_of(dice, 3) / 2;
    let key = ClaimKey {
        subscription: subscription(if dice.below(4) == 0 { "audit" } else { "inventory" }),
        message_id: message_id(1 + dice.below(4)),
        fingerprint: Fingerprint::of("order.created", "text/plain", body.as_bytes()),
        effect_epoch: if dice.below(5) == 0 { epoch } else { 0 },
    };
    // A token is of one delivery, which is of one content and effect.
    let token = format!("{}/{body}/{}", ["a", "b", "c"][one_of(dice, 3) as usize], key.effect_epoch);
    Claim { key, token, epoch, again: true }
}

#[derive(Debug, PartialEq)]
enum Answers {
    Claimed(Vec<Claimed>),
    Held(Vec<Held>),
}

async fn answers(claims: &impl Claims, act: u64, batch: &[Claim]) -> Answers {
    match act {
        0 | 1 => {
            let mut claimed = claims.claim(batch, LEASE_MS).await.unwrap();
            for one in &mut claimed {
                if let Claimed::Held { for_ms } = one {
                    // Each has a clock of its own.
                    *for_ms = 0;
                }
            }
            Answers::Claimed(claimed)
        }
        2 => Answers::Held(claims.complete(batch, LEASE_MS).await.unwrap()),
        3 => Answers::Held(claims.release(batch).await.unwrap()),
        _ => Answers::Held(claims.renew(batch, LEASE_MS).await.unwrap()),
    }
}

/// Nobody ends what was not theirs at some time.
#[tokio::test]
async fn batches_at_random_are_answered_by_redis_as_in_memory() {
    for seed in 1..=40 {
        let (memory, redis) = (memory::claims().await, redis::claims(&format!("batches_at_random_{seed}")).await);
        let (mut dice, mut started) = (Dice::new(seed), Vec::new());
        for step in 1..=60 {
            let (act, count) = (dice.below(5), 1 + dice.below(6));
            let batch = (0..count).map(|_| thrown(&mut dice)).filter(|claim| act < 2 || started.contains(claim));
            let batch: Vec<Claim> = batch.collect();
            let expected = answers(&memory, act, &batch).await;
            assert_eq!(answers(&redis, act, &batch).await, expected, "seed {seed}, step {step}, act {act}: {batch:?}");
            if let Answers::Claimed(claimed) = expected {
                let ours = |claimed: &Claimed| matches!(claimed, Claimed::Fresh { .. } | Claimed::Interrupted { .. });
                started.extend(batch.into_iter().zip(claimed).filter(|(_, claimed)| ours(claimed)).map(|(claim, _)| claim));
            }
        }
    }
}
