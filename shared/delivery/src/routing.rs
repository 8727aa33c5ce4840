//! How the broker routes: which bindings a message matches, computed exactly as RabbitMQ does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Leads the name of every header that the system itself adds to a message.
pub const OWN_HEADER_PREFIX: &str = "countersign-";
/// Headers of W3C trace context, which the system adds too.
pub const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// Whether the system itself adds this header: callers cannot set it, so nothing is routed by it.
#[must_use]
pub fn is_own_header(name: &str) -> bool {
    name.starts_with(OWN_HEADER_PREFIX) || TRACE_HEADERS.contains(&name)
}

/// The four kinds of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// The routing key equals the binding key.
    Direct,
    /// `*` stands for one word, `#` for any number of words.
    Topic,
    /// Everything.
    Fanout,
    /// By headers, as the binding argument `x-match` says: [`HeaderMatch`].
    Headers,
}

impl ExchangeKind {
    /// The AMQP word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
            Self::Headers => "headers",
        }
    }

    /// Whether a binding of this kind of exchange lets the message through.
    #[must_use]
    pub fn matches(
        self,
        binding_key: &str,
        arguments: &BTreeMap<String, String>,
        routing_key: &str,
        headers: &BTreeMap<String, String>,
    ) -> bool {
        match self {
            Self::Direct => binding_key == routing_key,
            Self::Fanout => true,
            Self::Topic => topic_matches(&words(binding_key), &words(routing_key)),
            Self::Headers => headers_match(arguments, headers),
        }
    }
}

/// AMQP counts an empty key as no word at all.
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// In steps of one word of the pattern, so that many `#` cost no more than as many words.
fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    // reached[n]: the pattern so far matches the first n words of the key.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in pattern {
        if *word == "#" {
            let mut before = false;
            for here in &mut reached {
                before |= *here;
                *here = before;
            }
        } else {
            for end in (1..=key.len()).rev() {
                reached[end] = reached[end - 1] && (*word == "*" || *word == key[end - 1]);
            }
            reached[0] = false;
        }
    }
    reached[key.len()]
}

/// What the binding argument `x-match` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderMatch {
    /// Every argument but those that begin with `x-`; none: everything matches. The default.
    All,
    /// One argument at least, but none that begins with `x-`; none: nothing matches.
    Any,
    /// Every argument but `x-match` itself.
    AllWithX,
    /// One argument at least, but not `x-match` itself.
    AnyWithX,
}

impl HeaderMatch {
    /// The argument's name.
    pub const ARGUMENT: &str = "x-match";

    /// What a binding says; None: the broker refuses it.
    #[must_use]
    pub fn of(arguments: &BTreeMap<String, String>) -> Option<Self> {
        match arguments.get(Self::ARGUMENT).map(String::as_str) {
            None | Some("all") => Some(Self::All),
            Some("any") => Some(Self::Any),
            Some("all-with-x") => Some(Self::AllWithX),
            Some("any-with-x") => Some(Self::AnyWithX),
            Some(_) => None,
        }
    }

    fn compares(self, name: &str) -> bool {
        match self {
            Self::All | Self::Any => !name.starts_with("x-"),
            Self::AllWithX | Self::AnyWithX => name != Self::ARGUMENT,
        }
    }
}

fn headers_match(arguments: &BTreeMap<String, String>, headers: &BTreeMap<String, String>) -> bool {
    let Some(how) = HeaderMatch::of(arguments) else { return false };
    let mut wanted = arguments.iter().filter(|(name, _)| how.compares(name));
    let has = |(name, value): (&String, &String)| headers.get(name) == Some(value);
    match how {
        HeaderMatch::All | HeaderMatch::AllWithX => wanted.all(has),
        HeaderMatch::Any | HeaderMatch::AnyWithX => wanted.any(has),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_patterns_match_words() {
        let rows = [
            ("order.*", "order.created", true),
            ("order.*", "order", false),
            ("order.*", "order.created.eu", false),
            ("order.#", "order", true),
            ("order.#", "order.created.eu", true),
            ("#", "", true),
            ("*", "", false),
            ("#.eu", "order.created.eu", true),
            ("#.eu", "eu.us", false),
            ("a.#.b.#.c", "a.x.b.c", true),
            ("a.#.b.#.c", "a.x.c", false),
            ("#.#", "", true),
            ("#.*", "", false),
            ("#.*.#", "a", true),
            ("*", ".", false),
            ("*.*", ".", true),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", true),
            ("a.b", "a..b", false),
            (".a", "a", false),
            ("a*", "ab", false),
            ("a", "#", false),
        ];
        let none = BTreeMap::new();
        for (pattern, key, expected) in rows {
            assert_eq!(ExchangeKind::Topic.matches(pattern, &none, key, &none), expected, "{pattern} against {key}");
        }
    }

    #[test]
    fn a_pattern_of_many_hashes_is_judged_at_once() {
        let none = BTreeMap::new();
        let (pattern, key) = (format!("{}end", "#.".repeat(126)), "a.".repeat(127));
        assert!(!ExchangeKind::Topic.matches(&pattern, &none, &key, &none));
        assert!(ExchangeKind::Topic.matches(&pattern, &none, &format!("{key}end"), &none));
    }

    #[test]
    fn header_bindings_match_all_or_any() {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let headers = map(&[("region", "eu"), ("tier", "gold"), ("x-lane", "fast")]);
        let rows = [
            (map(&[("region", "eu"), ("tier", "gold")]), true),
            (map(&[("region", "eu"), ("tier", "tin")]), false),
            (map(&[("x-match", "any"), ("region", "eu"), ("tier", "tin")]), true),
            (map(&[("x-match", "any"), ("region", "us")]), false),
            (map(&[]), true),
            (map(&[("x-match", "any")]), false),
            (map(&[("region", "eu"), ("x-lane", "slow")]), true),
            (map(&[("x-match", "any"), ("x-lane", "fast")]), false),
            (map(&[("x-match", "all-with-x"), ("region", "eu"), ("x-lane", "fast")]), true),
            (map(&[("x-match", "all-with-x"), ("region", "eu"), ("x-lane", "slow")]), false),
            (map(&[("x-match", "all-with-x")]), true),
            (map(&[("x-match", "any-with-x"), ("region", "us"), ("x-lane", "fast")]), true),
            (map(&[("x-match", "any-with-x")]), false),
            (map(&[("x-match", "some"), ("region", "eu")]), false),
        ];
        for (arguments, expected) in rows {
            assert_eq!(ExchangeKind::Headers.matches("", &arguments, "", &headers), expected, "{arguments:?}");
        }
    }
}
