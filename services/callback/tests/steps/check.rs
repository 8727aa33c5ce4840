use countersign_callback::check::Outcome;
use countersign_callback::probe::send_due;
use countersign_delivery::Outcome as Signed;
use countersign_delivery::check::{Check, Mark};
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::deliveries::Deliveries as _;
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::{Command, ParkReason};
use countersign_testkit::build::{
    a_check, a_check_of, a_message, a_message_with, a_receipt, a_receipt_of, a_topology, subscription,
};

use crate::rig::{Reply, Rig, Settings, attempt, batch_of, delivered, lane};

const FIRST_TIER: &str = "countersign.checks.1000";
const SECOND_TIER: &str = "countersign.checks.5000";

#[tokio::test]
async fn a_signed_message_is_verified_and_nothing_is_written_or_published() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    let before = rig.row(&a_message());
    assert!(rig.look(&a_check()).await.is_empty());
    assert!(rig.broker.published().is_empty());
    assert_eq!(rig.row(&a_message()), before);
}

#[tokio::test]
async fn a_live_consumer_is_waited_for_without_a_probe() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 60_000 })]).await;
    let armed = rig.look(&a_check()).await;
    assert_eq!(armed, [(FIRST_TIER.to_owned(), Check { waits: 1, ..a_check() })]);
    assert_eq!(rig.probes_in("inventory"), 0);
    let armed = rig.look(&armed[0].1).await;
    assert_eq!(armed[0].0, SECOND_TIER, "the delays grow");
}

#[tokio::test]
async fn silence_is_answered_with_a_probe_and_a_mark_and_no_row() {
    let rig = Rig::new();
    let armed = rig.look(&a_check()).await;
    let mark = Mark { subscription: subscription("inventory"), probe_after: 0, live_until: None };
    assert_eq!(armed, [(FIRST_TIER.to_owned(), Check { waits: 1, marks: vec![mark], ..a_check() })]);
    assert_eq!(rig.probes_in("inventory"), 1);
    assert_eq!(rig.row(&a_message()), None);
}

#[tokio::test]
async fn one_signed_probe_is_not_enough() {
    let rig = Rig::new();
    let again = rig.look(&a_check()).await.remove(0).1;
    rig.answer_probe(1).await;
    rig.clock.advance(rig.desk.policy.probe_grace_ms - 1);
    let again = rig.look(&again).await.remove(0).1;
    assert_eq!(rig.probes_in("inventory"), 1, "the grace is not over");
    rig.clock.advance(1);
    let armed = rig.look(&again).await;
    assert_eq!((armed.len(), rig.probes_in("inventory")), (1, 2));
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn two_signed_probes_and_silence_mean_lost_and_upstream_is_told_once() {
    let rig = Rig::new();
    let again = rig.lose(&a_check()).await;
    assert!(rig.look(&again).await.is_empty(), "upstream has published a new check");
    let calls = rig.upstreams.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].upstream.as_str(), "shop");
    let order = &calls[0].orders[0];
    assert_eq!((order.message_id, order.attempt), (a_message().id, attempt(2)));
    assert_eq!(order.subscriptions, [subscription("inventory")]);
    assert_eq!(order.fingerprint, a_message().fingerprint);
    assert_eq!(rig.history(&a_message()).await, ["resending 2", "resent 2"]);
    assert!(rig.look(&again).await.is_empty(), "a check of try 1 is stale now");
    assert_eq!(rig.upstreams.calls().len(), 1);
}

#[tokio::test]
async fn live_evidence_between_the_probes_starts_the_count_over() {
    let rig = Rig::new();
    let again = rig.lose(&a_check()).await;
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 1_000 })]).await;
    rig.clock.advance(1_000);
    let armed = rig.look(&again).await;
    assert_eq!(armed[0].1.marks[0].probe_after, 2, "only newer probes count");
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn a_consumer_that_held_it_and_fell_silent_has_lost_it() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 1_000 })]).await;
    rig.clock.advance(1_000);
    let again = rig.lose(&a_check()).await;
    assert!(rig.look(&again).await.is_empty());
    assert_eq!(rig.upstreams.calls()[0].orders[0].attempt, attempt(2));
}

#[tokio::test]
async fn after_all_resends_a_human_takes_over() {
    let rig = Rig::new();
    let last = Check { attempt: attempt(rig.desk.policy.max_resends + 1), ..a_check() };
    let again = rig.lose(&last).await;
    assert!(rig.look(&again).await.is_empty());
    let row = rig.row(&a_message()).unwrap();
    assert_eq!(row.command, Command::Parked { attempt: last.attempt, reason: ParkReason::ResendsExhausted });
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn what_the_subscription_refused_is_parked_with_its_reason() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Failed { reason: FailReason::Poison, detail: "again".into() })]).await;
    assert!(rig.look(&a_check()).await.is_empty());
    let row = rig.row(&a_message()).unwrap();
    assert_eq!(row.command, Command::Parked { attempt: Attempt::FIRST, reason: ParkReason::Failed(FailReason::Poison) });
    assert!(rig.look(&a_check()).await.is_empty(), "a parked delivery is left alone");
}

