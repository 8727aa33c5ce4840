//! An operator pauses the subscription.

use std::time::Duration;

use countersign_delivery::Timestamp;
use countersign_delivery::ports::pauses::Pause;
use countersign_delivery::probe::Lane as ProbeLane;
use countersign_delivery::receipt::Outcome;
use countersign_testkit::build::{a_message_with, a_topology, subscription};
use countersign_wire::probes;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, Given, QUEUE, World};

fn pause() -> Pause {
    Pause { reason: "a bad roll-out".into(), by: "ada".into(), at: Timestamp::from_millis(1) }
}

/// Two are being handled, three wait.
async fn two_of_five_under_way() -> World {
    let world = World::given(Given { concurrency: 2, ..Given::default() });
    world.told(Behaviour::Wait);
    for n in 1..=5 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("two are handled", |world| world.calls() == 2 && world.broker.unsettled(QUEUE) == 5).await;
    world
}

#[tokio::test(start_paused = true)]
async fn what_is_being_handled_is_finished_and_the_rest_waits_in_the_queue_until_it_is_resumed() {
    let world = two_of_five_under_way().await;
    let count = world.lane.reception.held.count();
    assert_eq!((count.in_flight, count.waiting), (2, 3));
    world.paused.found(Some(pause()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.told(Behaviour::Do);
    world.handler.go_on.notify_waiters();
    world.until("the rest is back in the queue", |world| world.broker.depth(QUEUE) == 3).await;
    assert_eq!((world.calls(), world.words(), world.broker.unsettled(QUEUE)), (2, vec!["done".to_owned(); 2], 0));

    let lane = ProbeLane { subscription: subscription(QUEUE), retry_delay_ms: None };
    world.put(probes::publication(&lane, 7, &a_topology()).unwrap()).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((world.calls(), world.receipts().len(), world.signed().probes.len()), (2, 2, 0), "nothing at all happens");

    world.paused.found(None);
    world.settled().await;
    assert_eq!((world.calls(), world.words(), world.signed().probes.len()), (5, vec!["done".to_owned(); 5], 1));
    let calls = world.handler.calls.lock().unwrap();
    assert!(calls.iter().all(|call| (call.starts, call.crashes) == (1, 0)), "a pause is no attempt: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_beside_a_slow_handler_is_reported_until_it_is_back_in_the_queue() {
    let world = two_of_five_under_way().await;
    world.paused.found(Some(pause()));
    let reported = |world: &World| {
        let receipts = world.receipts().into_iter().filter(|receipt| matches!(receipt.outcome, Outcome::Processing { .. }));
        receipts.map(|receipt| receipt.message_id).collect::<std::collections::BTreeSet<_>>().len()
    };
    world.until("all five are reported as held", |world| reported(world) == 5).await;
    assert_eq!(world.broker.depth(QUEUE), 0, "this consumer has them");
    world.told(Behaviour::Do);
    world.handler.go_on.notify_waiters();
    world.until("the rest is back in the queue", |world| world.broker.depth(QUEUE) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_subscription_stops_when_its_process_does() {
    let world = two_of_five_under_way().await;
    world.paused.found(Some(pause()));
    world.told(Behaviour::Do);
    world
        .until("it stands still", |world| {
            world.handler.go_on.notify_waiters();
            world.broker.depth(QUEUE) == 3
        })
        .await;
    let World { context, lane, .. } = world;
    drop(lane);
    context.stop.begin_soft();
    assert!(context.tasks.drained(Duration::from_secs(5)).await, "{:?}", context.tasks.running());
}
