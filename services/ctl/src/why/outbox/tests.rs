use countersign_wire::proto::{Delivery, NewMessage, SendState};

use super::super::explain::explain;
use super::super::known::{Answer, Known};
use super::*;

const ID: &str = "0190b8a0-0000-7000-8000-000000000001";
const NOW: i64 = 1_700_000_000_000;

fn entry(status: OutboxStatus, tries: u32) -> OutboxEntry {
    OutboxEntry { status: status.into(), tries, reason: "NO_ROUTE".into(), due_at_ms: NOW + 60_000 }
}

fn story(entry: OutboxEntry, has_check: bool, deliveries: Vec<Delivery>) -> Story {
    let state = if entry.status() == OutboxStatus::Confirmed { SendState::Confirmed } else { SendState::Committed };
    let message = GetMessageResponse {
        id: ID.into(),
        state: state.into(),
        message: Some(NewMessage::default()),
        required: vec!["audit".into(), "stock".into()],
        sent_at_ms: NOW - 1_000,
        outbox: Some(entry),
        outbox_check: has_check,
        ..GetMessageResponse::default()
    };
    let deliveries = if deliveries.is_empty() { Answer::Unknown } else { Answer::Got(deliveries) };
    explain(&Known { id: ID.into(), message: Answer::Got(message), deliveries, outlook: Answer::Unknown, local_now_ms: NOW })
}

fn told(story: &Story) -> String {
    format!("{:?}", (&story.happened, &story.next, &story.advice))
}

#[test]
fn a_failed_row_waits_for_a_release() {
    let story = story(entry(OutboxStatus::Failed, 4), false, Vec::new());
    let told = told(&story);
    assert!(told.contains("refused it 4 times, the last time: NO_ROUTE") && told.contains("waits for a human"), "{told}");
    assert_eq!(story.advice, [format!("mend the cause, then: countersign outbox release {ID}")]);
}

#[test]
fn a_row_that_is_being_sent_says_when_again() {
    let story = story(entry(OutboxStatus::Sending, 1), false, Vec::new());
    assert_eq!(story.next.iter().map(|next| next.when_ms).collect::<Vec<_>>(), [Some(NOW + 60_000)]);
    assert!(told(&story).contains("has refused it once: NO_ROUTE"), "{story:?}");
}

#[test]
fn an_unchecked_message_that_nobody_has_signed_for_is_not_called_lost() {
    let signed = Delivery { message_id: ID.into(), subscription: "audit".into(), state: "done".into(), ..Delivery::default() };
    for deliveries in [Vec::new(), vec![signed]] {
        let story = story(entry(OutboxStatus::Confirmed, 0), false, deliveries);
        let told = told(&story);
        assert!(!told.contains("lost") && !told.contains("sent again") && told.contains("nobody looks"), "{told}");
        assert!(story.next.iter().any(|next| next.subscription.as_deref() == Some("stock")), "{told}");
    }
}

#[test]
fn a_checked_one_has_its_check() {
    let told = told(&story(entry(OutboxStatus::Confirmed, 0), true, Vec::new()));
    assert!(told.contains("confirmed it and its delayed check") && !told.contains("nobody looks"), "{told}");
}
