//! Which forbidden acts are rows of the audit: a caller in a loop must not fill it.
//!
//! The first [`ROWS_MAX`] of one caller and act within [`WINDOW_MS`] are; of the others the next row says how many there were, and whoever asks
//! here counts them.
//!
//! **Invariant:** what is remembered is bounded, whatever callers there are.

use std::collections::BTreeMap;

use crate::ports::audit::Act;
use crate::time::Timestamp;

/// Rows of one caller and act within a window.
pub const ROWS_MAX: u32 = 10;
/// From the first of them on, milliseconds.
pub const WINDOW_MS: u64 = 60_000;
/// Callers and acts that are told apart at a time. Beyond it, nothing of further ones is written until a window is over.
pub const KEYS_MAX: usize = 1_000;

/// What is to be done about one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is a row.
    Write {
        /// How many of the same were not written since the row before.
        unwritten: u64,
    },
    /// It is only counted.
    Count,
}

impl Ruling {
    /// What a row says: which role it needs, and how many it stands for. None when there is no row.
    #[must_use]
    pub fn detail(self, needed: &str) -> Option<String> {
        match self {
            Self::Count => None,
            Self::Write { unwritten: 0 } => Some(format!("it needs the role {needed}")),
            Self::Write { unwritten } => Some(format!(
                "it needs the role {needed}; {unwritten} more of the same were refused before it and are not in the audit"
            )),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Timestamp,
    rows: u32,
    unwritten: u64,
}

impl Window {
    /// A clock that was put back begins a new one, too.
    const fn is_over(&self, now: Timestamp) -> bool {
        now.as_millis() < self.began.as_millis() || now.millis_since(self.began) >= WINDOW_MS
    }
}

/// The refusals of one process.
#[derive(Debug, Default)]
pub struct Refusals {
    windows: BTreeMap<(String, Act), Window>,
}

impl Refusals {
    /// One more act of this caller is refused.
    pub fn rule(&mut self, by: &str, act: Act, now: Timestamp) -> Ruling {
        let key = (by.to_owned(), act);
        if !self.windows.contains_key(&key) && self.windows.len() >= KEYS_MAX {
            self.windows.retain(|_, window| !window.is_over(now));
            if self.windows.len() >= KEYS_MAX {
                return Ruling::Count;
            }
        }
        let window = self.windows.entry(key).or_insert(Window { began: now, rows: 0, unwritten: 0 });
        if window.is_over(now) {
            (window.began, window.rows) = (now, 0);
        }
        if window.rows == ROWS_MAX {
            window.unwritten += 1;
            return Ruling::Count;
        }
        window.rows += 1;
        Ruling::Write { unwritten: std::mem::take(&mut window.unwritten) }
    }
}
