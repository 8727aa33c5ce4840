//! A small world: one message, one subscription, one callback that may crash between its order and its call, and a broker that
//! loses messages, receipts and checks. Every run must end verified or parked, with at most K resends an epoch and none spent
//! by a crash; and a run without losses must end verified without a resend.
//!
//! Time moves in steps; what is lost and when is drawn from a seed, which a failure names.

use std::collections::{BTreeSet, VecDeque};

use countersign_delivery::check::Check;
use countersign_delivery::decide::{Evidence, Verdict, decide, lane_of};
use countersign_delivery::policy::Policy;
use countersign_delivery::probe::{Lane, NextProbe, Probe, next_probe, view};
use countersign_delivery::state::{Command, Event, Illegal, ResendReason, Transition, next};
use countersign_delivery::{Attempt, Delivery, Outcome, Receipt, Timestamp};

use crate::support::*;

const TICK_MS: u64 = 10;
const CHECK_DELAY_MS: u64 = 50;
const PATIENCE_TICKS: u32 = 20_000;

fn figures() -> Policy {
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

struct Dice(u64);

impl Dice {
    fn percent(&mut self, chance: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % 100 < chance
    }
}

/// How likely each mishap is, in percent; they end after `until` ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    lose_message: u64,
    lose_receipt: u64,
    lose_check: u64,
    double_check: u64,
    crash_before_call: u64,
    lose_answer: u64,
    put_back: u64,
    until: u32,
}

enum InQueue {
    Message(Attempt),
    Probe(u64),
}

struct World {
    dice: Dice,
    weather: Weather,
    ticks: u32,
    now: Timestamp,
    queue: VecDeque<InQueue>,
    receipts: VecDeque<Receipt>,
    checks: Vec<(Timestamp, Check)>,
    row: Option<Delivery>,
    probes: Vec<Probe>,
    effects: u32,
    done: bool,
    ordered: BTreeSet<Attempt>,
    calls: u32,
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        let mut world = Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            weather,
            ticks: 0,
            now: NOW,
            queue: VecDeque::new(),
            receipts: VecDeque::new(),
            checks: Vec::new(),
            row: None,
            probes: Vec::new(),
            effects: 0,
            done: false,
            ordered: BTreeSet::new(),
            calls: 0,
        };
        world.publish(Attempt::FIRST);
        world
    }

    fn mishap(&mut self, chance: u64) -> bool {
        self.ticks < self.weather.until && self.dice.percent(chance)
    }

    /// Upstream: the message, and a check no earlier than it.
    fn publish(&mut self, attempt: Attempt) {
        if !self.mishap(self.weather.lose_message) {
            self.queue.push_back(InQueue::Message(attempt));
        }
        self.send_check(check(attempt));
    }

    fn send_check(&mut self, check: Check) {
        let due = self.now.plus_millis(CHECK_DELAY_MS);
        if self.mishap(self.weather.double_check) {
            self.checks.push((due, check.clone()));
        }
        if !self.mishap(self.weather.lose_check) {
            self.checks.push((due, check));
        }
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Illegal> {
        match next(self.row.as_ref(), event, figures().overdue_ms, self.now)? {
            Transition::Moved { to, .. } => self.row = Some(*to),
            Transition::Unchanged => {}
        }
        Ok(())
    }

    /// Downstream: one delivery a tick; a crashed consumer's message is put back behind the probes.
    fn consume(&mut self) {
        match self.queue.pop_front() {
            Some(InQueue::Message(attempt)) if self.mishap(self.weather.put_back) => {
                self.queue.push_back(InQueue::Message(attempt));
            }
            Some(InQueue::Message(attempt)) => {
                self.effects += u32::from(!self.done);
                self.done = true;
                if !self.mishap(self.weather.lose_receipt) {
                    self.receipts.push_back(receipt(attempt, Outcome::Done));
                }
            }
            Some(InQueue::Probe(number)) => {
                let now = self.now;
                let answered = self.probes.iter_mut().filter(|probe| probe.number == number);
                answered.for_each(|probe| probe.answered_at = Some(now));
            }
            None => {}
        }
    }

    fn record(&mut self) {
        if let Some(receipt) = self.receipts.pop_front() {
            self.apply(&Event::Signed(&receipt)).expect("a receipt is never illegal");
        }
    }

    fn judge_due_checks(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = self.checks.drain(..).partition(|(at, _)| *at <= now);
        self.checks = later;
        for (_, check) in due {
            self.judge(check);
        }
    }

    fn judge(&mut self, check: Check) {
        let straight = Lane { subscription: subscription(), retry_delay_ms: None };
        assert_eq!(lane_of(&subscription(), self.row.as_ref()), straight, "nothing is retried in this world");
        let lane = Some(view(&self.probes));
        let evidence = Evidence { delivery: self.row.as_ref(), lane, waited_ms: 0, now: self.now };
        match decide(&check, &subscription(), evidence, &figures()) {
            Verdict::Verified | Verdict::Stale => {}
            Verdict::Wait { mark, wants_probe_after, .. } => {
                if let Some(demand) = wants_probe_after {
                    self.probe(demand);
                }
                self.send_check(Check { waits: check.waits + 1, marks: mark.into_iter().collect(), ..check });
            }
            Verdict::Park(reason) => {
                let _ = self.apply(&Event::Park { facts: facts(genuine()), attempt: check.attempt, reason });
            }
            Verdict::Resend { attempt, .. } => self.order(attempt, check),
        }
    }

    fn probe(&mut self, demand: u64) {
        let Some(NextProbe { number, floor }) = next_probe(&self.probes, demand, self.now, &figures()) else { return };
        self.probes.push(Probe { number, floor, stored_at: self.now, answered_at: None });
        if !self.mishap(self.weather.lose_message) {
            self.queue.push_back(InQueue::Probe(number));
        }
    }

    /// Step 7: the order is written down first; then the call, unless callback crashes; its answer may be lost.
    fn order(&mut self, attempt: Attempt, check: Check) {
        let seen_live_until = self.row.as_ref().and_then(|row| row.live_until);
        let lease_ms = figures().resend_lease_ms;
        let event =
            Event::OrderResend { facts: facts(genuine()), attempt, lease_ms, seen_live_until, why: ResendReason::Repeated };
        match self.apply(&event) {
            Ok(()) => {}
            Err(Illegal::SpokenSince) => return self.send_check(check),
            Err(_) => return,
        }
        self.ordered.insert(attempt);
        if self.mishap(self.weather.crash_before_call) {
            // The check was not acked, so the broker hands it out again.
            return self.checks.push((self.now.plus_millis(TICK_MS), check));
        }
        self.calls += 1;
        self.publish(attempt);
        if self.mishap(self.weather.lose_answer) {
            return self.checks.push((self.now.plus_millis(TICK_MS), check));
        }
        let _ = self.apply(&Event::ResendAnswered { attempt });
    }

    /// The sweeper, which also knows of a message whose row was never written: reconciliation would tell of it.
    fn sweep(&mut self) {
        let swept = match &self.row {
            Some(row) if row.due_at.is_some_and(|due| due <= self.now) => row.attempt_to_check(),
            None if self.checks.is_empty() => Attempt::FIRST,
            _ => return,
        };
        if self.row.is_some() {
            self.apply(&Event::Swept).expect("it is there");
        }
        self.checks.push((self.now.plus_millis(CHECK_DELAY_MS), check(swept)));
    }

    fn is_settled(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.is_done() || matches!(row.command, Command::Parked { .. }))
    }

    fn run(mut self) -> Self {
        while self.ticks < PATIENCE_TICKS && !(self.is_settled() && self.checks.is_empty() && self.receipts.is_empty()) {
            self.ticks += 1;
            self.now = self.now.plus_millis(TICK_MS);
            self.consume();
            self.record();
            self.judge_due_checks();
            self.sweep();
        }
        self
    }

    fn assert_promises(&self, name: &str) {
        assert!(self.is_settled(), "{name}: neither verified nor parked: {:?}", self.row);
        assert!(self.ordered.len() <= 3, "{name}: {:?}", self.ordered);
        assert!(self.ordered.iter().all(|attempt| (2..=4).contains(&attempt.number) && attempt.epoch == 0), "{name}");
        let consecutive = self.ordered.iter().zip(2..).all(|(attempt, number)| attempt.number == number);
        assert!(consecutive, "{name}: a crash spent an attempt: {:?}", self.ordered);
        let verified = self.row.as_ref().is_some_and(Delivery::is_done);
        assert!(!verified || self.effects == 1, "{name}: a receipt without its effect, or two");
    }
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    1..=count
}

