//! The story of one message. Pure: everything it says follows from what is known, and it promises no more than the protocol does.

use countersign_wire::proto::{Attempt, Delivery, GetMessageResponse, HistoryLine, SendState};

use super::known::{Answer, Known};
use super::{next, outbox, parked};
use crate::output;

/// What happened, what comes next, and what an operator may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// The message's id.
    pub id: String,
    /// In order, as far as times are kept.
    pub happened: Vec<Happened>,
    /// Message first, then by subscription.
    pub next: Vec<Next>,
    /// What an operator may do, most urgent first; empty: nothing.
    pub advice: Vec<String>,
    /// Who did not answer, and so what is missing here; empty: nothing.
    pub away: Vec<String>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When, milliseconds since the Unix epoch; none: the time is not kept.
    pub at_ms: Option<i64>,
    /// What.
    pub what: String,
}

/// One thing that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// For whom; none: for the message as a whole.
    pub subscription: Option<String>,
    /// What, with its time in words.
    pub what: String,
    /// The time that it names, milliseconds since the Unix epoch, about or at the earliest; none: it names none.
    pub when_ms: Option<i64>,
}

/// Tells the story.
pub fn explain(known: &Known) -> Story {
    let mut story = Story { id: known.id.clone(), happened: happened(known), ..Story::default() };
    let silent = [known.message.away(), known.deliveries.away(), known.outlook.away()];
    story.away.extend(silent.into_iter().flatten().map(str::to_owned));
    match (&known.message, &known.deliveries) {
        (Answer::Unknown, Answer::Unknown) => unknown_to_both(&mut story),
        (Answer::Unknown, Answer::Got(deliveries)) => unknown_to_upstream(deliveries, &mut story),
        (Answer::Unknown, Answer::Away(_)) => story.advice.push(WRONG_UPSTREAM.into()),
        _ => {}
    }
    next::tell(known, &mut story);
    story
}

const WRONG_UPSTREAM: &str =
    "check the id, and that --upstream names the upstream that accepted the message: each knows only its own";

fn unknown_to_both(story: &mut Story) {
    let what = "neither upstream nor callback knows this id: nothing was accepted under it here, or it was settled and deleted after its \
                retention, or its route has mode confirmed, which stores nothing; nothing will happen"
        .into();
    story.next.push(Next { subscription: None, what, when_ms: None });
    story.advice.push(WRONG_UPSTREAM.into());
}

/// Another upstream's message, or one whose row is gone.
fn unknown_to_upstream(deliveries: &[Delivery], story: &mut Story) {
    let name = deliveries.first().map_or("", |delivery| delivery.upstream.as_str());
    story.happened.insert(
        0,
        Happened {
            at_ms: None,
            what: format!("the upstream asked here does not know it, or has deleted it after its retention, or never stored it (mode confirmed); callback knows it as a message of upstream {name}"),
        },
    );
    story.advice.push(format!("ask upstream {name} itself, with --upstream; if its row is gone, it cannot send it again"));
}

fn happened(known: &Known) -> Vec<Happened> {
    let mut told = Vec::new();
    if let Some(message) = known.message.got() {
        told.extend(accepted(message));
    }
    let deliveries = known.deliveries.got().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<(&Delivery, &HistoryLine)> =
        deliveries.iter().flat_map(|delivery| delivery.history.iter().map(move |line| (delivery, line))).collect();
    // Stable: lines of one delivery stay in the order in which they were written.
    lines.sort_by_key(|(_, line)| line.at_ms);
    let most = known.figures().map(|figures| figures.max_resends);
    told.extend(lines.iter().map(|(delivery, line)| Happened { at_ms: Some(line.at_ms), what: history(delivery, line, most) }));
    told.extend(deliveries.iter().filter_map(last_word).map(|what| Happened { at_ms: None, what }));
    told
}

