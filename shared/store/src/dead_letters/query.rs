//! A filter as SQL.

use countersign_delivery::ports::dead_letters::{Filter, Place};
use sea_orm::Value;

use crate::rows::place;
use crate::sql::signed;

/// Codes of the column `state`.
pub(super) const WAITING: i16 = 0;
pub(super) const REDRIVEN: i16 = 1;
pub(super) const DISCARDED: i16 = 2;

/// Each letter with its delivery, if callback knows one: of the same content, and for the same subscription.
const JOINED: &str = "countersign_dead_letter AS l LEFT JOIN countersign_delivery AS d ON d.message_id = l.message_uuid \
     AND d.subscription = l.subscription AND d.fingerprint = l.fingerprint";

/// Letters that nobody acted on and whose delivery is done: what stands behind FROM, with conditions to follow.
pub(super) const SETTLED: &str = "countersign_dead_letter AS l JOIN countersign_delivery AS d ON d.message_id = l.message_uuid \
     AND d.subscription = l.subscription AND d.fingerprint = l.fingerprint WHERE l.state = 0 AND d.state = 'done'";

/// Conditions and their values.
#[derive(Debug, Default)]
pub(super) struct Query {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Query {
    pub(super) fn of(filter: &Filter) -> Self {
        let mut query = Self::default();
        query.states(filter);
        match &filter.place {
            Place::Anywhere => {}
            Place::Of(name) => query.equals("l.subscription", name.as_str()),
            Place::Quarantine => query.equals("l.subscription", ""),
        }
        query.any_of("l.reason", filter.reasons.iter().map(|reason| (*reason).to_owned()));
        query.any_of("l.message_id", filter.message_ids.iter().cloned());
        for (column, wanted) in [("l.kind", &filter.kind), ("l.upstream", &filter.upstream)] {
            if !wanted.is_empty() {
                query.equals(column, wanted);
            }
        }
        for (comparison, time) in [("l.died_at >=", filter.died_after), ("l.died_at <", filter.died_before)] {
            if let Some(time) = time {
                let at = place(&mut query.values, time.as_millis());
                query.conditions.push(format!("{comparison} {at}"));
            }
        }
        query
    }

    fn equals(&mut self, column: &str, wanted: &str) {
        let at = place(&mut self.values, wanted);
        self.conditions.push(format!("{column} = {at}"));
    }

    fn any_of(&mut self, column: &str, wanted: impl Iterator<Item = String>) {
        let places: Vec<String> = wanted.map(|one| place(&mut self.values, one)).collect();
        if !places.is_empty() {
            self.conditions.push(format!("{column} IN ({})", places.join(", ")));
        }
    }

    /// Words that are none select nothing.
    fn states(&mut self, filter: &Filter) {
        if filter.states.is_empty() {
            return;
        }
        let condition = |word: &&str| match *word {
            "open" => format!("(l.state = {WAITING} AND (d.state IS NULL OR d.state <> 'done'))"),
            "settled" => format!("(l.state = {WAITING} AND d.state = 'done')"),
            "redriven" => format!("l.state = {REDRIVEN}"),
            "discarded" => format!("l.state = {DISCARDED}"),
            _ => "false".to_owned(),
        };
        let any: Vec<String> = filter.states.iter().map(condition).collect();
        self.conditions.push(format!("({})", any.join(" OR ")));
        if filter.states.iter().all(|word| matches!(*word, "open" | "settled")) {
            // So that the index of those that wait is used.
            self.conditions.push(format!("l.state = {WAITING}"));
        }
    }

    /// The statement of one page.
    pub(super) fn page(mut self, after: u64, limit: u32) -> (String, Vec<Value>) {
        let after = place(&mut self.values, signed(after));
        let limit = place(&mut self.values, i64::from(limit));
        self.conditions.push(format!("l.number > {after}"));
        let text = format!(
            "SELECT l.number, l.subscription, l.packed, l.body_bytes, l.taken_in_at, l.state, l.closed_at, l.closed_by, \
             l.closed_reason, l.epoch, CASE WHEN d.state = 'done' THEN 1 ELSE 0 END AS settled FROM {JOINED} WHERE {} \
             ORDER BY l.number LIMIT {limit}",
            self.conditions.join(" AND ")
        );
        (text, self.values)
    }
}
