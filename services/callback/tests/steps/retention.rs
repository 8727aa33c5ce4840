use countersign_callback::retention::{PAGE_ROWS, Shelf, Walk};
use countersign_delivery::check::Check;
use countersign_delivery::state::{Command, ParkReason};
use countersign_delivery::{Message, Outcome as Signed};
use countersign_testkit::build::{NOW, a_check_of, a_message_with, a_receipt_of, subscription};

use crate::rig::Rig;

/// Message 1 of the first moment that there is.
fn message() -> Message {
    Message { sent_at: NOW.minus_millis(8 * 86_400_000), ..a_message_with(1, "x") }
}

fn check() -> Check {
    a_check_of(&message())
}

#[tokio::test]
async fn a_check_that_comes_again_after_its_delivery_was_deleted_is_stale_and_leaves_no_ghost() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt_of(&message(), &subscription("inventory"), Signed::Done)]).await;
    let mut shelf = Shelf::Deliveries(Walk::new(1));
    assert_eq!(shelf.delete(&rig.desk, rig.desk.deliveries.now().await.unwrap()).await.unwrap(), Some(1));
    assert_eq!(shelf.delete(&rig.desk, rig.desk.deliveries.now().await.unwrap()).await.unwrap(), None);
    assert!(rig.look(&check()).await.is_empty(), "nothing is armed again");
    assert_eq!(rig.row(&message()), None);
    assert!(rig.upstreams.calls().is_empty());
    assert_eq!(rig.probes_in("inventory"), 0);
}

#[tokio::test]
async fn what_nobody_signed_for_is_parked_when_it_expires_and_stays() {
    let rig = Rig::new();
    assert!(rig.look(&check()).await.is_empty());
    let parked = rig.row(&message()).expect("a row");
    assert!(matches!(parked.command, Command::Parked { reason: ParkReason::Expired, .. }), "{parked:?}");
    let mut shelf = Shelf::Deliveries(Walk::new(1));
    assert_eq!(shelf.delete(&rig.desk, NOW).await.unwrap(), Some(0));
    assert_eq!(rig.row(&message()), Some(parked));
    rig.sign(vec![a_receipt_of(&message(), &subscription("inventory"), Signed::Done)]).await;
    assert!(rig.row(&message()).is_some_and(|row| row.is_done()), "a late receipt resolves it");
}

#[tokio::test]
async fn pages_go_on_after_each_other() {
    let rig = Rig::new();
    let messages = 1..=u64::from(PAGE_ROWS) + 5;
    let name = subscription("inventory");
    rig.sign(messages.map(|n| a_receipt_of(&a_message_with(n, "x"), &name, Signed::Done)).collect()).await;
    let mut shelf = Shelf::Deliveries(Walk::new(1));
    let mut pages = Vec::new();
    while let Some(rows) = shelf.delete(&rig.desk, NOW).await.unwrap() {
        pages.push(rows);
    }
    assert_eq!(pages, [u64::from(PAGE_ROWS), 5]);
}

#[tokio::test]
async fn while_msg_db_is_away_the_same_page_is_next_again() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt_of(&message(), &subscription("inventory"), Signed::Done)]).await;
    let mut shelf = Shelf::Deliveries(Walk::new(1));
    rig.deliveries.go_down();
    assert!(shelf.delete(&rig.desk, NOW).await.is_err());
    rig.deliveries.come_up();
    assert_eq!(shelf.delete(&rig.desk, NOW).await.unwrap(), Some(1));
}
