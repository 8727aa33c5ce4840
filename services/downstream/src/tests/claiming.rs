//! What the claim record says, and what becomes of the message.

use std::time::Duration;

use countersign_delivery::ports::claims::{Claim, Claimed, Claims as _};
use countersign_delivery::{Attempt, FailReason};
use countersign_testkit::build::{a_message, a_message_with};
use countersign_wire::names;
use countersign_wire::publication::Publish;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::world::{Behaviour, Given, QUEUE, RETENTION_MS, World, claim};
use crate::config::OnUnknown;
use crate::handler::Failure;
use crate::receive::Rules;

#[tokio::test(start_paused = true)]
async fn the_same_id_with_another_fingerprint_is_never_handled() {
    let world = World::new();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    let impostor = a_message_with(1, "something else");
    world.arrives(&impostor, Publish::FIRST).await;
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned(), "conflict".to_owned()]));
    assert_eq!(world.receipts()[1].fingerprint, impostor.fingerprint);
    assert_eq!(world.dead_reason(), Some(FailReason::Conflict));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_somebody_else_holds_is_put_back_without_costing_a_try() {
    let world = World::new();
    world.claims.claim(&[claim(&a_message(), "another")], 90).await.unwrap();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["retrying 100".to_owned()]));
    let copy = &world.broker.ready("inventory.retry.100")[0];
    assert_eq!(copy.properties.headers[names::RETRY].as_int(), Some(0));
    world.claims.complete(&[claim(&a_message(), "another")], RETENTION_MS).await.unwrap();
    world.clock.advance(100);
    world.until("it came back and is signed", |world| world.words().len() == 2).await;
    assert_eq!((world.calls(), world.words()[1].as_str()), (0, "done"));
}

/// The other one may have had its effect when the record was lost with its claim.
#[tokio::test(start_paused = true)]
async fn what_was_put_back_and_then_forgotten_is_counted_as_a_possible_duplicate() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counted = Counted(recorder.handle());
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    world.claims.claim(&[claim(&a_message(), "another")], 90).await.unwrap();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.words(), counted.duplicates()), (vec!["retrying 100".to_owned()], 0));
    world.claims.forget_everything();
    world.clock.advance(100);
    world.until("it came back and is signed", |world| world.words().len() == 2).await;
    assert_eq!((world.calls(), world.words()[1].as_str(), counted.duplicates()), (1, "done", 1));
}

