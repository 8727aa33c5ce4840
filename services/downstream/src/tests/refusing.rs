//! What cannot be read, and what the broker gives up on.

use countersign_delivery::FailReason;
use countersign_delivery::ports::broker::{HeaderValue, Publisher as _};
use countersign_delivery::receipt::Outcome;
use countersign_testkit::build::{a_message, a_publication, subscription, upstream};
use countersign_wire::names;
use countersign_wire::publication::{Publish, to_subscription};

use super::world::{DEAD, QUARANTINE, QUEUE, World};
use crate::dead;

#[tokio::test(start_paused = true)]
async fn what_names_its_message_but_cannot_be_read_is_dead_and_signed() {
    let world = World::new();
    let mut broken = to_subscription(&a_message(), &upstream("shop"), &subscription(QUEUE), Publish::FIRST);
    broken.properties.headers.insert(names::ATTEMPT.into(), HeaderValue::Int(-1));
    world.put(broken).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["undecodable".to_owned()]));
    assert_eq!(world.receipts()[0].message_id, a_message().id);
    assert_eq!(world.dead_reason(), Some(FailReason::Undecodable));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_name_its_message_or_is_of_another_version_is_quarantined() {
    let world = World::new();
    let mut newer = to_subscription(&a_message(), &upstream("shop"), &subscription(QUEUE), Publish::FIRST);
    newer.properties.headers.insert(names::WIRE.into(), HeaderValue::Int(2));
    world.put(newer).await;
    world.put(a_publication("not a uuid", QUEUE)).await;
    let mut nameless = a_publication("", QUEUE);
    nameless.properties.message_id = None;
    world.put(nameless).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words().len(), world.broker.depth(DEAD)), (0, 0, 0));
    let quarantined = world.broker.ready(QUARANTINE);
    assert_eq!(quarantined.len(), 3);
    assert!(quarantined.iter().all(|copy| copy.properties.headers.contains_key(names::DEAD_DETAIL)));
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_gives_up_on_is_moved_and_signed() {
    let world = World::new();
    let mut lost = to_subscription(&a_message(), &upstream("shop"), &subscription(QUEUE), Publish::FIRST);
    lost.routing_key = "inventory.limit".into();
    lost.properties.headers.insert("x-first-death-reason".into(), HeaderValue::Text("delivery_limit".into()));
    lost.properties.headers.insert("x-first-death-exchange".into(), HeaderValue::Text("shop.events".into()));
    lost.properties.headers.insert("x-first-death-routing-key".into(), HeaderValue::Text("order.created".into()));
    lost.properties.headers.retain(|name, _| name != names::EXCHANGE && name != names::ROUTING_KEY);
    lost.properties.headers.insert("x-death-count".into(), HeaderValue::Int(1));
    world.broker.publish(vec![lost]).await;
    let consumers = world.lane.consumers.clone();
    world.context.tasks.critical("dead", dead::run(world.lane.clone(), consumers, world.context.stop.clone()));
    world.until("it is signed", |world| world.words() == ["dead_lettered"]).await;
    world.until("it is acked", |world| world.broker.unsettled("inventory.limit") == 0).await;
    assert_eq!(world.dead_reason(), Some(FailReason::DeadLettered));
    let Outcome::Failed { detail, .. } = &world.receipts()[0].outcome else { panic!("it failed") };
    assert!(detail.contains("delivery_limit"), "{detail}");
    let copy = &world.broker.ready(DEAD)[0];
    assert_eq!(copy.properties.headers[names::EXCHANGE].as_text(), Some("shop.events"));
    assert_eq!(copy.properties.headers[names::ROUTING_KEY].as_text(), Some("order.created"));
    assert!(!copy.properties.headers.keys().any(|name| name.starts_with("x-")), "the broker's history is stripped");
}
