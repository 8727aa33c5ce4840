//! When all is well.

use std::sync::atomic::Ordering;

use countersign_delivery::probe::Lane as ProbeLane;
use countersign_delivery::receipt::{Outcome, ProbeAnswer};
use countersign_testkit::build::{a_message, a_message_with, a_topology, subscription};
use countersign_wire::probes;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, Given, LEASE_MS, QUEUE, World};

#[tokio::test(start_paused = true)]
async fn a_message_is_handled_signed_for_and_then_acked() {
    let world = World::new();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned()]));
    let receipt = &world.receipts()[0];
    let message = a_message();
    assert_eq!((receipt.message_id, &receipt.fingerprint, receipt.sent_at), (message.id, &message.fingerprint, message.sent_at));
    let context = world.handler.calls.lock().unwrap()[0].clone();
    assert_eq!((context.idempotency_key, context.starts, context.crashes), (message.id.to_string(), 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_has_one_effect_and_two_receipts() {
    let world = World::new();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    world.arrives(&a_message(), Publish::FIRST).await;
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned(); 2]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acked_before_its_receipt_is_confirmed() {
    let world = World::new();
    world.broker.unknown_next(0, true);
    world.arrives(&a_message(), Publish::FIRST).await;
    world.broker.nack_next(1);
    world.broker.unknown_next(1, false);
    world.start();
    world.until("two publishes of the receipt have failed", |world| world.broker.published().len() == 3).await;
    assert_eq!((world.calls(), world.broker.unsettled(QUEUE)), (1, 1));
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_receipt_whose_confirm_is_lost_is_published_again() {
    let world = World::new();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.broker.unknown_next(1, true);
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned(); 2]));
}

#[tokio::test(start_paused = true)]
async fn many_messages_share_receipts_and_handlers_are_bounded() {
    let world = World::new();
    for n in 1..=40 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words().len()), (40, 40));
    assert!(world.handler.most_at_once.load(Ordering::SeqCst) <= 4);
    assert!(world.broker.depth("countersign.receipts") < 40, "receipts travel together");
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_free_before_its_receipt_is_confirmed() {
    let world = World::given(Given { concurrency: 1, ..Given::default() });
    for n in 1..=2 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.broker.nack_next(3);
    world.start();
    world.until("both are handled", |world| world.calls() == 2).await;
    assert_eq!(world.words(), [""; 0]);
    world.settled().await;
    assert_eq!(world.words(), ["done"; 2]);
    assert_eq!(world.handler.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn with_batches_of_one_every_receipt_travels_alone() {
    let world = World::given(Given { max_batch: 1, ..Given::default() });
    for n in 1..=10 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.broker.depth("countersign.receipts")), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_signed_at_once_while_every_handler_is_busy() {
    let world = World::given(Given { concurrency: 1, ..Given::default() });
    world.told(Behaviour::Wait);
    for n in 1..=3 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    let lane = ProbeLane { subscription: subscription(QUEUE), retry_delay_ms: Some(100) };
    let mut probe = probes::publication(&lane, 7, &a_topology()).unwrap();
    probe.routing_key = QUEUE.into();
    world.put(probe).await;
    world.start();
    world.until("the probe is signed", |world| !world.signed().probes.is_empty()).await;
    assert_eq!(world.signed().probes, [ProbeAnswer { lane, number: 7 }]);
    world.until("the probe is acked", |world| world.broker.unsettled(QUEUE) == 3).await;
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_held_for_long_is_reported_waiting_messages_too() {
    let world = World::given(Given { concurrency: 1, ..Given::default() });
    world.told(Behaviour::Wait);
    for n in 1..=3 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("all three are reported", |world| world.receipts().len() >= 3).await;
    let reports = world.receipts();
    assert!(reports.iter().all(|receipt| receipt.outcome == Outcome::Processing { lease_ms: LEASE_MS }), "{reports:?}");
    world.until("they are reported again", |world| world.receipts().len() >= 6).await;
    world.told(Behaviour::Do);
    world.handler.go_on.notify_one();
    world.settled().await;
    assert_eq!(world.words(), vec!["done".to_owned(); 3]);
}
