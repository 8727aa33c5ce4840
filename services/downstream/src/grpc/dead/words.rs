//! Between the wire and what dead letters are here.

use bytes::Bytes;
use countersign_delivery::{Attempt, MessageId, Timestamp};
use countersign_wire::dead_letter::DeadLetter;
use countersign_wire::history::{Entry, What};
use countersign_wire::proto;
use countersign_wire::proto::dead_letter_event::Kind as Told;
use countersign_wire::proto::{
    DeadLetterActSummary, DeadLetterEvent, DeadLetterFilter, DeadLetterOutcome, DeadLetterResult, DeadLetterScan, DeadLetterTry,
};
use tonic::Status;

use crate::dead_letters::act::{Event, Outcome, Summary};
use crate::dead_letters::filter::Filter;
use crate::dead_letters::{Listed, Queue};

/// What a filter says beside its queue.
pub(super) fn filter(filter: DeadLetterFilter) -> Result<Filter, Status> {
    let time = |millis: i64| (millis != 0).then(|| Timestamp::from_millis(millis));
    Ok(Filter {
        reasons: Filter::reasons(&filter.reasons).map_err(Status::invalid_argument)?,
        kind: filter.r#type,
        message_ids: filter.message_ids.into_iter().collect(),
        upstream: filter.upstream,
        routing_key: filter.routing_key,
        died_after: time(filter.died_after_ms),
        died_before: time(filter.died_before_ms),
    })
}

/// Whether this can be the id of a message at all.
pub(super) fn checked_id(id: &str) -> Result<(), Status> {
    MessageId::parse(id).map(|_| ()).map_err(|error| Status::invalid_argument(format!("message_id: {error}")))
}

pub(super) fn not_found(filter: &Filter, queue: &Queue, listed: &Listed) -> Status {
    let ids = filter.message_ids.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let Listed { ready, seen, .. } = listed;
    let not_all = listed.partial.as_ref().map(|why| format!(" Not all of it was seen: {why}.")).unwrap_or_default();
    Status::not_found(format!("no letter of message {ids} in {}: {seen} of {ready} were looked at.{not_all}", queue.name))
}

pub(super) fn scan(listed: &Listed) -> DeadLetterScan {
    let Listed { ready, seen, matched, partial, .. } = listed;
    DeadLetterScan { ready: *ready, seen: *seen, matched: *matched, partial: partial.clone().unwrap_or_default() }
}

/// A letter without its body.
pub(super) fn letter(letter: DeadLetter) -> proto::DeadLetter {
    let millis = |time: Option<Timestamp>| time.map_or(0, Timestamp::as_millis);
    proto::DeadLetter {
        message_id: letter.message_id,
        upstream: letter.upstream,
        r#type: letter.kind,
        content_type: letter.content_type,
        fingerprint: letter.fingerprint,
        attempt: Some(attempt(letter.attempt)),
        retries: letter.retries,
        sent_at_ms: millis(letter.sent_at),
        exchange: letter.exchange,
        routing_key: letter.routing_key,
        headers: letter.headers.into_iter().collect(),
        reason: letter.reason,
        detail: letter.detail,
        died_at_ms: millis(letter.died_at),
        died_by: letter.died_by,
        history: letter.history.entries.into_iter().map(line).collect(),
        history_left_out: letter.history.left_out,
        body_bytes: u64::try_from(letter.body_bytes).unwrap_or(u64::MAX),
        body: Bytes::new(),
    }
}

const fn attempt(attempt: Attempt) -> proto::Attempt {
    proto::Attempt { epoch: attempt.epoch, number: attempt.number }
}

fn line(entry: Entry) -> DeadLetterTry {
    let (what, delay_ms, reason, by) = match entry.what {
        What::Retried { delay_ms } => ("retried", delay_ms, String::new(), String::new()),
        What::Died { reason, by } => ("died", 0, reason, by),
        What::Redriven { by } => ("redriven", 0, String::new(), by),
    };
    DeadLetterTry {
        at_ms: entry.at.as_millis(),
        attempt: Some(attempt(entry.attempt)),
        what: what.to_owned(),
        delay_ms,
        reason,
        by,
        detail: entry.detail,
    }
}

/// What an act tells.
pub(super) fn event(event: Event) -> DeadLetterEvent {
    let told = match event {
        Event::Letter { message_id, outcome } => Told::Result(result(message_id, outcome)),
        Event::End(summary) => Told::Summary(self::summary(summary)),
    };
    DeadLetterEvent { kind: Some(told) }
}

fn result(message_id: String, outcome: Outcome) -> DeadLetterResult {
    let (outcome, detail, epoch) = match outcome {
        Outcome::Redriven(epoch) => (DeadLetterOutcome::Redriven, String::new(), epoch),
        Outcome::Discarded => (DeadLetterOutcome::Discarded, String::new(), 0),
        Outcome::Refused(why) => (DeadLetterOutcome::Refused, why, 0),
        Outcome::NotConfirmed(how) => (DeadLetterOutcome::NotConfirmed, how, 0),
        Outcome::Selected(epoch) => (DeadLetterOutcome::Selected, String::new(), epoch.unwrap_or(0)),
    };
    DeadLetterResult { message_id, outcome: outcome.into(), detail, epoch }
}

fn summary(summary: Summary) -> DeadLetterActSummary {
    let Summary { ready, seen, matched, partial, done, not_done, left, stopped } = summary;
    let scan = DeadLetterScan { ready, seen, matched, partial: partial.unwrap_or_default() };
    DeadLetterActSummary { scan: Some(scan), done, not_done, left, stopped: stopped.unwrap_or_default() }
}
