//! A row of mode `outbox` in words. Pure.

use countersign_wire::proto::{GetMessageResponse, OutboxEntry, OutboxStatus};

use super::explain::{Next, Story};
use super::span;

/// How it stands.
pub fn outbox_words(entry: &OutboxEntry, has_check: bool) -> String {
    let refused = match entry.tries {
        0 => String::new(),
        1 => format!(", and has refused it once: {}", entry.reason),
        tries => format!(", and has refused it {tries} times, the last time: {}", entry.reason),
    };
    match entry.status() {
        OutboxStatus::Confirmed if has_check => "the broker has confirmed it and its delayed check".to_owned(),
        OutboxStatus::Confirmed => {
            "the broker has confirmed it; it has no delayed check, so nobody looks whether it is signed for".to_owned()
        }
        OutboxStatus::Failed => format!("the broker refused it {} times, the last time: {}", entry.tries, entry.reason),
        OutboxStatus::Sending | OutboxStatus::Unspecified => format!("the broker has not confirmed it yet{refused}"),
    }
}

/// What comes for the message as a whole while the broker has not confirmed it.
pub(super) fn tell(message: &GetMessageResponse, entry: &OutboxEntry, now_ms: i64, story: &mut Story) {
    if entry.status() == OutboxStatus::Failed {
        let what = "nothing by itself: it waits for a human, and the broker does not have it".to_owned();
        story.next.push(Next { subscription: None, what, when_ms: None });
        story.advice.push(format!("mend the cause, then: countersign outbox release {}", message.id));
        return;
    }
    let what = format!(
        "upstream publishes it again when the broker is back, and any upstream of the same name about {}, unless the broker confirms it \
         before",
        span::at(entry.due_at_ms, now_ms)
    );
    story.next.push(Next { subscription: None, what, when_ms: Some(entry.due_at_ms) });
    story.advice.push("if it stays so: look at the broker, and at /health/ready of upstream".into());
}

/// What is known of a subscription that has not signed for a message without a check.
pub(super) fn tell_unchecked(subscription: &str, story: &mut Story) {
    let what = "nothing is known: it has not signed yet, and without a delayed check nobody looks whether it does".to_owned();
    story.next.push(Next { subscription: Some(subscription.to_owned()), what, when_ms: None });
}

#[cfg(test)]
mod tests;
