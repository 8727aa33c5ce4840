//! From evidence to deeds: one verdict per check and required subscription. Pure.

use std::collections::BTreeMap;

use countersign_delivery::check::Mark;
use countersign_delivery::decide::{self, Evidence, decide, parked_as};
use countersign_delivery::expiry::Memory;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::probe::Lane;
use countersign_delivery::state::{Delivery, Facts, ParkReason};
use countersign_delivery::{SubscriptionName, Timestamp, Verdict};
use countersign_telemetry::names;

use super::look::{Entry, Look};
use crate::command_resend::{Order, Wanted};
use crate::desk::Desk;
use crate::probe;

/// What is to be done, by entry.
pub(super) struct Plan {
    /// MSG DB's clock at the look.
    pub now: Timestamp,
    /// To be left for a human.
    pub parks: Vec<Park>,
    /// To be sent again, each with its entry.
    pub orders: Vec<(usize, Order)>,
    /// By entry: who needs another look.
    pub keep: Vec<Vec<Kept>>,
    /// Evidence that is waited for.
    pub demands: BTreeMap<Lane, u64>,
}

/// One delivery that is given up.
pub(super) struct Park {
    pub entry: usize,
    pub key: DeliveryKey,
    pub facts: Facts,
    pub attempt: Attempt,
    pub reason: ParkReason,
}

/// One subscription of a check that is armed again.
pub(super) struct Kept {
    pub subscription: SubscriptionName,
    /// What this look found.
    pub mark: Option<Mark>,
    /// When the sweep would look at its row.
    pub due_at: Option<Timestamp>,
    /// Nothing is in the way but others who came first.
    pub soon: bool,
}

impl Kept {
    /// Without a mark, and without a row known.
    pub fn plain(subscription: SubscriptionName) -> Self {
        Self { subscription, mark: None, due_at: None, soon: false }
    }
}

/// Judges every entry.
pub(super) fn judge(desk: &Desk, entries: &[Entry], look: &Look) -> Plan {
    let mut plan = Plan {
        now: look.now,
        parks: Vec::new(),
        orders: Vec::new(),
        keep: entries.iter().map(|_| Vec::new()).collect(),
        demands: BTreeMap::new(),
    };
    for (at, (entry, rows)) in entries.iter().zip(&look.rows).enumerate() {
        judge_one(desk, look, (at, entry), rows, &mut plan);
    }
    plan
}

fn judge_one(desk: &Desk, look: &Look, (at, entry): (usize, &Entry), rows: &[Option<Delivery>], plan: &mut Plan) {
    let check = &entry.check;
    let facts = || Facts { upstream: entry.upstream.clone(), fingerprint: check.fingerprint.clone(), sent_at: check.sent_at };
    let waited_ms = desk.topology.waited_ms(check.waits);
    let memory = Memory { forgotten_before: look.forgotten_before, dedup_retention_ms: desk.figures.dedup_retention_ms };
    let mut lost: BTreeMap<(Attempt, u32), Vec<Wanted>> = BTreeMap::new();
    let mut worst = 0;
    for (subscription, row) in check.required.iter().zip(rows) {
        let row = row.as_ref();
        let genuine = row.filter(|row| row.facts.fingerprint == check.fingerprint);
        let lane = probe::lane(&desk.topology, subscription, genuine);
        let view = lane.as_ref().map(|lane| look.lanes.get(lane).copied().unwrap_or_default());
        let dedup_retention_ms = desk.figures.dedup_retention_ms;
        let evidence = Evidence { delivery: row, lane: view, waited_ms, dedup_retention_ms, now: look.now };
        let verdict = memory.in_time(check, row, look.now, decide(check, subscription, evidence, &desk.policy));
        let word = word(&verdict);
        metrics::counter!(names::CHECKS_TOTAL, "verdict" => word).increment(1);
        worst = worst.max(WORDS.iter().position(|known| *known == word).unwrap_or(0));
        match verdict {
            Verdict::Verified | Verdict::Stale => {}
            Verdict::Wait { mark, wants_probe_after, .. } => {
                if let (Some(lane), Some(after)) = (lane, wants_probe_after) {
                    let demand = plan.demands.entry(lane).or_insert(after);
                    *demand = after.max(*demand);
                }
                let due_at = row.and_then(|row| row.due_at);
                plan.keep[at].push(Kept { subscription: subscription.clone(), mark, due_at, soon: false });
            }
            Verdict::Resend { attempt, why } => {
                let seen_live_until = genuine.and_then(|row| row.live_until);
                let effect_epoch = genuine.map_or(0, |row| row.effect_epoch);
                let wanted = Wanted { subscription: subscription.clone(), seen_live_until, why };
                entry.span.record(names::REASON, why.as_str());
                lost.entry((attempt, effect_epoch)).or_default().push(wanted);
            }
            Verdict::Park(reason) => {
                entry.span.record(names::REASON, reason.as_str());
                let key = DeliveryKey { message_id: check.message_id, subscription: subscription.clone() };
                plan.parks.push(Park { entry: at, key, facts: facts(), attempt: parked_as(check, row), reason });
            }
        }
    }
    entry.span.record(names::VERDICT, WORDS[worst]);
    plan.orders.extend(lost.into_iter().map(|((attempt, effect_epoch), wanted)| {
        let (message_id, trace, cause) = (check.message_id, check.trace.clone(), entry.span.clone());
        (at, Order { message_id, facts: facts(), attempt, effect_epoch, wanted, trace, cause })
    }));
}

/// Whether a message is older than downstream's memory of what it has done.
pub(crate) fn is_expired(desk: &Desk, now: Timestamp, sent_at: Timestamp) -> bool {
    decide::is_expired(sent_at, now, desk.figures.dedup_retention_ms)
}

/// The verdicts' words; a check of several subscriptions is called by the last that applies.
pub(crate) const WORDS: [&str; 5] = ["verified", "stale", "wait", "resend", "park"];

const fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Verified => WORDS[0],
        Verdict::Stale => WORDS[1],
        Verdict::Wait { .. } => WORDS[2],
        Verdict::Resend { .. } => WORDS[3],
        Verdict::Park(_) => WORDS[4],
    }
}
