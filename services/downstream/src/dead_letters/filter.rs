//! Which dead letters an operator means. Pure.

use std::collections::{BTreeMap, BTreeSet};

use countersign_delivery::routing::ExchangeKind;
use countersign_delivery::{FailReason, Timestamp};
use countersign_wire::dead_letter::DeadLetter;

/// What is empty or none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these reasons.
    pub reasons: BTreeSet<&'static str>,
    /// This business type.
    pub kind: String,
    /// Any of these messages.
    pub message_ids: BTreeSet<String>,
    /// Of this sender.
    pub upstream: String,
    /// Original routing key; `*` stands for one word, `#` for any number.
    pub routing_key: String,
    /// Died at or after.
    pub died_after: Option<Timestamp>,
    /// Died before.
    pub died_before: Option<Timestamp>,
}

impl Filter {
    /// The reasons by their words.
    ///
    /// # Errors
    /// The first word that is none, with those that are.
    pub fn reasons(words: &[String]) -> Result<BTreeSet<&'static str>, String> {
        let known = || FailReason::ALL.map(FailReason::as_str).join(", ");
        let read = |word: &String| {
            let reason = FailReason::parse(word).map(FailReason::as_str);
            reason.ok_or_else(|| format!("reason {word:?} is none of {}", known()))
        };
        words.iter().map(read).collect()
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it selects this letter. One that does not say when it died is selected by no time.
    #[must_use]
    pub fn selects(&self, letter: &DeadLetter) -> bool {
        let among = |wanted: bool, empty: bool| empty || wanted;
        let in_time = |holds: &dyn Fn(Timestamp) -> bool| letter.died_at.is_some_and(holds);
        among(self.reasons.contains(letter.reason.as_str()), self.reasons.is_empty())
            && among(self.kind == letter.kind, self.kind.is_empty())
            && among(self.message_ids.contains(&letter.message_id), self.message_ids.is_empty())
            && among(self.upstream == letter.upstream, self.upstream.is_empty())
            && among(matches(&self.routing_key, &letter.routing_key), self.routing_key.is_empty())
            && self.died_after.is_none_or(|after| in_time(&|died| died >= after))
            && self.died_before.is_none_or(|before| in_time(&|died| died < before))
    }
}

/// As a topic exchange does.
fn matches(pattern: &str, key: &str) -> bool {
    let (none, no_header) = (BTreeMap::new(), BTreeMap::new());
    ExchangeKind::Topic.matches(pattern, &none, key, &no_header)
}

#[cfg(test)]
mod tests {
    use countersign_delivery::ports::broker::{Delivered, Handle, HeaderValue, Properties};
    use countersign_wire::{dead_letter, names};

    use super::*;

    /// Message `a` of `shop`: an order of Europe that was rejected at 100.
    fn letter(died_at: Option<i64>) -> DeadLetter {
        let text = |text: &str| HeaderValue::Text(text.into());
        let mut headers = BTreeMap::from([
            (names::DEAD_REASON.to_owned(), text("rejected")),
            (names::ROUTING_KEY.to_owned(), text("order.created.eu")),
        ]);
        headers.extend(died_at.map(|at| (names::DEAD_AT.to_owned(), HeaderValue::Int(at))));
        let (message_id, app_id, kind) = (Some("a".into()), Some("shop".into()), Some("order.created".into()));
        dead_letter::read(&Delivered {
            handle: Handle { generation: 1, tag: 1 },
            exchange: String::new(),
            routing_key: "inventory.dead".into(),
            redelivered: false,
            properties: Properties { message_id, app_id, kind, headers, ..Properties::default() },
            body: bytes::Bytes::new(),
        })
    }

    #[test]
    fn each_criterion_selects_by_itself_and_all_must_hold() {
        let at = |millis| Some(Timestamp::from_millis(millis));
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let rows = [
            (Filter::default(), true),
            (Filter { reasons: ["rejected", "poison"].into(), ..Filter::default() }, true),
            (Filter { reasons: ["poison"].into(), ..Filter::default() }, false),
            (Filter { kind: "order.created".into(), ..Filter::default() }, true),
            (Filter { kind: "order".into(), ..Filter::default() }, false),
            (Filter { message_ids: ids(&["b", "a"]), ..Filter::default() }, true),
            (Filter { message_ids: ids(&["b"]), ..Filter::default() }, false),
            (Filter { upstream: "shop".into(), ..Filter::default() }, true),
            (Filter { upstream: "other".into(), ..Filter::default() }, false),
            (Filter { routing_key: "order.#".into(), ..Filter::default() }, true),
            (Filter { routing_key: "order.*.eu".into(), ..Filter::default() }, true),
            (Filter { routing_key: "order.*".into(), ..Filter::default() }, false),
            (Filter { died_after: at(100), ..Filter::default() }, true),
            (Filter { died_after: at(101), ..Filter::default() }, false),
            (Filter { died_before: at(101), ..Filter::default() }, true),
            (Filter { died_before: at(100), ..Filter::default() }, false),
            (Filter { died_after: at(50), died_before: at(150), kind: "other".into(), ..Filter::default() }, false),
        ];
        for (filter, expected) in rows {
            assert_eq!(filter.selects(&letter(Some(100))), expected, "{filter:?}");
            let untimed = expected && filter.died_after.is_none() && filter.died_before.is_none();
            assert_eq!(filter.selects(&letter(None)), untimed, "without a time: {filter:?}");
            assert_eq!(filter.is_open(), filter == Filter::default());
        }
    }

    #[test]
    fn an_unknown_reason_is_named_with_the_known_ones() {
        let wrong = Filter::reasons(&["rejected".into(), "dead".into()]).expect_err("no such reason");
        assert!(wrong.contains("\"dead\"") && wrong.contains("retries_exhausted"), "{wrong}");
        assert_eq!(Filter::reasons(&["poison".into()]), Ok(["poison"].into()));
    }
}
