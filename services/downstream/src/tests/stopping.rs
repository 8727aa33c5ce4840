//! SIGTERM, and the connection that goes away.

use std::time::Duration;

use countersign_testkit::build::a_message_with;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, Given, QUEUE, World};

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn at_soft_stop_what_is_being_handled_is_finished_and_the_rest_goes_back() {
    let World { broker, context, handler, lane, .. } = {
        let world = World::given(Given { concurrency: 2, ..Given::default() });
        world.told(Behaviour::Wait);
        for n in 1..=5 {
            world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
        }
        world.start();
        world.until("two are handled", |world| world.calls() == 2 && world.broker.unsettled(QUEUE) == 5).await;
        world
    };
    drop(lane);
    context.stop.begin_soft();
    tokio::time::sleep(Duration::from_millis(10)).await;
    handler.go_on.notify_waiters();
    assert!(context.tasks.drained(GRACE).await, "{:?}", context.tasks.running());
    assert_eq!((handler.calls.lock().unwrap().len(), broker.depth(QUEUE), broker.unsettled(QUEUE)), (2, 3, 0));
    let signed: usize = broker
        .ready("countersign.receipts")
        .into_iter()
        .map(|batch| countersign_wire::receipts::decode(None, batch.body).unwrap().receipts.len())
        .sum();
    assert_eq!(signed, 2, "receipts are flushed");
}

#[tokio::test(start_paused = true)]
async fn at_hard_stop_everything_is_dropped_and_goes_back() {
    let world = World::new();
    world.told(Behaviour::Wait);
    world.arrives(&a_message_with(1, "{}"), Publish::FIRST).await;
    world.start();
    world.until("it is handled", |world| world.calls() == 1).await;
    let World { broker, context, lane, .. } = world;
    drop(lane);
    context.stop.begin_hard();
    assert!(context.tasks.drained(GRACE).await, "{:?}", context.tasks.running());
    assert_eq!((broker.depth(QUEUE), broker.depth("countersign.receipts")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_connection_waiting_messages_are_forgotten_since_they_come_again() {
    let world = World::given(Given { concurrency: 1, ..Given::default() });
    world.told(Behaviour::Wait);
    for n in 1..=3 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("one is handled", |world| world.calls() == 1).await;
    world.broker.go_down();
    world.broker.come_up();
    world.until("they came again", |world| world.broker.unsettled(QUEUE) == 3).await;
    world.told(Behaviour::Do);
    world.handler.go_on.notify_waiters();
    world.settled().await;
    assert_eq!(world.calls(), 3, "each has had its effect once");
    let mut words = world.words();
    words.dedup();
    assert_eq!(words, ["done"]);
}
