use std::sync::Arc;

use countersign_boot::{Health, Stop, Tasks};
use countersign_callback::intake::{Intake, Work};
use countersign_delivery::Outcome as Signed;
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::ports::broker::Publisher as _;
use countersign_delivery::receipt::{Receipt, ReceiptBatch};
use countersign_testkit::build::{a_check, a_message, a_message_with, a_receipt, upstream};
use countersign_wire::{checks, publication, receipts};

use crate::rig::Rig;

const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

struct Running {
    rig: Rig,
    health: Health,
    stop: Stop,
    tasks: Tasks,
}

/// Consumers of both queues on the rig's broker.
fn running(rig: Rig) -> Running {
    let (health, stop) = (Health::default(), Stop::default());
    let tasks = Tasks::new(stop.clone());
    for (name, work, in_flight) in [("receipts", Work::Receipts, 1), ("checks", Work::Checks, 5)] {
        let intake =
            Intake { desk: rig.desk.clone(), work, prefetch: 10, in_flight, health: health.dependency(name), stop: stop.clone() };
        tasks.critical(name, intake.run(Arc::new(rig.broker.clone())));
    }
    health.running();
    Running { rig, health, stop, tasks }
}

impl Running {
    async fn deliver(&self, queue: &str, body: bytes::Bytes) {
        let one = publication::to_queue(queue.into(), format!("test/{}", body.len()), body);
        self.rig.broker.publish(vec![one]).await;
    }

    /// Lets tasks run (paused time passes by itself) until it is so.
    async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !so(self) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn is_empty(&self, queue: &str) -> bool {
        self.rig.broker.depth(queue) == 0 && self.rig.broker.unsettled(queue) == 0
    }

    async fn end(self) {
        self.stop.begin_soft();
        assert!(self.tasks.drained(LIMIT).await);
        assert_eq!(self.stop.failure(), None);
    }
}

fn a_receipt_batch() -> bytes::Bytes {
    receipts::encode(&ReceiptBatch { receipts: vec![a_receipt(Signed::Done)], probes: Vec::new() })
}

fn a_check_batch() -> bytes::Bytes {
    checks::encode(&CheckBatch { upstream: upstream("shop"), checks: vec![a_check()] })
}

#[tokio::test(start_paused = true)]
async fn receipts_are_recorded_and_acked_and_a_check_finds_them() {
    let running = running(Rig::new());
    running.deliver("countersign.receipts", a_receipt_batch()).await;
    running.until("recorded", |it| it.rig.row(&a_message()).is_some_and(|row| row.is_done())).await;
    running.deliver("countersign.checks", a_check_batch()).await;
    running.until("settled", |it| it.is_empty("countersign.receipts") && it.is_empty("countersign.checks")).await;
    assert_eq!(running.rig.broker.published().len(), 2, "nothing was armed again");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_waits_goes_through_its_tier_and_comes_back() {
    let running = running(Rig::new());
    running.deliver("countersign.checks", a_check_batch()).await;
    running.until("armed", |it| it.rig.broker.depth("countersign.checks.1000") == 1).await;
    running.until("acked", |it| it.is_empty("countersign.checks")).await;
    running.rig.clock.advance(1_000);
    running.until("armed again, for longer", |it| it.rig.broker.depth("countersign.checks.5000") == 1).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acked_while_the_database_is_away_and_readiness_says_so() {
    let running = running(Rig::new());
    running.rig.deliveries.go_down();
    running.deliver("countersign.receipts", a_receipt_batch()).await;
    let unready =
        |it: &Running| it.health.readiness().dependencies["receipts"].reason.as_deref().is_some_and(|why| why.contains("MSG DB"));
    running.until("unready", unready).await;
    tokio::time::sleep(LIMIT).await;
    assert_eq!(running.rig.broker.unsettled("countersign.receipts"), 1);
    running.rig.deliveries.come_up();
    running.until("recorded and acked", |it| it.is_empty("countersign.receipts")).await;
    running.until("ready", |it| it.health.readiness().dependencies["receipts"].ready).await;
    assert!(running.rig.row(&a_message()).unwrap().is_done());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_trouble_leaves_the_delivery_to_the_broker() {
    let running = running(Rig::new());
    running.rig.deliveries.go_down();
    running.deliver("countersign.checks", a_check_batch()).await;
    running.until("held", |it| it.rig.broker.unsettled("countersign.checks") == 1).await;
    running.stop.begin_soft();
    assert!(running.tasks.drained(LIMIT).await);
    assert_eq!(running.rig.broker.depth("countersign.checks"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_portion_that_is_held_up_holds_up_no_other() {
    let running = running(Rig::new());
    // Its new check is refused for as long as it matters; what is signed needs none.
    running.rig.broker.delete_queue("countersign.checks.1000");
    running.deliver("countersign.checks", a_check_batch()).await;
    running.until("held up", |it| it.rig.broker.unsettled("countersign.checks") == 1).await;
    let unready = |it: &Running| !it.health.readiness().dependencies["checks"].ready;
    running.until("unready", unready).await;
    let signed = a_message_with(2, "signed");
    let receipt = Receipt { message_id: signed.id, ..a_receipt(Signed::Done) };
    running.rig.sign(vec![receipt]).await;
    let batch = CheckBatch { upstream: upstream("shop"), checks: vec![Check { message_id: signed.id, ..a_check() }] };
    for _ in 0..20 {
        running.deliver("countersign.checks", checks::encode(&batch)).await;
    }
    let others = |it: &Running| it.rig.broker.depth("countersign.checks") + it.rig.broker.unsettled("countersign.checks") == 1;
    running.until("the others are acked", others).await;
    assert!(unready(&running), "readiness tells of the one that is held up");
    running.end().await;
}