#[tokio::test]
async fn only_those_who_have_not_signed_are_looked_at_again_and_sent_again() {
    let rig = Rig::new();
    let check = Check { required: vec![subscription("audit"), subscription("inventory")], ..a_check() };
    rig.sign(vec![a_receipt_of(&a_message(), &subscription("audit"), Signed::Done)]).await;
    let again = rig.lose(&check).await;
    assert_eq!(again.required, [subscription("inventory")]);
    assert_eq!(rig.probes_in("audit"), 0);
    assert!(rig.look(&again).await.is_empty());
    assert_eq!(rig.upstreams.calls()[0].orders[0].subscriptions, [subscription("inventory")]);
}

#[tokio::test]
async fn after_a_retry_the_probe_takes_the_same_retry_tier() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Retrying { delay_ms: 100, detail: "busy".into() })]).await;
    rig.clock.advance(100);
    rig.look(&a_check()).await;
    assert_eq!((rig.probes_in("inventory.retry.100"), rig.probes_in("inventory")), (1, 0));
}

#[tokio::test]
async fn a_retry_tier_that_is_gone_counts_as_the_straight_way() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Retrying { delay_ms: 777, detail: "busy".into() })]).await;
    rig.clock.advance(777);
    rig.look(&a_check()).await;
    assert_eq!(rig.probes_in("inventory"), 1);
    assert_eq!(rig.deliveries.probes(&[lane(None)]).await.unwrap()[0].len(), 1);
}

#[tokio::test]
async fn for_a_consumer_that_signs_no_probes_and_for_a_removed_one_a_time_out_decides() {
    let mut topology = a_topology();
    topology.subscriptions[0].probes = false;
    for name in ["inventory", "removed"] {
        let rig = Rig::with(Settings { topology: topology.clone(), ..Settings::default() });
        let check = Check { required: vec![subscription(name)], ..a_check() };
        let armed = rig.look(&check).await;
        assert_eq!((armed.len(), armed[0].1.marks.len()), (1, 0));
        let waits = 1_000;
        assert!(rig.desk.topology.waited_ms(waits) >= rig.desk.policy.unprobed_timeout_ms);
        assert!(rig.look(&Check { waits, ..check }).await.is_empty());
        assert_eq!(rig.upstreams.calls().len(), 1);
        assert_eq!(rig.broker.published().iter().filter(|one| one.routing_key == "inventory").count(), 0);
    }
}

