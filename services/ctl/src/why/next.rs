//! What comes next: for the message as a whole, and for each subscription by where its delivery stands. Pure.

use countersign_wire::proto::{Delivery, SendState};

use super::explain::{Next, Story, attempt_words};
use super::known::{Answer, Known};
use super::{outbox, parked, span, waiting};

/// Adds what comes, and what an operator may do about it.
pub(super) fn tell(known: &Known, story: &mut Story) {
    let committed = known.message.got().is_some_and(|message| message.state() == SendState::Committed);
    if committed {
        match known.message.got().and_then(|message| Some((message, message.outbox.as_ref()?))) {
            Some((message, entry)) => outbox::tell(message, entry, known.now_ms(), story),
            None => of_committed(story),
        }
    }
    match (&known.deliveries, &known.message) {
        (Answer::Away(_), _) => of_callback_away(story),
        (Answer::Unknown, Answer::Away(_)) => of_upstream_away(story),
        _ => of_subscriptions(known, committed, story),
    }
}

/// Stored, and not settled as far as upstream knows.
fn of_committed(story: &mut Story) {
    let what = "upstream goes on publishing it and its check until the broker has confirmed both; if that upstream process has ended, \
                another one of the same name takes over what it left";
    story.next.push(Next { subscription: None, what: what.into(), when_ms: None });
    story.advice.push("if it stays so: look at the broker, and at /health/ready of upstream".into());
}

fn of_callback_away(story: &mut Story) {
    let what = "who has signed is not known here; receipts and checks wait in their queues until callback takes them";
    story.next.push(Next { subscription: None, what: what.into(), when_ms: None });
    story.advice.push("start callback, or name its address with --callback; then ask again".into());
}

fn of_upstream_away(story: &mut Story) {
    let what = "callback knows nothing of it: nobody has signed, and no resend was ordered; whether it was accepted at all only its \
                upstream can say";
    story.next.push(Next { subscription: None, what: what.into(), when_ms: None });
    story.advice.push("start upstream, or name its address with --upstream; then ask again".into());
}

fn of_subscriptions(known: &Known, committed: bool, story: &mut Story) {
    let subscriptions = known.subscriptions();
    let is_done = |name: &str| known.delivery(name).is_some_and(|delivery| delivery.state == "done");
    if known.message.got().is_some() && !subscriptions.is_empty() && subscriptions.iter().all(|name| is_done(name)) {
        let what = "it is done everywhere: nothing more will happen".to_owned();
        story.next.push(Next { subscription: None, what, when_ms: None });
        return;
    }
    for name in subscriptions {
        match known.delivery(name) {
            Some(delivery) => of_delivery(known, delivery, story),
            // Before the broker has it, nobody can sign and no check is under way.
            None if committed => {}
            None if known.is_unchecked() => outbox::tell_unchecked(name, story),
            None => waiting::tell(known, name, None, story),
        }
    }
}

/// By the delivery's state.
fn of_delivery(known: &Known, delivery: &Delivery, story: &mut Story) {
    let live = delivery.live_until_ms > known.now_ms();
    match delivery.state.as_str() {
        "done" => push(story, delivery, "nothing more: it has signed".into(), None),
        "parked" => of_parked(known, delivery, story),
        "discarded" => of_discarded(known, delivery, story),
        "failed" => of_failed(known, delivery, story),
        "retrying" | "processing" | "resending" if live => of_live(known, delivery, story),
        "resending" => of_order(known, delivery, story),
        "retrying" | "processing" | "resent" => waiting::tell(known, &delivery.subscription, Some(delivery), story),
        other => push(story, delivery, format!("callback calls it {other}, which this command does not know: update it"), None),
    }
}

fn push(story: &mut Story, delivery: &Delivery, what: String, when_ms: Option<i64>) {
    story.next.push(Next { subscription: Some(delivery.subscription.clone()), what, when_ms });
}

fn of_parked(known: &Known, delivery: &Delivery, story: &mut Story) {
    let most = known.figures().map(|figures| figures.max_resends);
    let what = format!(
        "nothing by itself: it is left for a human after {}, because {}",
        attempt_words(delivery.attempt, most),
        parked::reason_words(&delivery.reason)
    );
    push(story, delivery, what, None);
    story.advice.push(parked::advice(&known.id, &delivery.subscription, &delivery.reason, known.is_expired(Some(delivery))));
}

fn of_discarded(known: &Known, delivery: &Delivery, story: &mut Story) {
    let what = "nothing: an operator has discarded it; a late receipt would still resolve it".to_owned();
    push(story, delivery, what, None);
    let (id, who) = (&known.id, &delivery.subscription);
    story.advice.push(format!("if it is wanted after all: countersign restore {id} --subscription {who}"));
}

/// Its consumer gave up, and callback has not met it yet.
fn of_failed(known: &Known, delivery: &Delivery, story: &mut Story) {
    let look = known.figures().map(|figures| waiting::next_look(known, Some(delivery), figures));
    let about = look.map_or_else(String::new, |at| format!(", about {}", span::at(at, known.now_ms())));
    let what = format!("callback leaves it for a human at its next check{about}: {}", parked::reason_words(&delivery.reason));
    push(story, delivery, what, look);
    story.advice.push(parked::advice(&known.id, &delivery.subscription, &delivery.reason, known.is_expired(Some(delivery))));
}

/// A consumer has it, or a retry tier.
fn of_live(known: &Known, delivery: &Delivery, story: &mut Story) {
    let until = delivery.live_until_ms;
    let at = span::at(until, known.now_ms());
    let what = match (delivery.state.as_str(), delivery.retry_delay_ms) {
        ("retrying", 0) => format!("it waits in a retry tier and comes again about {at}"),
        ("retrying", tier) => format!("it waits in the retry tier of {} and comes again about {at}", span::words(tier)),
        ("resending", _) => {
            format!("a resend is ordered, but its consumer has spoken since: callback believes that until {at}, and waits")
        }
        _ => format!("a live consumer holds it: callback believes that until {at}, or longer if it says so again"),
    };
    push(story, delivery, what, Some(until));
}

/// An order to send again is open.
fn of_order(known: &Known, delivery: &Delivery, story: &mut Story) {
    let most = known.figures().map(|figures| figures.max_resends);
    let (attempt, upstream) = (attempt_words(delivery.attempt, most), &delivery.upstream);
    let ordered = delivery.history.iter().rev().find(|line| line.what == "resending");
    let again = ordered.zip(known.figures()).map(|(line, figures)| {
        // Upstream answered "unknown id": the order is nobody's any more, and is repeated at the next look.
        let lease_ms = if line.detail == "unknown_id" { 0 } else { figures.resend_lease_ms };
        span::later(line.at_ms, lease_ms)
    });
    let now = known.now_ms();
    let (when, when_ms) = match again {
        Some(at) if at > now => (format!(", at the earliest {}", span::at(at, now)), Some(at)),
        _ => (" at callback's next look".to_owned(), None),
    };
    let what = format!(
        "callback has ordered it from upstream {upstream} as {attempt} and has no answer yet; the same order is repeated{when}, \
         and no attempt is spent by that"
    );
    push(story, delivery, what, when_ms);
    if when_ms.is_none() {
        story.advice.push(format!("check that upstream {upstream} runs, and that callback can reach it (callback.upstreams)"));
    }
}
