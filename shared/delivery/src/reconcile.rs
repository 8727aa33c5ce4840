//! Reconciliation: what upstream has stored is compared with what was signed for, and certified.
//!
//! Checks ride on the same broker as messages; when it loses both, only the two databases know. A message belongs to the minute in which its
//! id was minted, on both sides. Sums by subscription and minute are compared first ([`differing`]), messages only in minutes that
//! differ ([`standing`]). What came of it is a [`Certificate`]: `stored = verified + in flight + parked + discarded`, or what breaks it.
//!
//! **Invariant:** every stored message of the window is in exactly one count of its line; nothing outside the window is in any.

mod certificate;
mod pace;
mod window;

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::id::SubscriptionName;
use crate::state::{Command, Delivery};
use crate::time::Timestamp;

pub use certificate::{Certificate, Line, MISSING_IDS_MAX, State};
pub use pace::pause_after;
pub use window::{Limit, MINUTE_MS, Narrowed, Window, minute_of, narrow};

/// Sums by subscription and minute (its beginning); only what is not empty.
pub type Sums = BTreeMap<SubscriptionName, BTreeMap<Timestamp, Digest>>;

/// How callback knows one message of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Signed as done, under the stored fingerprint.
    Verified,
    /// Not settled, and watched over: the sweep comes back to it.
    InFlight,
    /// Left for a human.
    Parked,
    /// Discarded by a named operator.
    Discarded,
    /// Nobody has said a word about it, or only about another message under its id: it has to be checked.
    Missing,
}

/// Reads one row of MSG DB against what upstream has stored.
#[must_use]
pub fn standing(row: Option<&Delivery>, stored: &Fingerprint) -> Standing {
    let Some(row) = row.filter(|row| row.facts.fingerprint == *stored) else { return Standing::Missing };
    match row.command {
        _ if row.is_done() => Standing::Verified,
        Command::Parked { .. } => Standing::Parked,
        Command::Discarded { .. } => Standing::Discarded,
        // Without a time nobody would look at it again.
        _ if row.due_at.is_none() => Standing::Missing,
        _ => Standing::InFlight,
    }
}

/// The minutes of each subscription whose sums differ, ascending. What was signed for and is not stored under a check (mode `confirmed`, or
/// `outbox` without a check) does not count when it is alone in its minute; beside others it costs a listing.
#[must_use]
pub fn differing(stored: &Sums, signed: &Sums) -> BTreeMap<SubscriptionName, Vec<Timestamp>> {
    let of =
        |subscription: &SubscriptionName, minute: &Timestamp| signed.get(subscription).and_then(|minutes| minutes.get(minute));
    let found = stored.iter().map(|(subscription, minutes)| {
        let differ = minutes.iter().filter(|(minute, digest)| of(subscription, minute) != Some(*digest));
        (subscription.clone(), differ.map(|(minute, _)| *minute).collect::<Vec<_>>())
    });
    found.filter(|(_, minutes)| !minutes.is_empty()).collect()
}
