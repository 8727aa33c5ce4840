use std::sync::Arc;

use countersign_callback::events::{LEASE_MS, Teller, tell};
use countersign_delivery::Outcome as Signed;
use countersign_delivery::receipt::FailReason;
use countersign_testkit::build::{a_check, a_message, a_receipt};

use crate::rig::Rig;

/// A parked delivery, and who tells of it.
async fn parked() -> (Rig, Teller) {
    let rig = Rig::new();
    let failed = Signed::Failed { reason: FailReason::Rejected, detail: "no such article".into() };
    rig.sign(vec![a_receipt(failed)]).await;
    assert!(rig.look(&a_check()).await.is_empty());
    let exchange = rig.desk.topology.events_exchange();
    let teller = Teller::new(Arc::new(rig.deliveries.clone()), rig.desk.publisher.clone(), exchange);
    (rig, teller)
}

/// The CloudEvents that were published, whatever became of them.
fn told(rig: &Rig) -> Vec<serde_json::Value> {
    let published = rig.broker.published();
    let events = published.iter().filter(|one| one.exchange == "countersign.events");
    events
        .map(|one| {
            assert_eq!(one.routing_key, "parked.inventory");
            assert_eq!(one.properties.content_type.as_deref(), Some("application/cloudevents+json"));
            serde_json::from_slice(&one.body).unwrap()
        })
        .collect()
}

#[tokio::test]
async fn what_is_parked_is_told_once_as_a_cloud_event_without_its_payload() {
    let (rig, teller) = parked().await;
    assert_eq!(tell(&teller).await.unwrap(), 1);
    let id = a_message().id.to_string();
    let expected = serde_json::json!({
        "specversion": "1.0",
        "id": format!("{id}/1"),
        "source": "/countersign/callback",
        "type": "countersign.delivery.parked",
        "time": "2027-01-15T08:00:00Z",
        "subject": id,
        "datacontenttype": "application/json",
        "data": {
            "message_id": id,
            "subscription": "inventory",
            "upstream": "shop",
            "attempt": 1,
            "epoch": 0,
            "reason": "rejected",
            "at_ms": 1_800_000_000_000_i64,
        },
    });
    assert_eq!(told(&rig), [expected]);
    rig.clock.advance(10 * LEASE_MS);
    assert_eq!(tell(&teller).await.unwrap(), 0);
}

#[tokio::test]
async fn what_the_broker_refuses_comes_again_after_its_lease_under_the_same_id() {
    let (rig, teller) = parked().await;
    rig.broker.nack_next(1);
    assert_eq!(tell(&teller).await.unwrap(), 0);
    assert_eq!(tell(&teller).await.unwrap(), 0);
    assert_eq!(told(&rig).len(), 1, "its lease has not ended");
    rig.clock.advance(LEASE_MS);
    assert_eq!(tell(&teller).await.unwrap(), 1);
    let told = told(&rig);
    assert_eq!(told.len(), 2);
    assert_eq!(told[0], told[1]);
    rig.clock.advance(LEASE_MS);
    assert_eq!(tell(&teller).await.unwrap(), 0);
}

/// The broker stands still with an event in its hands, and more happens: nothing overtakes it.
#[tokio::test]
async fn what_the_broker_does_not_answer_is_told_again_before_anything_later() {
    let (rig, teller) = parked().await;
    rig.broker.unknown_next(1, false);
    assert_eq!(tell(&teller).await.unwrap(), 0);
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    rig.broker.unknown_next(2, true);
    assert_eq!(tell(&teller).await.unwrap(), 0);
    // It would be taken once more by now: that makes no third.
    rig.clock.advance(LEASE_MS);
    assert_eq!(tell(&teller).await.unwrap(), 2);
    let published = rig.broker.published();
    let keys: Vec<_> = published.iter().filter(|one| one.exchange == "countersign.events").map(|one| &one.routing_key).collect();
    assert_eq!(keys, ["parked.inventory", "parked.inventory", "recovered.inventory", "parked.inventory", "recovered.inventory"]);
    rig.clock.advance(LEASE_MS);
    assert_eq!(tell(&teller).await.unwrap(), 0);
}

#[tokio::test]
async fn while_the_broker_is_away_nothing_is_taken() {
    let (rig, teller) = parked().await;
    rig.broker.go_down();
    assert_eq!(tell(&teller).await.unwrap(), 0);
    rig.broker.come_up();
    assert_eq!(tell(&teller).await.unwrap(), 1);
    assert_eq!(told(&rig).len(), 1);
}

#[tokio::test]
async fn while_msg_db_is_away_nothing_is_told() {
    let (rig, teller) = parked().await;
    rig.deliveries.go_down();
    assert!(tell(&teller).await.is_err());
    assert!(told(&rig).is_empty());
}
