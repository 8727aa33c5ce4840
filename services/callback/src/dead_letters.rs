//! Dead letters in MSG DB, as an operator finds them ([`search`]) and deals with them: sent to their work queue again, or discarded ([`act`]).
//!
//! **Invariant:** a dead letter comes to be handled again only through the work queue, and so through the guard.

pub mod act;
mod redrive;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Delivered, Handle, Properties};
use countersign_delivery::ports::dead_letters::{Filter as Stored, Letter};
use countersign_delivery::routing::ExchangeKind;
use countersign_wire::dead_letter::packed::unpack;
use countersign_wire::dead_letter::{self, DeadLetter};

use crate::desk::Desk;

/// Letters that are read at a time while a pattern is looked for.
const STEP: usize = 500;
/// Most letters that one call looks at; the next page goes on from there.
const LOOKED_AT_MAX: usize = 10_000;

/// Which letters an operator means: what MSG DB can tell, and a pattern, which it cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What MSG DB can tell.
    pub stored: Stored,
    /// Original routing key; `*` stands for one word, `#` for any number; empty: any.
    pub routing_key: String,
}

impl Filter {
    /// Whether it selects everything of its place and state.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let Stored { place, states, .. } = self.stored.clone();
        *self == Self { stored: Stored { place, states, ..Stored::default() }, routing_key: String::new() }
    }

    fn matches(&self, read: &DeadLetter) -> bool {
        let (none, no_header) = (BTreeMap::new(), BTreeMap::new());
        self.routing_key.is_empty() || ExchangeKind::Topic.matches(&self.routing_key, &none, &read.routing_key, &no_header)
    }
}

/// Words of a filter by what is known of them.
///
/// # Errors
/// The first word that is unknown, with those that are known.
pub fn known_words(what: &str, words: &[String], known: &[&'static str]) -> Result<BTreeSet<&'static str>, String> {
    let read = |word: &String| {
        let found = known.iter().find(|known| *known == word).copied();
        found.ok_or_else(|| format!("{what} {word:?} is none of {}", known.join(", ")))
    };
    words.iter().map(read).collect()
}

/// A letter, and what can be read of it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// As it is kept.
    pub letter: Letter,
    /// As it can be read.
    pub read: DeadLetter,
    /// The copy, without its body.
    pub delivered: Delivered,
}

fn open(letter: Letter) -> Opened {
    let delivered = unpack(&letter.packed, Bytes::new()).unwrap_or_else(|error| {
        tracing::error!(number = letter.number, %error, "a dead letter in MSG DB is not what callback has stored there");
        let handle = Handle { generation: 0, tag: 0 };
        let (exchange, routing_key, properties) = (String::new(), String::new(), Properties::default());
        Delivered { handle, exchange, routing_key, redelivered: false, properties, body: Bytes::new() }
    });
    let body_bytes = usize::try_from(letter.body_bytes).unwrap_or(usize::MAX);
    let read = DeadLetter { body_bytes, ..dead_letter::read(&delivered) };
    Opened { letter, read, delivered }
}

/// Some letters, and where to go on.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the order in which they were taken in.
    pub letters: Vec<Opened>,
    /// The number after which there may be more; none: there is no more.
    pub next: Option<u64>,
}

/// Up to `size` letters with numbers above `after`. It may be fewer, even none, although there are more.
///
/// # Errors
/// [`PortError`] of MSG DB.
pub async fn search(desk: &Desk, filter: &Filter, mut after: u64, size: usize) -> Result<Page, PortError> {
    let step = if filter.routing_key.is_empty() { size.saturating_add(1) } else { STEP };
    let limit = u32::try_from(step).unwrap_or(u32::MAX);
    let (mut letters, mut looked_at) = (Vec::new(), 0);
    loop {
        let found = desk.letters.list(&filter.stored, after, limit).await?;
        let is_last = found.len() < step;
        for letter in found {
            if letters.len() >= size || looked_at >= LOOKED_AT_MAX {
                return Ok(Page { letters, next: Some(after) });
            }
            (after, looked_at) = (letter.number, looked_at + 1);
            let opened = open(letter);
            if filter.matches(&opened.read) {
                letters.push(opened);
            }
        }
        if is_last {
            return Ok(Page { letters, next: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::FailReason;
    use countersign_delivery::ports::dead_letters::{Place, State};

    use super::*;

    fn read(routing_key: &str) -> DeadLetter {
        let state = State::Open;
        let packed = format!("{{\"exchange\":\"orders\",\"routing_key\":\"{routing_key}\",\"headers\":{{}}}}");
        let taken_in_at = countersign_delivery::Timestamp::from_millis(1);
        open(Letter { number: 1, subscription: None, packed, body_bytes: 7, taken_in_at, state }).read
    }

    #[test]
    fn a_pattern_matches_as_a_topic_exchange_does() {
        let rows = [("", true), ("order.#", true), ("order.*.eu", true), ("order.*", false), ("stock.#", false)];
        for (pattern, expected) in rows {
            let filter = Filter { routing_key: pattern.into(), ..Filter::default() };
            assert_eq!(filter.matches(&read("order.created.eu")), expected, "{pattern}");
        }
        assert_eq!(read("a").body_bytes, 7);
    }

    #[test]
    fn what_cannot_be_unpacked_is_shown_empty_and_holds_nobody_up() {
        let (packed, taken_in_at) = ("?".to_owned(), countersign_delivery::Timestamp::from_millis(1));
        let opened = open(Letter { number: 1, subscription: None, packed, body_bytes: 0, taken_in_at, state: State::Open });
        assert_eq!(opened.read.message_id, "");
    }

    #[test]
    fn place_and_state_alone_select_everything() {
        let stored = Stored { place: Place::Quarantine, states: ["open"].into(), ..Stored::default() };
        assert!(Filter { stored: stored.clone(), routing_key: String::new() }.is_open());
        assert!(!Filter { stored: stored.clone(), routing_key: "#".into() }.is_open());
        assert!(!Filter { stored: Stored { kind: "x".into(), ..stored }, routing_key: String::new() }.is_open());
    }

    #[test]
    fn an_unknown_word_is_named_with_the_known_ones() {
        let known = FailReason::ALL.map(FailReason::as_str);
        let wrong = known_words("reason", &["rejected".into(), "dead".into()], &known).expect_err("no such reason");
        assert!(wrong.contains("\"dead\"") && wrong.contains("retries_exhausted"), "{wrong}");
        assert_eq!(known_words("reason", &["poison".into()], &known), Ok(["poison"].into()));
    }
}
