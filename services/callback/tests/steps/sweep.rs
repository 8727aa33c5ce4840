use countersign_callback::sweep::sweep;
use countersign_delivery::Outcome as Signed;
use countersign_delivery::check::Check;
use countersign_delivery::ports::deliveries::{Change, Deliveries as _};
use countersign_delivery::state::{Event, ResendReason};
use countersign_testkit::build::{a_check, a_message, a_receipt, facts_of};

use crate::rig::{Rig, armed, attempt, key};

async fn overdue() -> Rig {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 1 })]).await;
    rig.clock.advance(rig.desk.policy.overdue_ms + 1);
    rig
}

#[tokio::test]
async fn an_overdue_delivery_gets_a_due_check_and_is_not_overdue_any_more() {
    let rig = overdue().await;
    assert_eq!(sweep(&rig.desk).await.unwrap(), 1);
    assert_eq!(armed(&rig.broker.published()), [("countersign.checks".to_owned(), a_check())]);
    assert_eq!(sweep(&rig.desk).await.unwrap(), 0);
}

#[tokio::test]
async fn an_open_order_is_checked_as_the_try_before_it_so_that_it_is_repeated() {
    let rig = Rig::new();
    let (facts, why) = (facts_of(&a_message()), ResendReason::Lost { probe: 2 });
    let order = Event::OrderResend { facts, attempt: attempt(3), lease_ms: 10, seen_live_until: None, why };
    let change = Change { key: key(&a_message(), "inventory"), event: order };
    rig.deliveries.apply(&[change]).await.unwrap().remove(0).unwrap();
    rig.clock.advance(rig.desk.policy.overdue_ms + 10);
    assert_eq!(sweep(&rig.desk).await.unwrap(), 1);
    let (_, check) = armed(&rig.broker.published()).remove(0);
    assert_eq!(check, Check { attempt: attempt(2), ..a_check() });
    assert!(rig.look(&check).await.is_empty());
    assert_eq!(rig.upstreams.calls()[0].orders[0].attempt, attempt(3));
}

#[tokio::test]
async fn without_a_confirm_it_stays_overdue() {
    let rig = overdue().await;
    rig.broker.nack_next(1);
    assert!(sweep(&rig.desk).await.is_err());
    assert_eq!(sweep(&rig.desk).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_done_is_never_swept() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    rig.clock.advance(10 * rig.desk.policy.overdue_ms);
    assert_eq!(sweep(&rig.desk).await.unwrap(), 0);
}