/// Who starts it again counts; who finishes late does not count it once more.
#[tokio::test(start_paused = true)]
async fn a_start_that_outlived_its_lease_is_counted_once_and_by_who_starts_again() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counted = Counted(recorder.handle());
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    world.told(Behaviour::Wait);
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("it is being handled", |world| world.calls() == 1).await;
    world.clock.advance(1_000_000);
    let second = claim(&a_message(), "second");
    let answer = world.claims.claim(std::slice::from_ref(&second), 1_000).await.unwrap();
    assert_eq!(answer, [Claimed::Interrupted { starts: 2, crashes: 1 }]);
    world.claims.complete(&[second], RETENTION_MS).await.unwrap();
    world.handler.go_on.notify_one();
    world.settled().await;
    assert_eq!((world.words(), counted.duplicates()), (vec!["done".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_long_lease_of_another_takes_the_longest_tier() {
    let world = World::new();
    world.claims.claim(&[claim(&a_message(), "another")], 30_000).await.unwrap();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!(world.words(), ["retrying 1000"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_tier_a_message_that_is_held_elsewhere_is_claimed_again_later() {
    let world = World::given(Given { retries: Vec::new(), ..Given::default() });
    world.claims.claim(&[claim(&a_message(), "another")], 500).await.unwrap();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((world.calls(), world.broker.unsettled(QUEUE)), (0, 1));
    world.claims.complete(&[claim(&a_message(), "another")], RETENTION_MS).await.unwrap();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["done".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_never_ended_is_run_again_by_default() {
    let world = World::new();
    world.somebody_dies_with(&a_message(), "dead").await;
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!(world.words(), ["done"]);
    let calls = world.handler.calls.lock().unwrap();
    assert_eq!((calls.len(), calls[0].crashes), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn or_is_parked_if_the_subscription_says_so() {
    let rules = Rules { on_unknown: OnUnknown::Park, ..Given::default().rules };
    let world = World::given(Given { rules, ..Given::default() });
    world.somebody_dies_with(&a_message(), "dead").await;
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["outcome_unknown".to_owned()]));
    assert_eq!(world.dead_reason(), Some(FailReason::OutcomeUnknown));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_consumer_too_often_is_poison() {
    let world = World::new();
    for token in ["one", "two", "three"] {
        world.somebody_dies_with(&a_message(), token).await;
    }
    world.arrives(&a_message(), Publish::FIRST).await;
    world.arrives(&a_message_with(2, "{}"), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!(world.dead_reason(), Some(FailReason::Poison));
    let mut words = world.words();
    words.sort();
    assert_eq!((world.calls(), words), (1, vec!["done".to_owned(), "poison".to_owned()]));
}

const REDRIVEN: Publish = Publish { attempt: Attempt::FIRST.redriven(), effect_epoch: 0, again: false };

/// How many possible duplicates were counted while it lived; tests run on one thread.
pub struct Counted(pub PrometheusHandle);

impl Counted {
    pub fn duplicates(&self) -> u64 {
        let text = self.0.render();
        let line = text.lines().find_map(|line| line.strip_prefix("countersign_possible_duplicates_total{"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_redrive_of_what_was_poison_or_left_unknown_runs_and_is_counted_as_a_possible_duplicate() {
    for (on_unknown, crashed, failed) in
        [(OnUnknown::Rerun, ["one", "two", "three"].as_slice(), "poison"), (OnUnknown::Park, &["one"], "outcome_unknown")]
    {
        let recorder = PrometheusBuilder::new().build_recorder();
        let counted = Counted(recorder.handle());
        let _recorded = metrics::set_default_local_recorder(&recorder);
        let rules = Rules { on_unknown, ..Given::default().rules };
        let world = World::given(Given { rules, ..Given::default() });
        for token in crashed {
            world.somebody_dies_with(&a_message(), token).await;
        }
        world.arrives(&a_message(), Publish::FIRST).await;
        world.start();
        world.settled().await;
        assert_eq!((world.calls(), world.words(), counted.duplicates()), (0, vec![failed.to_owned()], 0));
        world.arrives(&a_message(), REDRIVEN).await;
        world.settled().await;
        assert_eq!((world.calls(), world.words()), (1, vec![failed.to_owned(), "done".to_owned()]));
        assert_eq!(world.handler.calls.lock().unwrap()[0].crashes, 0, "this epoch's");
        assert_eq!(counted.duplicates(), 1, "{failed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_crashes_again_after_a_redrive_is_parked_again_and_what_was_given_back_is_not_suspected() {
    let rules = Rules { on_unknown: OnUnknown::Park, ..Given::default().rules };
    let world = World::given(Given { rules, ..Given::default() });
    let recorder = PrometheusBuilder::new().build_recorder();
    let counted = Counted(recorder.handle());
    let _recorded = metrics::set_default_local_recorder(&recorder);
    world.somebody_dies_with(&a_message(), "first").await;
    let redriven = Claim { epoch: 1, ..claim(&a_message(), "second") };
    let claimed = world.claims.claim(&[redriven], 1).await.unwrap();
    assert_eq!(claimed, [Claimed::Interrupted { starts: 1, crashes: 0 }]);
    world.clock.advance(2);
    world.arrives(&a_message(), REDRIVEN).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["outcome_unknown".to_owned()]));
    let other = a_message_with(2, "{}");
    world.told(Behaviour::Fail(Failure::reject("no"))).arrives(&other, Publish::FIRST).await;
    world.settled().await;
    world.told(Behaviour::Do).arrives(&other, REDRIVEN).await;
    world.settled().await;
    assert_eq!((world.calls(), world.words().last().map(String::as_str)), (2, Some("done")));
    assert_eq!(counted.duplicates(), 0);
}

/// Eight messages were being handled when a process died; only the one that is handled at the next crash may be blamed for that.
#[tokio::test(start_paused = true)]
async fn after_a_crash_suspects_are_handled_one_at_a_time_and_the_others_hold_no_claim() {
    let world = World::new();
    world.told(Behaviour::Wait);
    for n in 1..=8 {
        world.somebody_dies_with(&a_message_with(n, "{}"), "dead").await;
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("one is handled", |world| world.calls() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.calls(), 1);
    let mut crashes = Vec::new();
    for n in 1..=8 {
        let message = a_message_with(n, "{}");
        let claimed = world.claims.claim(&[claim(&message, "look")], 1_000).await.unwrap();
        if let Claimed::Interrupted { crashes: count, .. } = claimed[0] {
            crashes.push(count);
        }
        world.claims.release(&[claim(&message, "look")]).await.unwrap();
    }
    assert_eq!(crashes, [1; 7], "all but the running one are free and blamed once");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_after_the_record_has_forgotten_it_is_stale() {
    let again = [
        Publish { attempt: Attempt::FIRST.resent(), effect_epoch: 0, again: false },
        Publish { attempt: Attempt::FIRST, effect_epoch: 0, again: true },
        Publish { attempt: Attempt::FIRST.redriven(), effect_epoch: 0, again: false },
    ];
    for publish in again {
        let world = World::new();
        world.clock.advance(RETENTION_MS + 1);
        world.arrives(&a_message(), publish).await;
        world.start();
        world.settled().await;
        assert_eq!((world.calls(), world.words()), (0, vec!["stale".to_owned()]), "{publish:?}");
        assert_eq!(world.dead_reason(), Some(FailReason::Stale));
    }
}

#[tokio::test(start_paused = true)]
async fn but_not_if_the_record_still_says_done_or_it_was_never_published_before() {
    let world = World::new();
    world.clock.advance(RETENTION_MS + 1);
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    world.arrives(&a_message(), Publish { attempt: Attempt::FIRST.resent(), effect_epoch: 0, again: true }).await;
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned(); 2]));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_asked_for_again_and_counts_once() {
    let world = World::new();
    world.claims.lose_answers(1);
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("it is handled", |world| world.calls() == 1).await;
    let context = world.handler.calls.lock().unwrap()[0].clone();
    assert_eq!((context.starts, context.crashes), (1, 0));
    world.until("it is signed", |world| world.words() == ["done"]).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_record_is_away_nothing_is_consumed_and_readiness_says_so() {
    let world = World::new();
    world.claims.go_down();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("the consumer is cancelled", |world| world.broker.depth(QUEUE) == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((world.calls(), world.broker.unsettled(QUEUE)), (0, 0));
    assert!(!world.context.health.readiness().dependencies["redis"].ready);
    world.claims.come_up();
    world.gate.open();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned()]));
    assert!(world.context.health.readiness().dependencies["redis"].ready);
}

#[tokio::test(start_paused = true)]
async fn what_was_handled_while_the_record_went_away_is_completed_before_anything_is_consumed_again() {
    let world = World::new();
    world.told(Behaviour::Wait);
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("it is being handled", |world| world.calls() == 1).await;
    world.claims.go_down();
    world.handler.go_on.notify_one();
    world.until("the consumer is cancelled", |world| world.broker.depth(QUEUE) == 1).await;
    world.claims.come_up();
    world.gate.open();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned(); 2]));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_as_long_as_the_handler_runs() {
    let world = World::new();
    world.told(Behaviour::Wait);
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("it is being handled", |world| world.calls() == 1).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.clock.advance(10_000);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let claimed = world.claims.claim(&[claim(&a_message(), "another")], 1).await.unwrap();
        assert!(matches!(claimed[0], Claimed::Held { .. }), "{claimed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_completed_when_the_record_went_away_is_still_signed_and_acked() {
    let world = World::new();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.broker.nack_next(2);
    world.start();
    world.until("its receipt is on its way", |world| world.broker.published().len() == 2).await;
    world.claims.go_down();
    world.gate.close("gone");
    world.settled().await;
    world.claims.forget_everything();
    world.claims.come_up();
    world.gate.open();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned()]), "even though the record has forgotten it");
}

/// The record was emptied after the message was sent: its first delivery cannot have been handled, a repeat may have been.
#[tokio::test(start_paused = true)]
async fn when_the_record_was_lost_what_comes_again_is_counted_as_a_possible_duplicate_or_parked() {
    for (on_unknown, calls, word, counted_after) in [(OnUnknown::Rerun, 2, "done", 1), (OnUnknown::Park, 1, "outcome_unknown", 0)]
    {
        let recorder = PrometheusBuilder::new().build_recorder();
        let counted = Counted(recorder.handle());
        let _recorded = metrics::set_default_local_recorder(&recorder);
        let rules = Rules { on_unknown, ..Given::default().rules };
        let world = World::given(Given { rules, ..Given::default() });
        world.start();
        world.claims.forget_everything();
        world.arrives(&a_message(), Publish::FIRST).await;
        world.settled().await;
        assert_eq!((world.calls(), world.words(), counted.duplicates()), (1, vec!["done".to_owned()], 0), "its first delivery");
        world.claims.forget_everything();
        world.arrives(&a_message(), Publish { attempt: Attempt::FIRST.resent(), effect_epoch: 0, again: true }).await;
        world.settled().await;
        assert_eq!((world.calls(), world.words()), (calls, vec!["done".to_owned(), word.to_owned()]));
        assert_eq!(counted.duplicates(), counted_after);
    }
}
