//! What [`Claims`] that lend messages on a lease promise beyond [`super::claims`].

use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};

use super::Waiting;
use super::claims::{LONG_MS, PAST_SHORT_MS, SHORT_MS, claim, claim_as, claim_in, claim_on, complete, crash, release};
use crate::build::message_id;

/// Makes one test of each promise; `$setup` as for [`claims_suite!`](crate::claims_suite).
#[macro_export]
macro_rules! leases_suite {
    ($setup:path) => {
        $crate::leases_suite!($setup =>
            another_live_owner_holds_it,
            a_renewed_lease_lasts_longer,
            a_lease_that_ran_out_cannot_be_renewed,
            done_is_forgotten_after_its_retention,
            completing_sets_done_even_when_the_claim_was_lost,
            completing_again_with_one_token_is_answered_as_the_first_time,
            completing_another_owners_claim_takes_it_from_them,
            a_late_release_closes_its_own_start,
            a_later_epoch_takes_nothing_from_a_live_owner_nor_from_what_is_done,
            one_batch_that_names_a_message_twice_lends_it_once,
            one_batch_that_completes_a_message_twice_answers_one_after_the_other,
            a_further_effect_is_held_by_itself,
            a_further_effect_that_is_done_is_forgotten_after_its_own_retention,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (claims, time) = $setup(stringify!($promise)).await;
            $crate::conformance::leases::$promise(&claims, &time).await;
        })*
    };
}

async fn renew(claims: &impl Claims, one: &Claim, lease_ms: u64) -> Held {
    claims.renew(std::slice::from_ref(one), lease_ms).await.expect("claims are up")[0]
}

/// As the name says, and the answer bounds for how long.
pub async fn another_live_owner_holds_it(claims: &impl Claims, _: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    let answer = claim(claims, &claim_as("b"), LONG_MS).await;
    assert!(matches!(answer, Claimed::Held { for_ms } if (1..=LONG_MS).contains(&for_ms)), "{answer:?}");
    assert_eq!(renew(claims, &claim_as("b"), LONG_MS).await, Held::Lost);
    assert_eq!(renew(claims, &claim_as("a"), LONG_MS).await, Held::Ours);
}

/// As the name says.
pub async fn a_renewed_lease_lasts_longer(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), SHORT_MS).await;
    assert_eq!(renew(claims, &claim_as("a"), LONG_MS).await, Held::Ours);
    time.pass(PAST_SHORT_MS).await;
    let answer = claim(claims, &claim_as("b"), LONG_MS).await;
    assert!(matches!(answer, Claimed::Held { .. }), "{answer:?}");
}

/// As the name says.
pub async fn a_lease_that_ran_out_cannot_be_renewed(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), SHORT_MS).await;
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(renew(claims, &claim_as("a"), LONG_MS).await, Held::Lost);
}

/// As the name says: nothing is remembered for ever.
pub async fn done_is_forgotten_after_its_retention(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    let done = claims.complete(&[claim_as("a")], SHORT_MS).await.expect("claims are up");
    assert_eq!(done, [Held::Ours]);
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Fresh { starts: 1 });
}

/// As the name says: the effect happened.
pub async fn completing_sets_done_even_when_the_claim_was_lost(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    // Nobody has claimed it since, so nobody can have had the effect as well.
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Done);
}

/// As the name says.
pub async fn completing_again_with_one_token_is_answered_as_the_first_time(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(complete(claims, &claim_as("b")).await, Held::Lost);
    assert_eq!(complete(claims, &claim_as("b")).await, Held::Lost);
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    time.pass(1).await;
}

/// As the name says: both may have had the effect, and the second was told so when it claimed.
pub async fn completing_another_owners_claim_takes_it_from_them(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(renew(claims, &claim_as("b"), LONG_MS).await, Held::Lost);
    assert_eq!(release(claims, &claim_as("b")).await, Held::Lost);
    assert_eq!(complete(claims, &claim_as("b")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("c"), LONG_MS).await, Claimed::Done);
}

/// As the name says: its owner knows how it ended, so it was no crash.
pub async fn a_late_release_closes_its_own_start(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    assert_eq!(release(claims, &claim_as("a")).await, Held::Lost);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Fresh { starts: 2 });
}

/// As the name says; the owner's own epoch stays on record while it lives.
pub async fn a_later_epoch_takes_nothing_from_a_live_owner_nor_from_what_is_done(claims: &impl Claims, _: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    let answer = claim(claims, &claim_in(1, "b"), LONG_MS).await;
    assert!(matches!(answer, Claimed::Held { .. }), "{answer:?}");
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(1, "b"), LONG_MS).await, Claimed::Done);
}

/// As the name says.
pub async fn one_batch_that_names_a_message_twice_lends_it_once(claims: &impl Claims, _: &impl Waiting) {
    let of = |token: &str| {
        let Claim { key, .. } = claim_as(token);
        Claim { key: ClaimKey { message_id: message_id(50), ..key }, ..claim_as(token) }
    };
    let twice = claims.claim(&[of("a"), of("b")], LONG_MS).await.expect("claims are up");
    assert!(matches!(twice[..], [Claimed::Fresh { starts: 1 }, Claimed::Held { .. }]), "{twice:?}");
}

/// As the name says, whoever held it when the batch began.
pub async fn one_batch_that_completes_a_message_twice_answers_one_after_the_other(claims: &impl Claims, _: &impl Waiting) {
    for (n, tokens, expected) in [(51, ["a", "b"], [Held::Ours, Held::Lost]), (52, ["b", "a"], [Held::Lost, Held::Lost])] {
        let of = |token: &str| {
            let Claim { key, .. } = claim_as(token);
            Claim { key: ClaimKey { message_id: message_id(n), ..key }, ..claim_as(token) }
        };
        assert_eq!(claim(claims, &of("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
        let twice = claims.complete(&tokens.map(of), LONG_MS).await.expect("claims are up");
        assert_eq!(twice, expected, "{tokens:?}");
    }
}

/// As the name says: whoever has the first one has not the other, and each renews its own.
pub async fn a_further_effect_is_held_by_itself(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), SHORT_MS).await;
    assert_eq!(claim(claims, &claim_on(1, "b"), SHORT_MS).await, Claimed::Fresh { starts: 1 });
    let answer = claim(claims, &claim_on(1, "c"), LONG_MS).await;
    assert!(matches!(answer, Claimed::Held { .. }), "{answer:?}");
    assert_eq!(renew(claims, &claim_on(1, "b"), LONG_MS).await, Held::Ours);
    assert_eq!(renew(claims, &claim_on(1, "a"), LONG_MS).await, Held::Lost, "that token has the first one");
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(renew(claims, &claim_as("a"), LONG_MS).await, Held::Lost);
    let answer = claim(claims, &claim_on(1, "c"), LONG_MS).await;
    assert!(matches!(answer, Claimed::Held { .. }), "{answer:?}");
}

/// As the name says, which does not shorten the first one's.
pub async fn a_further_effect_that_is_done_is_forgotten_after_its_own_retention(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    claim(claims, &claim_on(1, "b"), LONG_MS).await;
    let done = claims.complete(&[claim_on(1, "b")], SHORT_MS).await.expect("claims are up");
    assert_eq!(done, [Held::Ours]);
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_on(1, "c"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &claim_as("d"), LONG_MS).await, Claimed::Done);
}
