//! What [`Claims`] promise.

use countersign_delivery::Fingerprint;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};

use super::Waiting;
use crate::build::{message_id, subscription};

/// A lease that a test waits for.
const SHORT_MS: u64 = 250;
/// Longer than that.
const PAST_SHORT_MS: u64 = 400;
/// A lease or retention that no test outlasts.
const LONG_MS: u64 = 60_000;

/// Makes a module's worth of tests: one of each promise. `$setup` is an async function from the test's name to
/// `(impl Claims, impl Waiting)`.
#[macro_export]
macro_rules! claims_suite {
    ($setup:path) => {
        $crate::claims_suite!($setup =>
            a_first_claim_is_ours_and_counts_its_start,
            a_lost_answer_is_answered_as_the_first_time,
            a_lost_answer_is_known_even_after_its_lease,
            another_live_owner_holds_it,
            an_unfinished_start_makes_the_next_one_interrupted,
            a_renewed_lease_lasts_longer,
            a_lease_that_ran_out_cannot_be_renewed,
            what_is_done_stays_done,
            done_is_forgotten_after_its_retention,
            completing_sets_done_even_when_the_claim_was_lost,
            completing_again_with_one_token_is_answered_as_the_first_time,
            completing_another_owners_claim_takes_it_from_them,
            another_fingerprint_is_a_conflict_while_the_first_is_held_or_done,
            another_fingerprint_is_a_conflict_while_a_crash_is_unexplained,
            a_released_impostor_does_not_stand_in_the_way,
            a_released_claim_starts_afresh_and_keeps_its_count,
            releasing_again_with_one_token_is_answered_as_the_first_time,
            releasing_what_is_not_ours_changes_nothing,
            releasing_does_not_explain_an_earlier_crash,
            a_late_release_closes_its_own_start,
            a_later_epoch_counts_afresh_but_remembers_what_was_unfinished,
            a_later_epoch_is_not_suspected_of_what_was_given_back,
            an_earlier_epoch_is_counted_with_the_later_one,
            a_later_epoch_takes_nothing_from_a_live_owner_nor_from_what_is_done,
            an_impostor_of_a_later_epoch_is_a_conflict_all_the_same,
            a_batch_is_answered_in_order,
            subscriptions_do_not_see_each_other,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (claims, time) = $setup(stringify!($promise)).await;
            $crate::conformance::claims::$promise(&claims, &time).await;
        })*
    };
}

fn key(body: &str) -> ClaimKey {
    let fingerprint = Fingerprint::of("order.created", "text/plain", body.as_bytes());
    ClaimKey { subscription: subscription("inventory"), message_id: message_id(1), fingerprint }
}

fn claim_as(token: &str) -> Claim {
    Claim { key: key("genuine"), token: token.into(), epoch: 0, again: true }
}

fn impostor_as(token: &str) -> Claim {
    Claim { key: key("impostor"), token: token.into(), epoch: 0, again: true }
}

async fn claim(claims: &impl Claims, one: &Claim, lease_ms: u64) -> Claimed {
    let mut answers = claims.claim(std::slice::from_ref(one), lease_ms).await.expect("claims are up");
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

async fn complete(claims: &impl Claims, one: &Claim) -> Held {
    claims.complete(std::slice::from_ref(one), LONG_MS).await.expect("claims are up")[0]
}

async fn release(claims: &impl Claims, one: &Claim) -> Held {
    claims.release(std::slice::from_ref(one)).await.expect("claims are up")[0]
}

async fn renew(claims: &impl Claims, one: &Claim, lease_ms: u64) -> Held {
    claims.renew(std::slice::from_ref(one), lease_ms).await.expect("claims are up")[0]
}

/// A start whose owner never came back.
async fn crash(claims: &impl Claims, time: &impl Waiting, token: &str) {
    let started = claim(claims, &claim_as(token), SHORT_MS).await;
    assert!(matches!(started, Claimed::Fresh { .. } | Claimed::Interrupted { .. }), "{started:?}");
    time.pass(PAST_SHORT_MS).await;
}

/// As the name says.
pub async fn a_first_claim_is_ours_and_counts_its_start(claims: &impl Claims, _: &impl Waiting) {
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
}

/// As the name says: `Fresh` and `Interrupted` alike.
pub async fn a_lost_answer_is_answered_as_the_first_time(claims: &impl Claims, time: &impl Waiting) {
    assert_eq!(claim(claims, &claim_as("a"), SHORT_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &claim_as("a"), SHORT_MS).await, Claimed::Fresh { starts: 1 });
    time.pass(PAST_SHORT_MS).await;
    let interrupted = Claimed::Interrupted { starts: 2, crashes: 1 };
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, interrupted);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, interrupted);
}

