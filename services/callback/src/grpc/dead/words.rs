//! Between the wire and what dead letters are here.

use bytes::Bytes;
use countersign_delivery::ports::dead_letters::{Closing, Filter as Stored, Place, State};
use countersign_delivery::{Attempt, FailReason, Fingerprint, Timestamp};
use countersign_wire::history::{Entry, What};
use countersign_wire::proto;
use countersign_wire::proto::dead_letter_event::Kind as Told;
use countersign_wire::proto::{
    DeadLetterActSummary, DeadLetterEvent, DeadLetterFilter, DeadLetterOutcome, DeadLetterResult, DeadLetterTry,
};
use tonic::Status;

use crate::dead_letters::act::{Event, Outcome, Summary};
use crate::dead_letters::{Filter, Opened, known_words};

/// The words of every state.
pub(super) const ALL_STATES: [&str; 4] = State::WORDS;
/// Leads every page token; another form gets another letter.
const FORM: &str = "d";
/// Hexadecimal digits that stand for the filter.
const FILTER_DIGITS: usize = 8;

/// What a filter says beside its place.
pub(super) fn filter(filter: DeadLetterFilter, place: Place) -> Result<Filter, Status> {
    let time = |millis: i64| (millis != 0).then(|| Timestamp::from_millis(millis));
    let states = known_words("state", &filter.states, &ALL_STATES).map_err(Status::invalid_argument)?;
    let reasons = known_words("reason", &filter.reasons, &FailReason::ALL.map(FailReason::as_str));
    let stored = Stored {
        place,
        states: if states.is_empty() { [State::Open.as_str()].into() } else { states },
        reasons: reasons.map_err(Status::invalid_argument)?,
        kind: filter.r#type,
        message_ids: filter.message_ids.into_iter().collect(),
        upstream: filter.upstream,
        died_after: time(filter.died_after_ms),
        died_before: time(filter.died_before_ms),
    };
    Ok(Filter { stored, routing_key: filter.routing_key })
}

/// The token of the page after a number.
pub(super) fn token(number: u64, filter: &Filter) -> String {
    format!("{FORM}{}{number:x}", filter_digits(filter))
}

/// The number that a token names; 0 for the empty token.
pub(super) fn after(token: &str, filter: &Filter) -> Result<u64, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    let wrong =
        || Status::invalid_argument("page_token: not a token of ListDeadLetters; give the next_page_token of the page before");
    let rest = token.strip_prefix(FORM).filter(|rest| rest.is_ascii() && rest.len() > FILTER_DIGITS).ok_or_else(wrong)?;
    let (digits, number) = rest.split_at(FILTER_DIGITS);
    if digits != filter_digits(filter) {
        return Err(Status::invalid_argument("page_token: belongs to another filter; keep the filter from page to page"));
    }
    u64::from_str_radix(number, 16).map_err(|_| wrong())
}

fn filter_digits(filter: &Filter) -> String {
    let mut digits = Fingerprint::of("page", &filter.routing_key, format!("{:?}", filter.stored).as_bytes()).to_hex();
    digits.truncate(FILTER_DIGITS);
    digits
}

/// A letter without its body.
pub(super) fn letter(Opened { letter, read, .. }: Opened) -> proto::DeadLetter {
    let millis = |time: Option<Timestamp>| time.map_or(0, Timestamp::as_millis);
    let state = letter.state.as_str().to_owned();
    let (closing, closed_at) = match letter.state {
        State::Closed { closing, at } => (Some(closing), Some(at)),
        State::Open | State::Settled => (None, None),
    };
    let Closing { by: closed_by, reason: closed_reason, epoch } =
        closing.unwrap_or(Closing { by: String::new(), reason: String::new(), epoch: None });
    proto::DeadLetter {
        message_id: read.message_id,
        upstream: read.upstream,
        r#type: read.kind,
        content_type: read.content_type,
        fingerprint: read.fingerprint,
        attempt: Some(attempt(read.attempt)),
        retries: read.retries,
        sent_at_ms: millis(read.sent_at),
        exchange: read.exchange,
        routing_key: read.routing_key,
        headers: read.headers.into_iter().collect(),
        reason: read.reason,
        detail: read.detail,
        died_at_ms: millis(read.died_at),
        died_by: read.died_by,
        history: read.history.entries.into_iter().map(line).collect(),
        history_left_out: read.history.left_out,
        body_bytes: letter.body_bytes,
        body: Bytes::new(),
        subscription: letter.subscription.map(|name| name.to_string()).unwrap_or_default(),
        state,
        taken_in_at_ms: letter.taken_in_at.as_millis(),
        closed_at_ms: millis(closed_at),
        closed_by,
        closed_reason,
        redriven_epoch: epoch.unwrap_or(0),
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
        Event::End(Summary { done, not_done, more, stopped }) => {
            Told::Summary(DeadLetterActSummary { done, not_done, more, stopped: stopped.unwrap_or_default() })
        }
    };
    DeadLetterEvent { kind: Some(told) }
}

fn result(message_id: String, outcome: Outcome) -> DeadLetterResult {
    let (outcome, detail, epoch) = match outcome {
        Outcome::Redriven(epoch) => (DeadLetterOutcome::Redriven, String::new(), epoch),
        Outcome::Discarded => (DeadLetterOutcome::Discarded, String::new(), 0),
        Outcome::AlreadyDone => (DeadLetterOutcome::AlreadyDone, String::new(), 0),
        Outcome::Refused(why) => (DeadLetterOutcome::Refused, why, 0),
        Outcome::NotConfirmed(how) => (DeadLetterOutcome::NotConfirmed, how, 0),
        Outcome::Selected(epoch) => (DeadLetterOutcome::Selected, String::new(), epoch.unwrap_or(0)),
    };
    DeadLetterResult { message_id, outcome: outcome.into(), detail, epoch }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_a_number_and_belongs_to_its_filter() {
        let open = filter(DeadLetterFilter::default(), Place::Quarantine).unwrap();
        let other = Filter { routing_key: "#".into(), ..open.clone() };
        for number in [1, 255, u64::MAX] {
            assert_eq!(after(&token(number, &open), &open).unwrap(), number);
        }
        assert_eq!(after("", &open).unwrap(), 0);
        for wrong in [token(1, &other), "d".into(), "x0123456701".into(), format!("{}z", token(1, &open)), "ä".into()] {
            assert_eq!(after(&wrong, &open).unwrap_err().code(), tonic::Code::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn without_a_word_the_open_ones_are_meant() {
        let states = |words: &[&str]| {
            let states = words.iter().map(|word| (*word).to_owned()).collect();
            filter(DeadLetterFilter { states, ..DeadLetterFilter::default() }, Place::Anywhere)
        };
        assert_eq!(states(&[]).unwrap().stored.states, ["open"].into());
        assert_eq!(states(&["settled", "open"]).unwrap().stored.states, ["open", "settled"].into());
        assert!(states(&["lost"]).unwrap_err().message().contains("redriven"));
    }
}
