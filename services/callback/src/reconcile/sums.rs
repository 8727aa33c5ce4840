//! Sums against sums: what upstream has stored and what MSG DB has as done, by subscription and minute.

use std::collections::BTreeMap;

use countersign_delivery::ports::PortError;
use countersign_delivery::reconcile::{Limit, Line, Narrowed, Sums, Window, differing, minute_of, narrow, pause_after};
use countersign_delivery::{SubscriptionName, Timestamp, UpstreamName};
use tokio::time::{Instant, sleep};

use super::targets::Target;
use super::{Failure, Reconciler};
use crate::upstreams::digests::{DigestError, StoredSums};

/// Minutes that are asked for at once: an hour, so that no call is long however large the window. Less where that comes too late.
const SLICE_MS: u64 = 3_600_000;
/// Deliveries that are read at once.
const PAGE: u32 = 5_000;

/// What the comparison of sums came to.
pub(super) struct Books {
    /// Who answered; none if nobody was asked.
    pub upstream: Option<UpstreamName>,
    /// What could be compared; may be empty.
    pub window: Window,
    /// One line a subscription, with the minutes that agree.
    pub lines: BTreeMap<SubscriptionName, Line>,
    /// The minutes that differ, each with how many messages are stored in it.
    pub differ: BTreeMap<SubscriptionName, BTreeMap<Timestamp, u64>>,
    /// Why it is smaller than what was asked for.
    pub why: Vec<String>,
}

/// Compares a window slice by slice. It ends at the first slice whose end is not settled, so that nothing is left out in its middle.
pub(super) async fn compare(reconciler: &Reconciler, target: &Target, address: &str, asked: Window) -> Result<Books, Failure> {
    let window = Window { since: asked.since, until: asked.since };
    let mut books = Books { upstream: None, window, lines: BTreeMap::new(), differ: BTreeMap::new(), why: Vec::new() };
    let (mut rest, mut slice_ms) = (asked, SLICE_MS);
    while let Some(slice) = rest.slices(slice_ms).next() {
        let (slice, mut stored) = in_time(reconciler, address, slice).await?;
        (rest.since, slice_ms) = (slice.until, slice.until.millis_since(slice.since));
        is_who_is_wanted(target, address, &stored.upstream)?;
        let Narrowed { window, why } = comparable(reconciler, slice, &stored);
        for why in why {
            books.note(why);
        }
        if !window.is_empty() {
            let signed = signed(reconciler, &stored.upstream, window).await?;
            books.add(window, within(window, &mut stored.sums), &signed);
        }
        books.upstream = Some(stored.upstream);
        if window.until < slice.until {
            break;
        }
    }
    Ok(books)
}

/// The sums of as much of a slice as upstream answers in time: of half of what came too late, down to a minute.
async fn in_time(reconciler: &Reconciler, address: &str, mut slice: Window) -> Result<(Window, StoredSums), DigestError> {
    loop {
        match reconciler.digests.sums(address, slice).await {
            Ok(stored) => return Ok((slice, stored)),
            Err(late) if late.is_late() => slice = slice.halved().ok_or(late)?,
            Err(other) => return Err(other),
        }
    }
}

fn is_who_is_wanted(target: &Target, address: &str, found: &UpstreamName) -> Result<(), Failure> {
    match &target.name {
        Some(wanted) if wanted != found => {
            let words = format!("upstream {found} answers at {address}: give {wanted} an address under callback.upstreams");
            Err(Failure::Upstream(words))
        }
        _ => Ok(()),
    }
}

/// Of a slice what is settled, and whose own check has come due since; and nothing that upstream may have deleted.
fn comparable(reconciler: &Reconciler, slice: Window, stored: &StoredSums) -> Narrowed {
    let settled = Limit {
        at: stored.settled_until.minus_millis(reconciler.desk.topology.checks.check_delay_ms),
        why: "what is younger is not settled yet, or its own check is still to come",
    };
    let kept = stored
        .kept_from
        .map(|at| Limit { at, why: "what is older than upstream's retention is not compared: it may be deleted" });
    narrow(slice, kept.as_slice(), &[settled])
}

fn within(window: Window, sums: &mut Sums) -> Sums {
    for minutes in sums.values_mut() {
        minutes.retain(|minute, _| window.contains(*minute));
    }
    std::mem::take(sums)
}

/// What MSG DB has as done, page by page along its primary key, with a pause after each ([`pause_after`]). The pages hold every upstream's
/// deliveries; one round reads them once for each upstream.
async fn signed(reconciler: &Reconciler, upstream: &UpstreamName, window: Window) -> Result<Sums, PortError> {
    let mut sums = Sums::new();
    let mut after = None;
    loop {
        let began = Instant::now();
        let page = reconciler.books.signatures(window, after.as_ref(), PAGE).await?;
        for one in page.iter().filter(|one| one.done && one.upstream == *upstream) {
            let (id, minute) = (one.key.message_id, minute_of(one.key.message_id.minted_at()));
            let minutes = sums.entry(one.key.subscription.clone()).or_default();
            minutes.entry(minute).or_default().add(id, &one.fingerprint);
        }
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok(sums);
        }
        after = page.into_iter().last().map(|last| last.key);
        sleep(pause_after(began.elapsed())).await;
    }
}

impl Books {
    /// One slice more. If it does not follow what is there, upstream's retention has passed that meanwhile: it may be deleted by now, and
    /// nothing is said of it.
    fn add(&mut self, window: Window, stored: Sums, signed: &Sums) {
        if self.window.is_empty() || window.since > self.window.until {
            self.window.since = window.since;
            self.lines.clear();
            self.differ.clear();
        }
        self.window.until = window.until;
        let differ = differing(&stored, signed);
        for (subscription, minutes) in stored {
            let differ = differ.get(&subscription).map(Vec::as_slice).unwrap_or_default();
            let line = self.lines.entry(subscription.clone()).or_insert_with(|| Line::new(subscription.clone()));
            for (minute, digest) in minutes {
                if differ.binary_search(&minute).is_ok() {
                    self.differ.entry(subscription.clone()).or_default().insert(minute, digest.count());
                } else {
                    line.agree(digest.count());
                }
            }
        }
    }

    fn note(&mut self, why: &str) {
        if !self.why.iter().any(|noted| noted == why) {
            self.why.push(why.to_owned());
        }
    }
}
