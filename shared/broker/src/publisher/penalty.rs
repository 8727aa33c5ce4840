//! Publishing to an exchange that is not there, or is forbidden, costs the channel: everything in flight on it becomes unknown. So that
//! one such destination does not stop healthy messages, publications to it are turned down for a while after it did that. Now and then lapin
//! closes a channel without the broker's words (about once in a hundred times); then the next publication to it costs one more channel.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a destination is turned down before it is tried again.
const PENALTY: Duration = Duration::from_secs(5);
/// Most destinations that are remembered.
const MOST: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Penalties(HashMap<String, (Instant, String)>);

impl Penalties {
    /// Learns from the words that closed a channel, if they name an exchange.
    pub(super) fn learn(&mut self, words: &str, now: Instant) {
        let Some(exchange) = named_exchange(words) else { return };
        self.0.retain(|_, (until, _)| *until > now);
        if self.0.len() < MOST {
            self.0.insert(exchange.to_owned(), (now + PENALTY, words.to_owned()));
        }
    }

    /// Why nothing is published there now.
    pub(super) fn reason(&self, exchange: &str, now: Instant) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(exchange).filter(|(until, _)| *until > now).map(|(_, words)| words.as_str())
    }
}

/// `… exchange 'name' …`, as the broker puts it.
fn named_exchange(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once("exchange '")?;
    rest.split_once('\'').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_destination_that_closed_the_channel_is_turned_down_for_a_while() {
        let (now, mut penalties) = (Instant::now(), Penalties::default());
        penalties.learn("NOT_FOUND - no exchange 'gone' in vhost '/'", now);
        penalties.learn("PRECONDITION_FAILED - something else", now);
        assert!(penalties.reason("gone", now).is_some_and(|words| words.contains("NOT_FOUND")));
        assert_eq!(penalties.reason("other", now), None);
        assert_eq!(penalties.reason("gone", now + PENALTY), None);
    }
}