#[tokio::test]
async fn what_downstream_may_have_forgotten_is_parked_instead_of_sent_again() {
    let rig = Rig::with(Settings { dedup_retention_ms: 90_000, ..Settings::default() });
    let again = rig.lose(&a_check()).await;
    assert!(rig.look(&again).await.is_empty());
    let row = rig.row(&a_message()).unwrap();
    assert_eq!(row.command, Command::Parked { attempt: Attempt::FIRST, reason: ParkReason::Expired });
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn an_open_order_of_what_may_be_forgotten_is_parked_as_the_try_that_was_ordered() {
    let rig = Rig::with(Settings { dedup_retention_ms: 200_000, ..Settings::default() });
    rig.upstreams.will(&[Reply::Fail]);
    let again = rig.lose(&a_check()).await;
    let again = rig.look(&again).await.remove(0).1;
    rig.clock.advance(200_000);
    assert!(rig.look(&again).await.is_empty(), "nothing is left to look at");
    assert_eq!(rig.row(&a_message()).unwrap().command, Command::Parked { attempt: attempt(2), reason: ParkReason::Expired });
    assert_eq!(
        (rig.history(&a_message()).await, rig.upstreams.calls().len()),
        (vec!["resending 2".into(), "parked 2".into()], 1)
    );
}

#[tokio::test]
async fn a_wait_writes_neither_row_nor_history() {
    let waits = [
        None,
        Some(Signed::Processing { lease_ms: 60_000 }),
        Some(Signed::Retrying { delay_ms: 100, detail: "busy".into() }),
        Some(Signed::Processing { lease_ms: 1 }),
    ];
    for word in waits {
        let rig = Rig::new();
        rig.sign(word.iter().cloned().map(a_receipt).collect()).await;
        rig.clock.advance(1);
        let (row, mut check) = (rig.row(&a_message()), a_check());
        for looks in 1..=5 {
            check = rig.look(&check).await.remove(0).1;
            assert_eq!((rig.row(&a_message()), check.waits), (row.clone(), looks), "{word:?}");
        }
        assert_eq!((rig.history(&a_message()).await.len(), rig.upstreams.calls().len()), (0, 0), "{word:?}");
    }
}

#[tokio::test]
async fn an_unanswered_probe_is_replaced_later_under_a_new_number() {
    let rig = Rig::new();
    rig.look(&a_check()).await;
    rig.clock.advance(rig.desk.policy.probe_replace_ms - 1);
    assert_eq!(send_due(&rig.desk).await.unwrap().probes, 0);
    rig.clock.advance(1);
    assert_eq!(send_due(&rig.desk).await.unwrap().probes, 1);
    let numbers: Vec<u64> =
        rig.broker.ready("inventory").iter().map(|one| countersign_wire::probes::read(&one.properties).unwrap().0).collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn a_demand_ends_when_its_evidence_is_there() {
    let rig = Rig::new();
    rig.lose(&a_check()).await;
    assert_eq!(send_due(&rig.desk).await.unwrap().lanes, 1);
    assert_eq!(send_due(&rig.desk).await.unwrap().lanes, 0);
}

#[tokio::test]
async fn while_the_database_is_away_every_check_is_held_and_nothing_is_published() {
    let rig = Rig::new();
    rig.deliveries.go_down();
    let (outcome, armed) = rig.look_at(&[batch_of(&[a_check()]), batch_of(&[a_check()])]).await;
    assert!(matches!(outcome, Outcome::Held { ref positions, .. } if positions == &[0, 1]), "{outcome:?}");
    assert!(armed.is_empty());
}

#[tokio::test]
async fn only_the_batches_whose_entries_could_not_be_armed_again_are_held() {
    let rig = Rig::with(Settings { max_batch: 1, ..Settings::default() });
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    let live = a_message_with(2, "live");
    rig.sign(vec![a_receipt_of(&live, &subscription("inventory"), Signed::Processing { lease_ms: 9_000 })]).await;
    rig.broker.nack_next(1);
    let (outcome, _) = rig.look_at(&[batch_of(&[a_check()]), batch_of(&[a_check_of(&live)])]).await;
    assert!(matches!(outcome, Outcome::Held { ref positions, .. } if positions == &[1]), "{outcome:?}");
}

#[tokio::test]
async fn a_lost_confirm_counts_as_not_armed() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 9_000 })]).await;
    rig.broker.unknown_next(1, true);
    let (outcome, _) = rig.look_at(&[batch_of(&[a_check()])]).await;
    assert!(matches!(outcome, Outcome::Held { .. }), "{outcome:?}");
}

#[tokio::test]
async fn entries_of_several_batches_share_new_ones_by_delay_and_bound() {
    for (max_batch, publications) in [(256, 2), (2, 3), (1, 5)] {
        let rig = Rig::with(Settings { max_batch, ..Settings::default() });
        let message = |n| a_message_with(n, "live");
        let lease = Signed::Processing { lease_ms: 9_000 };
        rig.sign((1..=5).map(|n| a_receipt_of(&message(n), &subscription("inventory"), lease.clone())).collect()).await;
        let first: Vec<Check> = (1..=2).map(|n| a_check_of(&message(n))).collect();
        let second: Vec<Check> = (3..=5).map(|n| Check { waits: u32::from(n != 3), ..a_check_of(&message(n)) }).collect();
        let (outcome, armed) = rig.look_at(&[batch_of(&first), batch_of(&second)]).await;
        assert!(matches!(outcome, Outcome::Checked));
        assert_eq!(armed.len(), 5);
        assert_eq!(armed.iter().filter(|(queue, _)| queue == FIRST_TIER).count(), 3);
        assert_eq!(rig.broker.published().len(), publications, "max_batch {max_batch}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_quarantine_and_its_neighbours_are_judged() {
    let rig = Rig::new();
    let (outcome, armed) = rig.look_at(&[delivered("junk".into()), batch_of(&[a_check()])]).await;
    assert!(matches!(outcome, Outcome::Checked));
    assert_eq!((armed.len(), rig.broker.depth("countersign.quarantine")), (1, 1));
}

#[tokio::test]
async fn an_absurd_attempt_goes_to_quarantine() {
    let rig = Rig::new();
    let absurd = Check { attempt: attempt(u32::MAX), ..a_check() };
    let (outcome, armed) = rig.look_at(&[batch_of(&[absurd])]).await;
    assert!(matches!(outcome, Outcome::Checked));
    assert_eq!((armed.len(), rig.broker.depth("countersign.quarantine")), (0, 1));
}

#[tokio::test]
async fn a_row_whose_next_look_is_on_its_way_is_not_swept() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 1 })]).await;
    rig.clock.advance(rig.desk.policy.overdue_ms - 500);
    let due = rig.row(&a_message()).unwrap().due_at;
    rig.look(&a_check()).await;
    assert!(rig.row(&a_message()).unwrap().due_at > due);
    rig.clock.advance(1_000);
    assert!(rig.deliveries.overdue(10).await.unwrap().is_empty());
}
