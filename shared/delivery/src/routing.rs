//! How the broker routes: which bindings a message matches, computed exactly as RabbitMQ does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// By headers; the binding argument `x-match` is `all` (default) or `any`.
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

fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.first(), key.first()) {
        (None, None) => true,
        (Some(&"#"), _) => topic_matches(&pattern[1..], key) || (!key.is_empty() && topic_matches(pattern, &key[1..])),
        (Some(&"*"), Some(_)) => topic_matches(&pattern[1..], &key[1..]),
        (Some(word), Some(got)) => word == got && topic_matches(&pattern[1..], &key[1..]),
        _ => false,
    }
}

/// Arguments that begin with `x-` are not compared; a binding without any other matches everything under `all`, nothing under `any`.
fn headers_match(arguments: &BTreeMap<String, String>, headers: &BTreeMap<String, String>) -> bool {
    let mut wanted = arguments.iter().filter(|(name, _)| !name.starts_with("x-"));
    let has = |(name, value): (&String, &String)| headers.get(name) == Some(value);
    match arguments.get("x-match").map(String::as_str) {
        Some("any") => wanted.any(has),
        _ => wanted.all(has),
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
        ];
        let none = BTreeMap::new();
        for (pattern, key, expected) in rows {
            assert_eq!(ExchangeKind::Topic.matches(pattern, &none, key, &none), expected, "{pattern} against {key}");
        }
    }

    #[test]
    fn header_bindings_match_all_or_any() {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let headers = map(&[("region", "eu"), ("tier", "gold")]);
        let rows = [
            (map(&[("region", "eu"), ("tier", "gold")]), true),
            (map(&[("region", "eu"), ("tier", "tin")]), false),
            (map(&[("x-match", "any"), ("region", "eu"), ("tier", "tin")]), true),
            (map(&[("x-match", "any"), ("region", "us")]), false),
            (map(&[]), true),
            (map(&[("x-match", "any")]), false),
        ];
        for (arguments, expected) in rows {
            assert_eq!(ExchangeKind::Headers.matches("", &arguments, "", &headers), expected, "{arguments:?}");
        }
    }
}
