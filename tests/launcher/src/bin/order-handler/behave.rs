//! Failing and dawdling on demand.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

/// What `POST /behave` takes. It replaces what was asked before; `{}` ends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Answer with this status and without an effect; without it, the order is taken as usual.
    status: Option<u16>,
    /// For so many calls; without it, until told otherwise.
    r#for: Option<u32>,
    /// Wait so long before the order has its effect.
    #[serde(default)]
    delay_ms: u64,
    /// Wait so long after the effect and before the answer: the caller may give up on what has happened.
    #[serde(default)]
    delay_after_ms: u64,
    /// Only for orders with this key.
    only_key: Option<String>,
}

/// What to do with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Answer so, without an effect.
    pub status: Option<u16>,
    /// Before the effect.
    pub delay: Duration,
    /// After the effect.
    pub delay_after: Duration,
}

/// The wish in force.
#[derive(Debug, Default)]
pub struct Behaviour(Mutex<Wish>);

impl Behaviour {
    /// Replaces the wish.
    pub fn wish(&self, wish: Wish) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wish;
    }

    /// Uses the wish up by one call, if it is meant for this key.
    pub fn turn(&self, key: &str) -> Turn {
        let mut wish = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = Turn { status: None, delay: Duration::ZERO, delay_after: Duration::ZERO };
        if wish.only_key.as_ref().is_some_and(|only| only != key) || wish.r#for == Some(0) {
            return usual;
        }
        if let Some(left) = &mut wish.r#for {
            *left -= 1;
        }
        Turn {
            status: wish.status,
            delay: Duration::from_millis(wish.delay_ms),
            delay_after: Duration::from_millis(wish.delay_after_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_used_up_by_the_calls_it_is_meant_for() {
        let behaviour = Behaviour::default();
        behaviour.wish(serde_json::from_str(r#"{"status": 503, "for": 2, "only_key": "a"}"#).unwrap());
        assert_eq!(behaviour.turn("b").status, None);
        assert_eq!(behaviour.turn("a").status, Some(503));
        assert_eq!(behaviour.turn("a").status, Some(503));
        assert_eq!(behaviour.turn("a").status, None);
    }

    #[test]
    fn an_unknown_wish_is_refused() {
        assert!(serde_json::from_str::<Wish>(r#"{"delay": 1}"#).is_err());
    }
}
