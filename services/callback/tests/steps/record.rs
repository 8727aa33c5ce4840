use countersign_callback::record::{Outcome, record};
use countersign_delivery::Outcome as Signed;
use countersign_delivery::ports::broker::HeaderValue;
use countersign_delivery::ports::deliveries::Deliveries as _;
use countersign_delivery::receipt::{FailReason, Receipt, ReceiptBatch};
use countersign_delivery::state;
use countersign_delivery::{Fingerprint, Timestamp};
use countersign_testkit::build::{a_message, a_message_with, a_receipt, a_receipt_of, subscription};
use countersign_wire::receipts;

use crate::rig::{Rig, delivered, key};

pub fn batch(receipts: Vec<Receipt>) -> bytes::Bytes {
    receipts::encode(&ReceiptBatch { receipts, probes: Vec::new() })
}

#[tokio::test]
async fn receipts_of_several_deliveries_are_written_down() {
    let rig = Rig::new();
    let other = a_message_with(2, "other");
    let processing = a_receipt_of(&other, &subscription("inventory"), Signed::Processing { lease_ms: 500 });
    let given = [delivered(batch(vec![a_receipt(Signed::Done), processing])), delivered(batch(vec![a_receipt(Signed::Done)]))];
    assert!(matches!(record(&rig.desk, &given).await, Outcome::Recorded));
    assert!(rig.row(&a_message()).unwrap().is_done());
    let row = rig.row(&other).unwrap();
    assert_eq!(row.live_until, Some(Timestamp::from_millis(rig.desk.clock.now().as_millis() + 500)));
    assert!(rig.broker.published().is_empty());
}

#[tokio::test]
async fn while_the_database_is_away_every_delivery_is_held_and_later_recorded() {
    let rig = Rig::new();
    let given = [delivered(batch(vec![a_receipt(Signed::Done)])), delivered(batch(vec![]))];
    rig.deliveries.go_down();
    let outcome = record(&rig.desk, &given).await;
    assert!(matches!(outcome, Outcome::Held { ref positions, .. } if positions == &[0, 1]), "{outcome:?}");
    rig.deliveries.come_up();
    assert!(matches!(record(&rig.desk, &given).await, Outcome::Recorded));
    assert!(rig.row(&a_message()).unwrap().is_done());
}

#[tokio::test]
async fn a_lost_answer_of_the_database_costs_nothing_but_a_repetition() {
    let rig = Rig::new();
    let given = [delivered(batch(vec![a_receipt(Signed::Done)]))];
    rig.deliveries.lose_answers(1);
    assert!(matches!(record(&rig.desk, &given).await, Outcome::Held { .. }));
    assert!(matches!(record(&rig.desk, &given).await, Outcome::Recorded));
    assert!(rig.row(&a_message()).unwrap().is_done());
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_quarantine_with_the_reason_and_its_neighbours_are_recorded() {
    let rig = Rig::new();
    let given = [delivered("not protobuf".into()), delivered(batch(vec![a_receipt(Signed::Done)]))];
    assert!(matches!(record(&rig.desk, &given).await, Outcome::Recorded));
    assert!(rig.row(&a_message()).unwrap().is_done());
    let quarantined = rig.broker.ready("countersign.quarantine");
    assert_eq!(quarantined.len(), 1);
    assert_eq!(&quarantined[0].body[..], b"not protobuf");
    let headers = &quarantined[0].properties.headers;
    let detail = headers.get("countersign-dead-detail").and_then(HeaderValue::as_text).unwrap();
    assert!(detail.contains("cannot be decoded"), "{detail}");
}

#[tokio::test]
async fn an_unknown_version_goes_to_quarantine() {
    let rig = Rig::new();
    let wire = countersign_wire::proto::ReceiptBatch { version: 7, ..Default::default() };
    let body = prost_bytes(&wire);
    assert!(matches!(record(&rig.desk, &[delivered(body)]).await, Outcome::Recorded));
    assert_eq!(rig.broker.depth("countersign.quarantine"), 1);
}

/// Protobuf's first field, a varint: enough for a version.
fn prost_bytes(batch: &countersign_wire::proto::ReceiptBatch) -> bytes::Bytes {
    vec![8, u8::try_from(batch.version).unwrap()].into()
}

#[tokio::test]
async fn without_a_confirmed_copy_in_quarantine_the_original_is_held() {
    let rig = Rig::new();
    rig.broker.nack_next(1);
    let given = [delivered(batch(vec![a_receipt(Signed::Done)])), delivered("junk".into())];
    let outcome = record(&rig.desk, &given).await;
    assert!(matches!(outcome, Outcome::Held { ref positions, .. } if positions == &[1]), "{outcome:?}");
    assert!(rig.row(&a_message()).unwrap().is_done());
}

#[tokio::test]
async fn a_conflict_touches_no_delivery() {
    let rig = Rig::new();
    let conflict = Signed::Failed { reason: FailReason::Conflict, detail: String::new() };
    rig.sign(vec![a_receipt(conflict)]).await;
    assert_eq!(rig.row(&a_message()), None);
}

#[tokio::test]
async fn an_impostors_receipt_does_not_sign_for_the_genuine_message() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 1 })]).await;
    let forged = Receipt { fingerprint: Fingerprint::of("a", "b", b"c"), ..a_receipt(Signed::Done) };
    rig.sign(vec![forged]).await;
    assert!(!rig.row(&a_message()).unwrap().is_done());
}

#[tokio::test]
async fn signed_probes_are_noted() {
    let rig = Rig::new();
    rig.look(&countersign_testkit::build::a_check()).await;
    rig.answer_probe(1).await;
    let probes = rig.deliveries.probes(&[crate::rig::lane(None)]).await.unwrap().remove(0);
    assert!(probes[0].answered_at.is_some());
}

#[tokio::test]
async fn a_receipt_in_json_counts_like_any_other() {
    let rig = Rig::new();
    let message = a_message();
    let text = format!(
        r#"{{"message_id":"{}","subscription":"inventory","upstream":"shop","fingerprint":"{}","sent_at_ms":{},"outcome":"done"}}"#,
        message.id,
        message.fingerprint.to_hex(),
        message.sent_at.as_millis()
    );
    let mut one = delivered(text.into_bytes().into());
    one.properties.content_type = Some("application/json; charset=utf-8".into());
    assert!(matches!(record(&rig.desk, &[one]).await, Outcome::Recorded));
    assert!(rig.row(&message).unwrap().is_done());
}

#[tokio::test]
async fn a_signers_endless_text_and_endless_lease_are_cut() {
    let rig = Rig::new();
    let detail = format!("line one\0\n{}", "ä".repeat(2_000));
    rig.sign(vec![a_receipt(Signed::Failed { reason: FailReason::Rejected, detail })]).await;
    let state::Signed::Failed { detail, .. } = rig.row(&a_message()).unwrap().signed else { panic!("not failed") };
    assert!(detail.len() <= 500 && !detail.contains(char::is_control) && detail.starts_with("line one  ä"), "{detail}");
    let other = a_message_with(2, "other");
    let endless = Signed::Processing { lease_ms: u64::MAX };
    rig.sign(vec![a_receipt_of(&other, &subscription("inventory"), endless)]).await;
    let until = rig.deliveries.row(&key(&other, "inventory")).unwrap().live_until.unwrap();
    assert!(until < Timestamp::from_millis(i64::MAX / 2));
}
