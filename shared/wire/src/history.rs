//! What a message went through at its subscription before it lies in the dead-letter queue: one header that travels with its copies.
//!
//! **Invariant:** the header never holds more than [`ENTRIES_MAX`] entries and [`BYTES_MAX`] bytes; what had to go is counted.

use countersign_delivery::ports::broker::{HeaderValue, Properties};
use countersign_delivery::{Attempt, FailReason, Timestamp};
use serde::{Deserialize, Serialize};

use crate::names;

/// Most entries; the oldest go first.
pub const ENTRIES_MAX: usize = 16;
/// Longest header, bytes: all headers of a message travel in one frame.
pub const BYTES_MAX: usize = 4_096;
/// Longest detail of one entry, bytes.
pub const DETAIL_MAX: usize = 120;
/// Longest name of who did it, bytes.
pub const BY_MAX: usize = 64;

/// The entries, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// How many older entries there were.
    #[serde(default)]
    pub left_out: u32,
    /// What is kept.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the clock of whoever did it.
    pub at: Timestamp,
    /// At which try.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// What.
    #[serde(flatten)]
    pub what: What,
    /// For a human; never a payload.
    #[serde(default)]
    pub detail: String,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The handler failed, and it went into a retry tier.
    Retried {
        /// The tier's delay, milliseconds.
        delay_ms: u64,
    },
    /// It was dead-lettered.
    Died {
        /// Why; one of [`FailReason`]'s words.
        reason: String,
        /// By which downstream.
        by: String,
    },
    /// An operator sent it to the work queue again.
    Redriven {
        /// Who.
        by: String,
    },
}

impl What {
    /// The handler failed, and it goes into this tier.
    #[must_use]
    pub const fn retried(delay_ms: u64) -> Self {
        Self::Retried { delay_ms }
    }

    /// It was dead-lettered by this downstream.
    #[must_use]
    pub fn died(reason: FailReason, by: &str) -> Self {
        Self::Died { reason: reason.as_str().into(), by: by.into() }
    }
}

impl History {
    /// What the header says; empty without one. What cannot be read counts as one entry that was left out.
    #[must_use]
    pub fn of(properties: &Properties) -> Self {
        let Some(value) = properties.headers.get(names::HISTORY) else { return Self::default() };
        let read = value.as_text().and_then(|text| serde_json::from_str(text).ok());
        read.unwrap_or(Self { left_out: 1, entries: Vec::new() })
    }

    /// The same with one entry more.
    #[must_use]
    pub fn and(mut self, entry: Entry) -> Self {
        let tidy = |text: &str, most: usize| text[..text.floor_char_boundary(most)].replace(char::is_control, " ");
        let what = match entry.what {
            What::Died { reason, by } => What::Died { reason: tidy(&reason, BY_MAX), by: tidy(&by, BY_MAX) },
            What::Redriven { by } => What::Redriven { by: tidy(&by, BY_MAX) },
            retried @ What::Retried { .. } => retried,
        };
        self.entries.push(Entry { detail: tidy(&entry.detail, DETAIL_MAX), what, ..entry });
        while self.entries.len() > ENTRIES_MAX {
            self.leave_out_the_oldest();
        }
        self
    }

    /// The header, within its bounds.
    #[must_use]
    pub fn into_header(mut self) -> HeaderValue {
        loop {
            // Numbers and texts only: this cannot fail.
            let text = serde_json::to_string(&self).unwrap_or_default();
            if text.len() <= BYTES_MAX || self.entries.is_empty() {
                return HeaderValue::Text(text);
            }
            self.leave_out_the_oldest();
        }
    }

    fn leave_out_the_oldest(&mut self) {
        self.entries.remove(0);
        self.left_out = self.left_out.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retried(at: i64, detail: &str) -> Entry {
        let what = What::retried(1_000);
        Entry { at: Timestamp::from_millis(at), attempt: Attempt { epoch: 1, number: 2 }, what, detail: detail.into() }
    }

    fn read(header: HeaderValue) -> History {
        History::of(&Properties { headers: [(names::HISTORY.to_owned(), header)].into(), ..Properties::default() })
    }

    #[test]
    fn what_is_written_is_read_back() {
        let redriven = What::Redriven { by: "ann".into() };
        let history = History::default()
            .and(retried(1, "busy"))
            .and(Entry { what: What::died(FailReason::Rejected, "downstream"), ..retried(2, "status 422") })
            .and(Entry { what: redriven, ..retried(3, "mended") });
        assert_eq!(read(history.clone().into_header()), history);
        assert_eq!(History::of(&Properties::default()), History::default());
    }

    #[test]
    fn the_newest_are_kept_and_the_others_counted() {
        let history = (0..40).fold(History::default(), |history, at| history.and(retried(at, "busy")));
        let kept = read(history.into_header());
        assert_eq!((kept.left_out, kept.entries.len()), (24, ENTRIES_MAX));
        assert_eq!(kept.entries.last().map(|entry| entry.at), Some(Timestamp::from_millis(39)));
    }

    #[test]
    fn the_header_stays_within_its_bytes_whatever_is_written() {
        for detail in ["\"".repeat(1_000), "ä\u{0}\n".repeat(1_000), "x".repeat(100_000)] {
            let by = "\\".repeat(1_000);
            let entry = |at| Entry { what: What::Died { reason: detail.clone(), by: by.clone() }, ..retried(at, &detail) };
            let history = (0..20).fold(History::default(), |history, at| history.and(entry(at)));
            let HeaderValue::Text(text) = history.into_header() else { panic!("it is a text") };
            let kept = read(HeaderValue::Text(text.clone()));
            assert!(text.len() <= BYTES_MAX && !kept.entries.is_empty(), "{} bytes, {} entries", text.len(), kept.entries.len());
            assert_eq!(usize::try_from(kept.left_out).unwrap() + kept.entries.len(), 20);
        }
    }

    #[test]
    fn what_cannot_be_read_counts_as_left_out() {
        for header in [HeaderValue::Text("{".into()), HeaderValue::Int(7), HeaderValue::Text("{\"entries\":[{\"at\":1}]}".into())]
        {
            assert_eq!(read(header), History { left_out: 1, entries: Vec::new() });
        }
    }
}