/// As the name says: an own start is no crash, however late the repeat.
pub async fn a_lost_answer_is_known_even_after_its_lease(claims: &impl Claims, time: &impl Waiting) {
    assert_eq!(claim(claims, &claim_as("a"), SHORT_MS).await, Claimed::Fresh { starts: 1 });
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
}

/// As the name says, and the answer bounds for how long.
pub async fn another_live_owner_holds_it(claims: &impl Claims, _: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    let answer = claim(claims, &claim_as("b"), LONG_MS).await;
    assert!(matches!(answer, Claimed::Held { for_ms } if (1..=LONG_MS).contains(&for_ms)), "{answer:?}");
    assert_eq!(renew(claims, &claim_as("b"), LONG_MS).await, Held::Lost);
    assert_eq!(renew(claims, &claim_as("a"), LONG_MS).await, Held::Ours);
}

/// As the name says; the record of starts outlives the lease, and crashes add up.
pub async fn an_unfinished_start_makes_the_next_one_interrupted(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    crash(claims, time, "b").await;
    assert_eq!(claim(claims, &claim_as("c"), LONG_MS).await, Claimed::Interrupted { starts: 3, crashes: 2 });
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

/// As the name says, for its owner as for everybody else.
pub async fn what_is_done_stays_done(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), SHORT_MS).await;
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Done);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Done);
    assert_eq!(release(claims, &claim_as("b")).await, Held::Lost);
    assert_eq!(claim(claims, &claim_as("c"), LONG_MS).await, Claimed::Done);
}

/// As the name says: nothing is remembered for ever.
pub async fn done_is_forgotten_after_its_retention(claims: &impl Claims, time: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    let done = claims.complete(&[claim_as("a")], SHORT_MS).await.expect("claims are up");
    assert_eq!(done, [Held::Ours]);
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Fresh { starts: 1 });
}

/// As the name says: the effect happened. Nobody has claimed it since, so nobody can have had it as well.
pub async fn completing_sets_done_even_when_the_claim_was_lost(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
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

/// As the name says.
pub async fn another_fingerprint_is_a_conflict_while_the_first_is_held_or_done(claims: &impl Claims, _: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    assert_eq!(claim(claims, &impostor_as("x"), LONG_MS).await, Claimed::Conflict);
    assert_eq!(release(claims, &impostor_as("x")).await, Held::Lost);
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &impostor_as("y"), LONG_MS).await, Claimed::Conflict);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Done);
}

/// As the name says: what crashed may have had its effect.
pub async fn another_fingerprint_is_a_conflict_while_a_crash_is_unexplained(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    assert_eq!(claim(claims, &impostor_as("x"), LONG_MS).await, Claimed::Conflict);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
}

