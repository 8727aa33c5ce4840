//! One subscription of the small world: its queue, its retry tier, its consumer, and callback's row of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use countersign_delivery::probe::{Lane, Probe};
use countersign_delivery::state::{Event, Illegal, Transition, next};
use countersign_delivery::{Attempt, Delivery, Outcome, Receipt, SubscriptionName, Timestamp};

use super::world::{Dice, figures};
use crate::support::*;

/// The one retry tier.
pub const TIER_MS: u64 = 100;

/// How likely each mishap of one subscription is, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A message or probe on its way into the queue.
    pub lose_message: u64,
    /// A receipt, of any kind.
    pub lose_receipt: u64,
    /// A consumer crashes with the message in hand: it is put back behind whatever is there.
    pub put_back: u64,
    /// The handler fails: the message goes into the retry tier.
    pub put_into_tier: u64,
}

/// What lies in a queue.
#[derive(Clone, Copy, Debug)]
pub enum InQueue {
    /// The message as this try, with the epoch of its effect.
    Message(Attempt, u32),
    /// A probe of the straight lane, or of the tier's.
    Probe(Option<u64>, u64),
}

/// One of those who must sign.
pub struct Subscription {
    pub name: SubscriptionName,
    pub weather: Weather,
    queue: VecDeque<InQueue>,
    tier: VecDeque<(Timestamp, InQueue)>,
    pub receipts: VecDeque<Receipt>,
    pub row: Option<Delivery>,
    pub probes: BTreeMap<Lane, Vec<Probe>>,
    /// By epoch of the effect: the key of the consumer's record.
    pub effects: BTreeMap<u32, u32>,
    /// Epochs in which an operator allowed an effect; 0 is.
    pub allowed: BTreeSet<u32>,
    pub ordered: BTreeSet<Attempt>,
    /// How often upstream has published it again.
    pub calls: u32,
    /// How often the consumer has had it in hand.
    pub delivered: u32,
}

impl Subscription {
    pub fn new(name: &str, weather: Weather) -> Self {
        Self {
            name: SubscriptionName::new(name).unwrap(),
            weather,
            queue: VecDeque::new(),
            tier: VecDeque::new(),
            receipts: VecDeque::new(),
            row: None,
            probes: BTreeMap::new(),
            effects: BTreeMap::new(),
            allowed: BTreeSet::from([0]),
            ordered: BTreeSet::new(),
            calls: 0,
            delivered: 0,
        }
    }

    pub fn apply(&mut self, event: &Event<'_>, now: Timestamp) -> Result<(), Illegal> {
        if let Transition::Moved { to, .. } = next(self.row.as_ref(), event, figures().overdue_ms, now)? {
            let back = self.row.as_ref().and_then(|from| from.goes_back_in(&to));
            assert_eq!(back, None, "{:?} became {to:?} by {event:?}", self.row);
            self.row = Some(*to);
        }
        Ok(())
    }

    /// Into the work queue, or first into the tier.
    pub fn publish(&mut self, item: InQueue, dice: &mut Dice, now: Timestamp) {
        if dice.mishap(self.weather.lose_message) {
            return;
        }
        match item {
            InQueue::Probe(Some(_), _) => self.tier.push_back((now.plus_millis(TIER_MS), item)),
            _ => self.queue.push_back(item),
        }
    }

    /// One delivery a tick.
    pub fn consume(&mut self, dice: &mut Dice, now: Timestamp) {
        while let Some((_, item)) = self.tier.pop_front_if(|(due, _)| *due <= now) {
            self.queue.push_back(item);
        }
        match self.queue.pop_front() {
            Some(InQueue::Message(attempt, effect_epoch)) => self.take(attempt, effect_epoch, dice, now),
            Some(InQueue::Probe(retry_delay_ms, number)) => {
                let lane = Lane { subscription: self.name.clone(), retry_delay_ms };
                let probes = self.probes.get_mut(&lane).expect("its number was stored first");
                probes.iter_mut().filter(|probe| probe.number == number).for_each(|probe| probe.answered_at = Some(now));
            }
            None => {}
        }
    }

    fn take(&mut self, attempt: Attempt, effect_epoch: u32, dice: &mut Dice, now: Timestamp) {
        let message = InQueue::Message(attempt, effect_epoch);
        if dice.mishap(self.weather.put_back) {
            return self.queue.push_back(message);
        }
        self.delivered += 1;
        let had_it = self.effects.contains_key(&effect_epoch);
        if !had_it && dice.mishap(self.weather.put_into_tier) {
            // The copy is confirmed, then the receipt, then the original is acked.
            self.tier.push_back((now.plus_millis(TIER_MS), message));
            return self.sign(attempt, Outcome::Retrying { delay_ms: TIER_MS, detail: String::new() }, dice);
        }
        if !had_it {
            *self.effects.entry(effect_epoch).or_default() += 1;
        }
        self.sign(attempt, Outcome::Done, dice);
    }

    fn sign(&mut self, attempt: Attempt, outcome: Outcome, dice: &mut Dice) {
        if !dice.mishap(self.weather.lose_receipt) {
            self.receipts.push_back(Receipt { subscription: self.name.clone(), ..receipt(attempt, outcome) });
        }
    }

    pub fn record(&mut self, now: Timestamp) {
        if let Some(receipt) = self.receipts.pop_front() {
            self.apply(&Event::Signed(&receipt), now).expect("a receipt is never illegal");
        }
    }

    pub fn is_settled(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.is_done() || row.is_put_aside())
    }

    pub fn assert_promises(&self, name: &str) {
        let name = format!("{name}, {}", self.name);
        assert!(self.is_settled(), "{name}: neither verified nor put aside: {:?}", self.row);
        let mut by_epoch: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        self.ordered.iter().for_each(|attempt| by_epoch.entry(attempt.epoch).or_default().push(attempt.number));
        for (epoch, numbers) in by_epoch {
            // The first of a later epoch is the operator's own order; after that each resend is the next.
            let first = if epoch == 0 { 2 } else { 1 };
            let wanted: Vec<u32> = (first..first + u32::try_from(numbers.len()).unwrap()).collect();
            assert_eq!(numbers, wanted, "{name}: a crash spent an attempt of epoch {epoch}");
            assert!(numbers.last() <= Some(&(figures().max_resends + 1)), "{name}: {numbers:?} in epoch {epoch}");
        }
        assert!(self.effects.values().all(|effects| *effects == 1), "{name}: {:?}", self.effects);
        assert!(self.effects.keys().all(|epoch| self.allowed.contains(epoch)), "{name}: an effect nobody allowed");
        if let Some(row) = self.row.as_ref().filter(|row| row.is_done()) {
            assert!(self.effects.contains_key(&row.effect_epoch), "{name}: signed without its effect: {row:?}");
        }
    }
}