#[test]
fn in_fair_weather_nothing_is_resent() {
    let world = World::new(1, Weather::default()).run();
    world.assert_promises("fair");
    assert!(world.row.as_ref().is_some_and(Delivery::is_done) && world.calls == 0);
}

#[test]
fn slow_is_not_lost() {
    for seed in seeds(300) {
        // Put back behind the probes again and again, for less than the grace between two witnesses.
        let world = World::new(seed, Weather { put_back: 60, double_check: 30, until: 5, ..Weather::default() }).run();
        world.assert_promises(&format!("seed {seed}"));
        assert_eq!(world.calls, 0, "seed {seed}");
    }
}

#[test]
fn whatever_is_lost_for_a_while_is_verified_in_the_end() {
    let mut resent = 0;
    for seed in seeds(2_000) {
        let weather = Weather {
            lose_message: 60,
            lose_receipt: 30,
            double_check: 20,
            crash_before_call: 40,
            lose_answer: 20,
            put_back: 10,
            until: 30,
            ..Weather::default()
        };
        let world = World::new(seed, weather).run();
        world.assert_promises(&format!("seed {seed}"));
        assert!(world.row.as_ref().is_some_and(Delivery::is_done), "seed {seed}: the trouble was over in time: {:?}", world.row);
        resent += world.calls;
    }
    assert!(resent > 500, "the weather was rough enough to mean something: {resent}");
}

#[test]
fn checks_may_be_lost_too() {
    for seed in seeds(1_000) {
        let weather = Weather {
            lose_message: 40,
            lose_receipt: 30,
            lose_check: 50,
            crash_before_call: 30,
            until: 60,
            ..Weather::default()
        };
        World::new(seed, weather).run().assert_promises(&format!("seed {seed}"));
    }
}

#[test]
fn in_endless_bad_weather_it_is_parked_after_its_resends() {
    let mut parked = 0;
    for seed in seeds(300) {
        let weather = Weather {
            lose_receipt: 100,
            crash_before_call: 50,
            lose_answer: 30,
            double_check: 30,
            until: u32::MAX,
            ..Weather::default()
        };
        let world = World::new(seed, weather).run();
        world.assert_promises(&format!("seed {seed}"));
        let row = world.row.expect("settled");
        assert!(matches!(row.command, Command::Parked { .. }) && world.ordered.len() == 3, "seed {seed}: {row:?}");
        assert_eq!(world.effects, 1, "seed {seed}");
        parked += 1;
    }
    assert_eq!(parked, 300);
}