/// As the name says, and its starts are not laid to the genuine one's account.
pub async fn a_released_impostor_does_not_stand_in_the_way(claims: &impl Claims, _: &impl Waiting) {
    assert_eq!(claim(claims, &impostor_as("x"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(release(claims, &impostor_as("x")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &impostor_as("y"), LONG_MS).await, Claimed::Conflict);
}

/// As the name says.
pub async fn a_released_claim_starts_afresh_and_keeps_its_count(claims: &impl Claims, _: &impl Waiting) {
    for starts in 1..=3 {
        let token = format!("t{starts}");
        assert_eq!(claim(claims, &claim_as(&token), LONG_MS).await, Claimed::Fresh { starts });
        assert_eq!(release(claims, &claim_as(&token)).await, Held::Ours);
    }
}

/// As the name says, and the repeat does not touch the next owner.
pub async fn releasing_again_with_one_token_is_answered_as_the_first_time(claims: &impl Claims, _: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    assert_eq!(release(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(release(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Fresh { starts: 2 });
    assert_eq!(release(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(complete(claims, &claim_as("b")).await, Held::Ours);
}

/// As the name says.
pub async fn releasing_what_is_not_ours_changes_nothing(claims: &impl Claims, _: &impl Waiting) {
    assert_eq!(release(claims, &claim_as("b")).await, Held::Lost);
    claim(claims, &claim_as("a"), LONG_MS).await;
    assert_eq!(release(claims, &claim_as("b")).await, Held::Lost);
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
}

/// As the name says.
pub async fn releasing_does_not_explain_an_earlier_crash(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
    assert_eq!(release(claims, &claim_as("b")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("c"), LONG_MS).await, Claimed::Interrupted { starts: 3, crashes: 1 });
}

/// As the name says: its owner knows how it ended, so it was no crash.
pub async fn a_late_release_closes_its_own_start(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    assert_eq!(release(claims, &claim_as("a")).await, Held::Lost);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Fresh { starts: 2 });
}

fn claim_in(epoch: u32, token: &str) -> Claim {
    Claim { epoch, ..claim_as(token) }
}

/// As the name says: until it is done, also when the answer is lost, the claim given back, or a further epoch begins.
pub async fn a_later_epoch_counts_afresh_but_remembers_what_was_unfinished(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    crash(claims, time, "b").await;
    assert_eq!(claim(claims, &claim_in(1, "c"), LONG_MS).await, Claimed::Interrupted { starts: 1, crashes: 0 });
    assert_eq!(claim(claims, &claim_in(1, "c"), LONG_MS).await, Claimed::Interrupted { starts: 1, crashes: 0 });
    assert_eq!(release(claims, &claim_in(1, "c")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(1, "d"), SHORT_MS).await, Claimed::Interrupted { starts: 2, crashes: 0 });
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_in(1, "e"), LONG_MS).await, Claimed::Interrupted { starts: 3, crashes: 1 });
    assert_eq!(release(claims, &claim_in(1, "e")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(3, "f"), LONG_MS).await, Claimed::Interrupted { starts: 1, crashes: 0 });
    assert_eq!(release(claims, &claim_in(3, "f")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(4, "g"), LONG_MS).await, Claimed::Interrupted { starts: 1, crashes: 0 });
    assert_eq!(complete(claims, &claim_in(4, "g")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(5, "h"), LONG_MS).await, Claimed::Done);
}

/// As the name says: everybody knows how that ended.
pub async fn a_later_epoch_is_not_suspected_of_what_was_given_back(claims: &impl Claims, _: &impl Waiting) {
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(release(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(1, "b"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(release(claims, &claim_in(1, "b")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(1, "c"), LONG_MS).await, Claimed::Fresh { starts: 2 });
}

/// As the name says: it does not lower the epoch on record, which thus is not new when it comes again.
pub async fn an_earlier_epoch_is_counted_with_the_later_one(claims: &impl Claims, time: &impl Waiting) {
    assert_eq!(claim(claims, &claim_in(2, "a"), SHORT_MS).await, Claimed::Fresh { starts: 1 });
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_in(1, "b"), SHORT_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_in(2, "c"), LONG_MS).await, Claimed::Interrupted { starts: 3, crashes: 2 });
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

/// As the name says: it neither starts the genuine one's count afresh nor makes its unfinished starts forgotten.
pub async fn an_impostor_of_a_later_epoch_is_a_conflict_all_the_same(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    let impostor = Claim { epoch: 1, ..impostor_as("x") };
    assert_eq!(claim(claims, &impostor, LONG_MS).await, Claimed::Conflict);
    assert_eq!(claim(claims, &claim_as("b"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
    assert_eq!(release(claims, &claim_as("b")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_in(1, "c"), LONG_MS).await, Claimed::Interrupted { starts: 1, crashes: 0 });
    assert_eq!(release(claims, &claim_in(1, "c")).await, Held::Ours);
    let impostor = Claim { epoch: 2, ..impostor_as("y") };
    assert_eq!(claim(claims, &impostor, LONG_MS).await, Claimed::Conflict, "nothing is open, but something is unexplained");
}

/// As the name says, a batch that names one key twice and an empty one included.
pub async fn a_batch_is_answered_in_order(claims: &impl Claims, _: &impl Waiting) {
    let other = |n: u64, token: &str| {
        let key = ClaimKey { message_id: message_id(n), ..key("genuine") };
        Claim { key, token: token.into(), epoch: 0, again: true }
    };
    let batch: Vec<Claim> = (2..=40).map(|n| other(n, "a")).collect();
    let even: Vec<Claim> = batch.iter().step_by(2).cloned().collect();
    assert_eq!(claims.claim(&even, LONG_MS).await.expect("claims are up").len(), even.len());
    assert_eq!(claims.complete(&even, LONG_MS).await.expect("claims are up"), vec![Held::Ours; even.len()]);
    let expected: Vec<Claimed> =
        (2..=40).map(|n| if n % 2 == 0 { Claimed::Done } else { Claimed::Fresh { starts: 1 } }).collect();
    assert_eq!(claims.claim(&batch, LONG_MS).await.expect("claims are up"), expected);
    let twice = claims.claim(&[other(50, "a"), other(50, "b")], LONG_MS).await.expect("claims are up");
    assert!(matches!(twice[..], [Claimed::Fresh { starts: 1 }, Claimed::Held { .. }]), "{twice:?}");
    assert_eq!(claims.claim(&[], LONG_MS).await.expect("claims are up"), []);
}

/// As the name says.
pub async fn subscriptions_do_not_see_each_other(claims: &impl Claims, _: &impl Waiting) {
    let elsewhere = Claim { key: ClaimKey { subscription: subscription("audit"), ..key("impostor") }, ..impostor_as("x") };
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &elsewhere, LONG_MS).await, Claimed::Fresh { starts: 1 });
}
