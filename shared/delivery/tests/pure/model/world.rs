//! The broker's checks, upstream, callbacks and operators of the small world.

use countersign_delivery::check::{Check, Mark};
use countersign_delivery::decide::{Evidence, Verdict, decide, lane_of, parked_as};
use countersign_delivery::policy::Policy;
use countersign_delivery::probe::{Lane, NextProbe, Probe, next_probe, view};
use countersign_delivery::state::{Command, Event, Illegal, ResendReason};
use countersign_delivery::{Attempt, Delivery, Timestamp};

use super::subscription::{InQueue, Subscription, Weather};
use crate::support::*;

const TICK_MS: u64 = 10;
const CHECK_DELAY_MS: u64 = 50;
const PATIENCE_TICKS: u32 = 20_000;
/// Nothing expires in this world.
const RETENTION_MS: u64 = u64::MAX;

pub fn figures() -> Policy {
    Policy {
        max_resends: 3,
        resend_lease_ms: 40,
        probe_grace_ms: 60,
        probe_spacing_ms: 10,
        probe_replace_ms: 30,
        probe_replace_max_ms: 120,
        overdue_ms: 400,
        ..Policy::default()
    }
}

/// Draws mishaps, which end after a while.
pub struct Dice {
    state: u64,
    rolling: bool,
}

impl Dice {
    pub fn mishap(&mut self, chance: u64) -> bool {
        self.rolling && self.below(100) < chance
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 20) % bound
    }
}

/// How likely each mishap of callback is, in percent; all mishaps end after `until` ticks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Between the number of a probe and its publication, or between that and the new check; what was only remembered is gone.
    pub crash_around_probe: u64,
    /// Between the order and the call.
    pub crash_before_call: u64,
    /// Between the call and its answer.
    pub lose_answer: u64,
    pub double_check: u64,
    pub lose_check: u64,
    /// An operator parks, discards, restores or redrives.
    pub operator: u64,
    pub until: u32,
}

pub struct World {
    dice: Dice,
    trouble: Trouble,
    ticks: u32,
    now: Timestamp,
    checks: Vec<(Timestamp, Check)>,
    pub subscriptions: Vec<Subscription>,
}

/// Callback died in the middle; the check it had in hand comes again.
struct Crashed;

impl World {
    pub fn new(seed: u64, weather: &[Weather], trouble: Trouble) -> Self {
        let names = ["inventory", "billing", "mailing"];
        let subscriptions: Vec<_> = names.iter().zip(weather).map(|(name, weather)| Subscription::new(name, *weather)).collect();
        let dice = Dice { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, rolling: trouble.until > 0 };
        let mut world = Self { dice, trouble, ticks: 0, now: NOW, checks: Vec::new(), subscriptions };
        world.publish(Attempt::FIRST, 0, &(0..weather.len()).collect::<Vec<_>>());
        world
    }

    /// Upstream: the message to each of these, and a check for them no earlier than it.
    fn publish(&mut self, attempt: Attempt, effect_epoch: u32, to: &[usize]) {
        for at in to {
            self.subscriptions[*at].publish(InQueue::Message(attempt, effect_epoch), &mut self.dice, self.now);
        }
        let required = to.iter().map(|at| self.subscriptions[*at].name.clone()).collect();
        self.send_check(Check { required, ..check(attempt) });
    }

    fn send_check(&mut self, check: Check) {
        let due = self.now.plus_millis(CHECK_DELAY_MS);
        if self.dice.mishap(self.trouble.double_check) {
            self.checks.push((due, check.clone()));
        }
        if !self.dice.mishap(self.trouble.lose_check) {
            self.checks.push((due, check));
        }
    }

    fn judge_due_checks(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = self.checks.drain(..).partition(|(at, _)| *at <= now);
        self.checks = later;
        for (_, check) in due {
            if let Err(Crashed) = self.judge(&check) {
                // It was not acked, so the broker hands it out again.
                self.checks.push((self.now.plus_millis(TICK_MS), check));
            }
        }
    }

    /// As `check` does it: parks, probes, orders, then one new check for all who need another look.
    fn judge(&mut self, check: &Check) -> Result<(), Crashed> {
        let mut kept: Vec<(usize, Option<Mark>)> = Vec::new();
        let mut lost = Vec::new();
        for at in 0..self.subscriptions.len() {
            let one = &mut self.subscriptions[at];
            if !check.required.contains(&one.name) {
                continue;
            }
            let lane = lane_of(&one.name, one.row.as_ref());
            let probes = one.probes.get(&lane).map(Vec::as_slice).unwrap_or_default();
            let evidence = Evidence {
                delivery: one.row.as_ref(),
                lane: Some(view(probes)),
                waited_ms: 0,
                dedup_retention_ms: RETENTION_MS,
                now: self.now,
            };
            match decide(check, &one.name, evidence, &figures()) {
                Verdict::Verified | Verdict::Stale => {}
                Verdict::Wait { mark, wants_probe_after, .. } => {
                    if let Some(demand) = wants_probe_after {
                        self.probe(at, lane, demand)?;
                    }
                    kept.push((at, mark));
                }
                Verdict::Park(reason) => {
                    let attempt = parked_as(check, one.row.as_ref());
                    let _ = one.apply(&Event::Park { facts: facts(genuine()), attempt, reason }, self.now);
                }
                Verdict::Resend { attempt, why } => lost.push((at, attempt, why)),
            }
        }
        for (at, attempt, why) in lost {
            if self.order(at, attempt, why)? {
                kept.push((at, check.mark(&self.subscriptions[at].name).cloned()));
            }
        }
        if !kept.is_empty() {
            let required = kept.iter().map(|(at, _)| self.subscriptions[*at].name.clone()).collect();
            let marks = kept.into_iter().filter_map(|(_, mark)| mark).collect();
            self.send_check(Check { waits: check.waits + 1, required, marks, ..check.clone() });
        }
        Ok(())
    }

