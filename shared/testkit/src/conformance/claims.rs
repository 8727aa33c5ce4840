//! What all [`Claims`] promise: those that lend messages on a lease ([`super::leases`]), and those that only keep the record.

use countersign_delivery::Fingerprint;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};

use super::Waiting;
use crate::build::{message_id, subscription};

/// A lease that a test waits for.
pub(super) const SHORT_MS: u64 = 250;
/// Longer than that.
pub(super) const PAST_SHORT_MS: u64 = 400;
/// A lease or retention that no test outlasts.
pub(super) const LONG_MS: u64 = 60_000;

/// Makes a module's worth of tests: one of each promise. `$setup` is an async function from the test's name to
/// `(impl Claims, impl Waiting)`.
#[macro_export]
macro_rules! claims_suite {
    ($setup:path) => {
        $crate::claims_suite!($setup =>
            a_first_claim_is_ours_and_counts_its_start,
            a_lost_answer_is_answered_as_the_first_time,
            a_lost_answer_is_known_even_after_its_lease,
            an_unfinished_start_makes_the_next_one_interrupted,
            what_is_done_stays_done,
            another_fingerprint_is_a_conflict_while_the_first_is_held_or_done,
            another_fingerprint_is_a_conflict_while_a_crash_is_unexplained,
            a_released_impostor_does_not_stand_in_the_way,
            a_released_claim_starts_afresh_and_keeps_its_count,
            releasing_again_with_one_token_is_answered_as_the_first_time,
            releasing_what_is_not_ours_changes_nothing,
            releasing_does_not_explain_an_earlier_crash,
            a_later_epoch_counts_afresh_but_remembers_what_was_unfinished,
            a_later_epoch_is_not_suspected_of_what_was_given_back,
            an_earlier_epoch_is_counted_with_the_later_one,
            an_impostor_of_a_later_epoch_is_a_conflict_all_the_same,
            a_batch_is_answered_in_order,
            what_does_not_come_again_is_answered_by_the_record_all_the_same,
            subscriptions_do_not_see_each_other,
            a_further_effect_is_claimed_afresh_when_the_first_is_done,
            what_a_further_effect_did_is_nothing_to_the_first,
            a_further_effect_counts_its_own_starts,
            every_effect_is_done_by_itself,
            another_fingerprint_is_a_conflict_in_every_effect,
            an_impostor_that_gave_a_further_effect_back_does_not_stand_in_the_way,
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
    ClaimKey { subscription: subscription("inventory"), message_id: message_id(1), fingerprint, effect_epoch: 0 }
}

pub(super) fn claim_as(token: &str) -> Claim {
    Claim { key: key("genuine"), token: token.into(), epoch: 0, again: true }
}

fn impostor_as(token: &str) -> Claim {
    Claim { key: key("impostor"), token: token.into(), epoch: 0, again: true }
}

pub(super) async fn claim(claims: &impl Claims, one: &Claim, lease_ms: u64) -> Claimed {
    let mut answers = claims.claim(std::slice::from_ref(one), lease_ms).await.expect("claims are up");
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

pub(super) async fn complete(claims: &impl Claims, one: &Claim) -> Held {
    claims.complete(std::slice::from_ref(one), LONG_MS).await.expect("claims are up")[0]
}

pub(super) async fn release(claims: &impl Claims, one: &Claim) -> Held {
    claims.release(std::slice::from_ref(one)).await.expect("claims are up")[0]
}

/// A start whose owner never came back.
pub(super) async fn crash(claims: &impl Claims, time: &impl Waiting, token: &str) {
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

/// As the name says; the record of starts outlives the lease, and crashes add up.
pub async fn an_unfinished_start_makes_the_next_one_interrupted(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    crash(claims, time, "b").await;
    assert_eq!(claim(claims, &claim_as("c"), LONG_MS).await, Claimed::Interrupted { starts: 3, crashes: 2 });
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

pub(super) fn claim_in(epoch: u32, token: &str) -> Claim {
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
    let twice = claims.claim(&[other(50, "a"), other(50, "a")], LONG_MS).await.expect("claims are up");
    assert_eq!(twice, [Claimed::Fresh { starts: 1 }, Claimed::Fresh { starts: 1 }], "one start, by its token");
    assert_eq!(claims.claim(&[], LONG_MS).await.expect("claims are up"), []);
}

fn first(claim: Claim) -> Claim {
    Claim { again: false, ..claim }
}

/// As the name says: only its start may be left out.
pub async fn what_does_not_come_again_is_answered_by_the_record_all_the_same(claims: &impl Claims, time: &impl Waiting) {
    let a = first(claim_as("a"));
    assert_eq!(claim(claims, &a, LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(release(claims, &a).await, Held::Ours);
    crash(claims, time, "b").await;
    let second = claim(claims, &first(claim_as("c")), LONG_MS).await;
    assert!(matches!(second, Claimed::Interrupted { crashes: 1, .. }), "{second:?}");
    assert_eq!(claim(claims, &first(impostor_as("x")), LONG_MS).await, Claimed::Conflict);
    assert_eq!(complete(claims, &first(claim_as("c"))).await, Held::Ours);
    assert_eq!(claim(claims, &first(claim_as("d")), LONG_MS).await, Claimed::Done);
    assert_eq!(claim(claims, &first(impostor_as("y")), LONG_MS).await, Claimed::Conflict);
}

/// As the name says.
pub async fn subscriptions_do_not_see_each_other(claims: &impl Claims, _: &impl Waiting) {
    let elsewhere = Claim { key: ClaimKey { subscription: subscription("audit"), ..key("impostor") }, ..impostor_as("x") };
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &elsewhere, LONG_MS).await, Claimed::Fresh { starts: 1 });
}

/// A claim on the effect that was allowed in this epoch, by an attempt of it.
pub(super) fn claim_on(effect_epoch: u32, token: &str) -> Claim {
    let claim = claim_in(effect_epoch, token);
    Claim { key: ClaimKey { effect_epoch, ..claim.key }, ..claim }
}

fn impostor_on(effect_epoch: u32, token: &str) -> Claim {
    Claim { key: ClaimKey { effect_epoch, ..key("impostor") }, ..claim_in(effect_epoch, token) }
}

/// As the name says, and a copy of the first one that comes again is still done.
pub async fn a_further_effect_is_claimed_afresh_when_the_first_is_done(claims: &impl Claims, _: &impl Waiting) {
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_on(1, "b"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &claim_as("c"), LONG_MS).await, Claimed::Done);
    assert_eq!(claim(claims, &claim_in(1, "d"), LONG_MS).await, Claimed::Done, "a later try of the first effect");
    assert_eq!(complete(claims, &claim_on(1, "b")).await, Held::Ours);
    for done in [claim_as("e"), claim_on(1, "f")] {
        assert_eq!(claim(claims, &done, LONG_MS).await, Claimed::Done);
    }
}

/// As the name says: it is as it was, open or never begun.
pub async fn what_a_further_effect_did_is_nothing_to_the_first(claims: &impl Claims, time: &impl Waiting) {
    assert_eq!(claim(claims, &claim_on(1, "a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(complete(claims, &claim_on(1, "a")).await, Held::Ours);
    crash(claims, time, "b").await;
    assert_eq!(claim(claims, &claim_on(2, "c"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(complete(claims, &claim_on(2, "c")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("d"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
    assert_eq!(complete(claims, &claim_as("d")).await, Held::Ours);
}

/// As the name says: crashes of the first are none of its, and the reverse.
pub async fn a_further_effect_counts_its_own_starts(claims: &impl Claims, time: &impl Waiting) {
    crash(claims, time, "a").await;
    assert_eq!(claim(claims, &claim_on(1, "b"), SHORT_MS).await, Claimed::Fresh { starts: 1 });
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(claim(claims, &claim_on(1, "c"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
    assert_eq!(release(claims, &claim_on(1, "c")).await, Held::Ours);
    assert_eq!(release(claims, &claim_on(1, "c")).await, Held::Ours, "answered as the first time");
    assert_eq!(claim(claims, &claim_on(1, "d"), LONG_MS).await, Claimed::Interrupted { starts: 3, crashes: 1 });
    assert_eq!(claim(claims, &claim_as("e"), LONG_MS).await, Claimed::Interrupted { starts: 2, crashes: 1 });
}

/// As the name says, all of them in one batch.
pub async fn every_effect_is_done_by_itself(claims: &impl Claims, _: &impl Waiting) {
    let all = |token: &str| (0..4).map(|epoch| claim_on(epoch, token)).collect::<Vec<_>>();
    let fresh = claims.claim(&all("a"), LONG_MS).await.expect("claims are up");
    assert_eq!(fresh, vec![Claimed::Fresh { starts: 1 }; 4]);
    let odd: Vec<Claim> = all("a").into_iter().skip(1).step_by(2).collect();
    assert_eq!(claims.complete(&odd, LONG_MS).await.expect("claims are up"), [Held::Ours; 2]);
    let again = claims.claim(&all("a"), LONG_MS).await.expect("claims are up");
    let open = Claimed::Fresh { starts: 1 };
    assert_eq!(again, [open.clone(), Claimed::Done, open, Claimed::Done]);
}

/// As the name says: the id is known as one content, whichever effect made it known.
pub async fn another_fingerprint_is_a_conflict_in_every_effect(claims: &impl Claims, _: &impl Waiting) {
    claim(claims, &claim_as("a"), LONG_MS).await;
    assert_eq!(complete(claims, &claim_as("a")).await, Held::Ours);
    assert_eq!(claim(claims, &impostor_on(1, "x"), LONG_MS).await, Claimed::Conflict);
    assert_eq!(release(claims, &impostor_on(1, "x")).await, Held::Lost);
    assert_eq!(claim(claims, &claim_on(1, "b"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    let elsewhere = |claim: Claim| Claim { key: ClaimKey { message_id: message_id(2), ..claim.key }, ..claim };
    // Here only a further effect is known, under way and then done.
    assert_eq!(claim(claims, &elsewhere(claim_on(1, "c")), LONG_MS).await, Claimed::Fresh { starts: 1 });
    for impostor in [impostor_as("x"), impostor_on(1, "x"), impostor_on(2, "x")] {
        assert_eq!(claim(claims, &elsewhere(impostor), LONG_MS).await, Claimed::Conflict);
    }
    assert_eq!(complete(claims, &elsewhere(claim_on(1, "c"))).await, Held::Ours);
    for impostor in [impostor_as("y"), impostor_on(1, "y"), impostor_on(2, "y")] {
        assert_eq!(claim(claims, &elsewhere(impostor), LONG_MS).await, Claimed::Conflict);
    }
    assert_eq!(claim(claims, &elsewhere(claim_as("d")), LONG_MS).await, Claimed::Fresh { starts: 1 });
}

/// As the name says.
pub async fn an_impostor_that_gave_a_further_effect_back_does_not_stand_in_the_way(claims: &impl Claims, _: &impl Waiting) {
    assert_eq!(claim(claims, &impostor_on(1, "x"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(release(claims, &impostor_on(1, "x")).await, Held::Ours);
    assert_eq!(claim(claims, &claim_as("a"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &claim_on(1, "b"), LONG_MS).await, Claimed::Fresh { starts: 1 });
    assert_eq!(claim(claims, &impostor_on(1, "y"), LONG_MS).await, Claimed::Conflict);
}
