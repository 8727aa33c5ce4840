//! What upstream and downstream tell of operators' acts is one row of the audit each, however often it comes.

use countersign_boot::{Caller, Forbidden, Role, Stop, Tasks};
use countersign_callback::operate::forbidden;
use countersign_callback::record::{Outcome, record};
use countersign_delivery::Timestamp;
use countersign_delivery::ports::audit::{ActResult, ToldAct};
use countersign_delivery::ports::broker::{Delivered, HeaderValue};
use countersign_delivery::receipt::Outcome as Signed;
use countersign_delivery::refusals::{ROWS_MAX, WINDOW_MS};
use countersign_testkit::build::{a_message, a_receipt, uuid};
use countersign_wire::acts;

use crate::record::batch;
use crate::rig::{Rig, delivered};

fn a_pause(id: u64, result: ActResult) -> ToldAct {
    ToldAct {
        id: uuid(id),
        service: "downstream".into(),
        service_name: "stock".into(),
        by: "ada".into(),
        act: "pause".into(),
        target: "inventory".into(),
        subscription: "inventory".into(),
        reason: "a bad roll-out".into(),
        at: Timestamp::from_millis(1_700_000_000_000),
        ended_at: (result != ActResult::Begun).then(|| Timestamp::from_millis(1_700_000_000_001)),
        result,
        detail: String::new(),
    }
}

/// A delivery of the receipts queue that tells of these.
fn telling(told: &[ToldAct]) -> Delivered {
    let publication = acts::publication(told, "acts/1".into(), "countersign.receipts".into());
    Delivered { properties: publication.properties, ..delivered(publication.body) }
}

/// Act and result of each row, oldest first.
fn rows(rig: &Rig) -> Vec<(String, &'static str)> {
    rig.audit.all().into_iter().map(|entry| (entry.act, entry.result.as_str())).collect()
}

fn row(act: &str, result: &'static str) -> (String, &'static str) {
    (act.to_owned(), result)
}

async fn recorded(rig: &Rig, given: &[Delivered]) {
    let outcome = record(&rig.desk, given).await;
    assert!(matches!(outcome, Outcome::Recorded), "{outcome:?}");
}

#[tokio::test]
async fn acts_are_written_beside_receipts_and_once_when_they_come_twice() {
    let rig = Rig::new();
    let newer = ToldAct { act: "act_of_tomorrow".into(), service: "upstream".into(), ..a_pause(2, ActResult::Done) };
    let given = [
        telling(&[a_pause(1, ActResult::Begun), newer]),
        delivered(batch(vec![a_receipt(Signed::Done)])),
        telling(&[a_pause(1, ActResult::Done)]),
    ];
    // As after a kill between the write and the ack: all of it comes again.
    for _ in 0..2 {
        recorded(&rig, &given).await;
        assert_eq!(rows(&rig), [row("pause", "done"), row("act_of_tomorrow", "done")]);
    }
    assert!(rig.row(&a_message()).unwrap().is_done());
    let entry = rig.audit.all().remove(0);
    assert_eq!((entry.service.as_str(), entry.service_name.as_str(), entry.by.as_str()), ("downstream", "stock", "ada"));
    assert!(rig.broker.published().is_empty(), "nothing is set aside");
}

#[tokio::test]
async fn an_end_that_comes_before_its_begin_stands() {
    let rig = Rig::new();
    recorded(&rig, &[telling(&[a_pause(1, ActResult::Failed)])]).await;
    recorded(&rig, &[telling(&[a_pause(1, ActResult::Begun)])]).await;
    assert_eq!(rows(&rig), [row("pause", "failed")]);
}

#[tokio::test]
async fn while_the_audit_is_away_acts_are_held_and_later_written() {
    let rig = Rig::new();
    let given = [telling(&[a_pause(1, ActResult::Done)]), delivered(batch(vec![]))];
    rig.audit.go_down();
    let outcome = record(&rig.desk, &given).await;
    assert!(matches!(outcome, Outcome::Held { ref positions, .. } if positions == &[0, 1]), "{outcome:?}");
    rig.audit.come_up();
    recorded(&rig, &given).await;
    assert_eq!(rows(&rig), [row("pause", "done")]);
}

#[tokio::test]
async fn acts_that_cannot_be_read_go_to_quarantine_and_their_neighbours_are_written() {
    let rig = Rig::new();
    let mut unreadable = telling(&[a_pause(1, ActResult::Done)]);
    unreadable.body = "no acts".into();
    recorded(&rig, &[unreadable, telling(&[a_pause(2, ActResult::Done)])]).await;
    assert_eq!(rows(&rig), [row("pause", "done")]);
    let quarantined = rig.broker.ready("countersign.quarantine");
    let detail = quarantined[0].properties.headers.get("countersign-dead-detail").and_then(HeaderValue::as_text);
    assert!(quarantined.len() == 1 && detail.is_some_and(|detail| detail.contains("cannot be decoded")), "{detail:?}");
}

/// Whoever knows no acts looks at no header.
#[tokio::test]
async fn without_their_header_acts_are_quarantined_whole() {
    let rig = Rig::new();
    let mut told = telling(&[a_pause(1, ActResult::Done)]);
    told.properties.headers.clear();
    let body = told.body.clone();
    recorded(&rig, &[told]).await;
    assert_eq!((rows(&rig), rig.broker.ready("countersign.quarantine")[0].body.clone()), (vec![], body));
}

#[tokio::test]
async fn of_a_forbidden_caller_in_a_loop_ten_rows_a_minute_are_written() {
    let rig = Rig::new();
    let tasks = Tasks::new(Stop::default());
    let audited = forbidden::audited(rig.desk.clone(), tasks.clone());
    let call = |method: &str| {
        let path = format!("/countersign.v1.CallbackService/{method}");
        audited(Forbidden { caller: Caller::unasked(), path, needed: Role::Operator });
    };
    for _ in 0..50 {
        call("ParkDelivery");
        call("ListAudit");
    }
    rig.clock.advance(WINDOW_MS);
    call("ParkDelivery");
    assert!(tasks.drained(std::time::Duration::from_secs(10)).await);
    let entries = rig.audit.all();
    assert_eq!(entries.len(), usize::try_from(ROWS_MAX).unwrap() + 1);
    assert!(entries.iter().all(|entry| (entry.act.as_str(), entry.result) == ("park", ActResult::Refused)), "{entries:?}");
    assert!(entries[10].detail.contains("; 40 more of the same"), "{}", entries[10].detail);
}