    fn probe(&mut self, at: usize, lane: Lane, demand: u64) -> Result<(), Crashed> {
        let one = &mut self.subscriptions[at];
        let retry_delay_ms = lane.retry_delay_ms;
        let probes = one.probes.entry(lane).or_default();
        let Some(NextProbe { number, floor }) = next_probe(probes, demand, self.now, &figures()) else { return Ok(()) };
        probes.push(Probe { number, floor, stored_at: self.now, answered_at: None });
        if self.dice.mishap(self.trouble.crash_around_probe) {
            return Err(Crashed);
        }
        one.publish(InQueue::Probe(retry_delay_ms, number), &mut self.dice, self.now);
        if self.dice.mishap(self.trouble.crash_around_probe) { Err(Crashed) } else { Ok(()) }
    }

    /// Step 7: the order is written down first; then the call, unless callback crashes; its answer may be lost. True: look again.
    fn order(&mut self, at: usize, attempt: Attempt, why: ResendReason) -> Result<bool, Crashed> {
        let one = &mut self.subscriptions[at];
        let seen_live_until = one.row.as_ref().and_then(|row| row.live_until);
        let lease_ms = figures().resend_lease_ms;
        let event = Event::OrderResend { facts: facts(genuine()), attempt, lease_ms, seen_live_until, why };
        match one.apply(&event, self.now) {
            Ok(()) => self.call(at, attempt).map(|()| false),
            Err(Illegal::SpokenSince | Illegal::OutOfDate) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    fn call(&mut self, at: usize, attempt: Attempt) -> Result<(), Crashed> {
        self.subscriptions[at].ordered.insert(attempt);
        if self.dice.mishap(self.trouble.crash_before_call) {
            return Err(Crashed);
        }
        self.subscriptions[at].calls += 1;
        let effect_epoch = self.subscriptions[at].row.as_ref().map_or(0, |row| row.effect_epoch);
        self.publish(attempt, effect_epoch, &[at]);
        if self.dice.mishap(self.trouble.lose_answer) {
            return Err(Crashed);
        }
        let _ = self.subscriptions[at].apply(&Event::ResendAnswered { attempt }, self.now);
        Ok(())
    }

    /// Somebody at the command, who does what is possible just now.
    fn operate(&mut self) {
        if !self.dice.mishap(self.trouble.operator) {
            return;
        }
        let at = usize::try_from(self.dice.below(u64::try_from(self.subscriptions.len()).unwrap())).unwrap();
        let (note, lease_ms) = (String::new(), figures().resend_lease_ms);
        let event = match self.dice.below(5) {
            0 => Event::ParkByOperator { note },
            1 => Event::Discard { note },
            2 => Event::Restore { note },
            which => Event::Redrive { lease_ms, allow_duplicate: which == 4, note },
        };
        let one = &mut self.subscriptions[at];
        if one.apply(&event, self.now).is_err() {
            return;
        }
        let Some(Delivery { command: Command::Resending { attempt, .. }, effect_epoch, .. }) = one.row else { return };
        one.allowed.insert(effect_epoch);
        // A crash here leaves the order to the sweep.
        let _ = self.call(at, attempt);
    }

    /// The sweeper, which also knows of a message whose row was never written: reconciliation would tell of it.
    fn sweep(&mut self) {
        for at in 0..self.subscriptions.len() {
            let one = &mut self.subscriptions[at];
            let swept = match &one.row {
                Some(row) if row.due_at.is_some_and(|due| due <= self.now) => row.attempt_to_check(),
                None if self.checks.is_empty() => Attempt::FIRST,
                _ => continue,
            };
            if one.row.is_some() {
                one.apply(&Event::Swept, self.now).expect("it is there");
            }
            let required = vec![one.name.clone()];
            self.checks.push((self.now.plus_millis(CHECK_DELAY_MS), Check { required, ..check(swept) }));
        }
    }

    fn is_over(&self) -> bool {
        let quiet = |one: &Subscription| one.is_settled() && one.receipts.is_empty();
        let operators = self.trouble.operator > 0 && self.dice.rolling;
        !operators && self.checks.is_empty() && self.subscriptions.iter().all(quiet)
    }

    pub fn run(mut self) -> Self {
        while self.ticks < PATIENCE_TICKS && !self.is_over() {
            self.ticks += 1;
            self.now = self.now.plus_millis(TICK_MS);
            self.dice.rolling = self.ticks < self.trouble.until;
            for one in &mut self.subscriptions {
                one.consume(&mut self.dice, self.now);
                one.record(self.now);
            }
            self.operate();
            self.judge_due_checks();
            self.sweep();
        }
        self
    }

    pub fn all_verified(&self) -> bool {
        self.subscriptions.iter().all(|one| one.row.as_ref().is_some_and(Delivery::is_done))
    }

    pub fn calls(&self) -> u32 {
        self.subscriptions.iter().map(|one| one.calls).sum()
    }

    pub fn assert_promises(&self, name: &str) {
        self.subscriptions.iter().for_each(|one| one.assert_promises(name));
    }
}