fn accepted(message: &GetMessageResponse) -> [Happened; 2] {
    let sent = message.message.clone().unwrap_or_default();
    let what = format!(
        "upstream stored it: {} for {}/{}, {} bytes, to be signed by {}",
        sent.r#type,
        sent.exchange,
        sent.routing_key,
        message.body_bytes,
        message.required.join(", ")
    );
    let confirmed = match &message.outbox {
        Some(entry) => outbox::outbox_words(entry, message.outbox_check),
        None if message.state() == SendState::Confirmed => "the broker has confirmed it and its delayed check".to_owned(),
        None => "upstream does not know yet that the broker has confirmed it and its delayed check".to_owned(),
    };
    [Happened { at_ms: Some(message.sent_at_ms), what }, Happened { at_ms: None, what: confirmed }]
}

/// One line of a delivery's history as a sentence.
fn history(delivery: &Delivery, line: &HistoryLine, max_resends: Option<u32>) -> String {
    let (who, attempt) = (&delivery.subscription, attempt_words(line.attempt, max_resends));
    if let Some(told) = by_operator(delivery, line, &attempt) {
        return told;
    }
    match (line.what.as_str(), line.detail.as_str()) {
        ("resending", "unknown_id") => {
            format!(
                "upstream {} answered that it does not know the id; the order for {who} stays open ({attempt})",
                delivery.upstream
            )
        }
        ("resending", _) => format!("callback ordered it sent again to {who}: {attempt}"),
        ("resent", _) => format!("upstream {} published it again to {who}, with a new check: {attempt}", delivery.upstream),
        ("parked", reason) => format!("callback left it for a human, for {who}: {} ({attempt})", parked::reason_words(reason)),
        ("done", _) => format!("{who} signed it as done ({attempt})"),
        ("failed", detail) => format!("{who} signed that it failed: {detail} ({attempt})"),
        (what, detail) => format!("{who}: {what} {detail} ({attempt})"),
    }
}

/// A line that an operator's act has left; its detail names the operator.
fn by_operator(delivery: &Delivery, line: &HistoryLine, attempt: &str) -> Option<String> {
    let (who, note) = (&delivery.subscription, line.detail.as_str());
    let (deed, note) = match line.what.as_str() {
        "resending" => (format!("had it sent again to {who}"), note.strip_prefix("redriven")?.trim_start()),
        "parked" if note.starts_with("by ") => (format!("parked it for {who}"), note),
        word @ ("discarded" | "restored") => (format!("{word} it for {who}"), note),
        _ => return None,
    };
    let note = if note.is_empty() { String::new() } else { format!(", {note}") };
    Some(format!("an operator {deed}{note} ({attempt})"))
}

/// `attempt 2, resend 1 of 3`.
pub fn attempt_words(attempt: Option<Attempt>, max_resends: Option<u32>) -> String {
    let Attempt { number, .. } = attempt.unwrap_or_default();
    let words = format!("attempt {}", output::attempt(attempt));
    match (number.saturating_sub(1), max_resends) {
        (0, _) => words,
        (resend, Some(most)) => format!("{words}, resend {resend} of {most}"),
        (resend, None) => format!("{words}, resend {resend}"),
    }
}

/// What the subscription said last, where history has no line for it: the straight way leaves none.
fn last_word(delivery: &Delivery) -> Option<String> {
    let who = &delivery.subscription;
    let attempt = attempt_words(delivery.attempt, None);
    let noted = |what: &str| delivery.history.iter().any(|line| line.what == what);
    match delivery.state.as_str() {
        "done" if !noted("done") => Some(format!("{who} has signed it as done ({attempt}; the time is not kept)")),
        "failed" if !noted("failed") => {
            Some(format!("{who} has signed that it failed: {} ({attempt}; the time is not kept)", delivery.reason))
        }
        "parked" | "discarded" if !delivery.reason.is_empty() => {
            Some(format!("{who} is {}: {}", delivery.state, delivery.reason))
        }
        "processing" => Some(format!("{who} has said that it holds it ({attempt})")),
        "retrying" => {
            let why = if delivery.reason.is_empty() { String::new() } else { format!(": {}", delivery.reason) };
            Some(format!("{who} put it back for another try{why} ({attempt})"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
