//! Applying events: the usual one, a first receipt, is one statement that reads nothing; the rest lock their rows in one order.

use std::collections::{BTreeMap, HashMap, HashSet};

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey, HistoryLine};
use countersign_delivery::ports::events::Happening;
use countersign_delivery::state::{Delivery, Event, Illegal, Transition, next};
use countersign_delivery::time::Timestamp;
use countersign_telemetry::invariants;

use crate::deliveries::row::{WIDTH, delivery, key, rows, select};
use crate::deliveries::shards::Shard;
use crate::deliveries::{events, history};
use crate::error::is_duplicate;
use crate::rows::Rows;
use crate::sql::{Sql, Tx};

const APPLYING: &str = "applying events to deliveries";

/// Leaves out what has a row.
const SKIP_KNOWN: &str = "ON CONFLICT (message_id, subscription) DO NOTHING";

/// How often the rest of a batch is tried: a row that was absent when it was locked may be there when it is inserted, and only a
/// deletion in between takes it away again.
const ROUNDS: u32 = 8;

/// What one event came to.
type Answer = Result<Option<Delivery>, Illegal>;

/// The events of one delivery, by their places in the batch, in order.
type Groups<'a> = BTreeMap<&'a DeliveryKey, Vec<usize>>;

/// What a delivery's events come to, from where it stands.
struct Outcome {
    to: Option<Delivery>,
    moved: bool,
    answers: Vec<Answer>,
    lines: Vec<HistoryLine>,
    happenings: Vec<Happening>,
}

/// A batch on its way.
struct Batch<'a> {
    changes: &'a [&'a Change<'a>],
    overdue_ms: u64,
}

impl Batch<'_> {
    /// Applies a delivery's events one after the other.
    fn outcome(&self, current: Option<Delivery>, places: &[usize], now: Timestamp) -> Outcome {
        let answers = Vec::with_capacity(places.len());
        let mut outcome = Outcome { to: current, moved: false, answers, lines: Vec::new(), happenings: Vec::new() };
        for event in places.iter().map(|place| &self.changes[*place].event) {
            outcome.step(event, self.overdue_ms, now);
        }
        outcome
    }
}

impl Outcome {
    fn step(&mut self, event: &Event<'_>, overdue_ms: u64, now: Timestamp) {
        let answer = match next(self.to.as_ref(), event, overdue_ms, now) {
            Err(illegal) => Err(illegal),
            Ok(Transition::Unchanged) => Ok(self.to.clone()),
            Ok(Transition::Moved { to, noted }) => {
                if noted {
                    let line = HistoryLine::of(event, &to, now);
                    self.happenings.extend(Happening::of(event, &to, &line));
                    self.lines.push(line);
                }
                if let Some(what) = self.to.as_ref().and_then(|from| from.goes_back_in(&to)) {
                    invariants::violated("I5", what);
                }
                self.moved = true;
                self.to = Some(*to);
                Ok(self.to.clone())
            }
        };
        self.answers.push(answer);
    }
}

/// See the port; all changes are of deliveries of this shard.
pub(super) async fn apply(shard: Shard<'_>, changes: &[&Change<'_>], overdue_ms: u64) -> Result<Vec<Answer>, PortError> {
    let batch = Batch { changes, overdue_ms };
    let mut groups = Groups::new();
    for (place, change) in changes.iter().enumerate() {
        groups.entry(&change.key).or_default().push(place);
    }
    let mut answers = vec![None; changes.len()];
    insert_first_words(shard, &batch, &mut groups, &mut answers).await?;
    for _ in 0..ROUNDS {
        if groups.is_empty() {
            return Ok(answers.into_iter().flatten().collect());
        }
        lock_and_apply(shard, &batch, &mut groups, &mut answers).await?;
    }
    if groups.is_empty() {
        return Ok(answers.into_iter().flatten().collect());
    }
    Err(PortError::Unavailable(APPLYING, "rows came and went too often".into()))
}

/// Settles what has no row yet and leaves no line: one statement, which commits by itself. What has a row stays in `groups`.
async fn insert_first_words(
    shard: Shard<'_>,
    batch: &Batch<'_>,
    groups: &mut Groups<'_>,
    answers: &mut [Option<Answer>],
) -> Result<(), PortError> {
    let now = shard.now().await?;
    let first = groups.iter().map(|(key, places)| (*key, batch.outcome(None, places, now)));
    let first: Vec<_> = first.filter(|(_, outcome)| outcome.to.is_some() && outcome.lines.is_empty()).collect();
    for part in first.chunks(Rows::limit(shard.sql.backend, WIDTH)) {
        let written = insert_unknown(shard.sql, part).await?;
        for (key, outcome) in part.iter().filter(|(key, _)| written.contains(*key)) {
            settle(key, outcome, groups, answers);
        }
    }
    Ok(())
}

/// Inserts what has no row; returns what was written.
///
/// Rows are left out because they are there, not because they conflict: PostgreSQL logs every row twice where there may be a conflict, a
/// quarter of all bytes. Where another replica inserts one of them at the same moment the statement fails, and is repeated the dear way.
async fn insert_unknown(sql: &Sql, part: &[(&DeliveryKey, Outcome)]) -> Result<HashSet<DeliveryKey>, PortError> {
    const NOT_THERE: &str = "NOT EXISTS (SELECT 1 FROM countersign_delivery AS d \
         WHERE d.message_id = v.message_id AND d.subscription = v.subscription)";
    let (text, values) = insert(sql, part, NOT_THERE, "");
    match sql.write_returning(APPLYING, &text, values).await {
        Err(error) if is_duplicate(&error) => {
            let (text, values) = insert(sql, part, "true", SKIP_KNOWN);
            keys(&sql.write_returning(APPLYING, &text, values).await?)
        }
        written => keys(&written?),
    }
}

/// One transaction over everything left: lock the rows there are, in the order of their keys, apply, write. A row that somebody
/// else inserted meanwhile stays in `groups`.
async fn lock_and_apply(
    shard: Shard<'_>,
    batch: &Batch<'_>,
    groups: &mut Groups<'_>,
    answers: &mut [Option<Answer>],
) -> Result<(), PortError> {
    let sql = shard.sql;
    let tx = sql.begin(APPLYING).await?;
    let mut current = lock(&tx, sql, groups).await?;
    // Read after the wait for the locks.
    let now = shard.now_in(&tx).await?;
    let outcomes: Vec<_> = groups
        .iter()
        .map(|(key, places)| {
            let current = current.remove(*key);
            (*key, current.is_some(), batch.outcome(current, places, now))
        })
        .collect();
    let (moved, unmoved): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, _, outcome)| outcome.moved);
    let (known, new): (Vec<_>, Vec<_>) = moved.into_iter().partition(|(_, known, _)| *known);
    let strip = |outcomes: Vec<(_, bool, Outcome)>| outcomes.into_iter().map(|(key, _, outcome)| (key, outcome)).collect();
    let (known, mut written): (Vec<_>, Vec<_>) = (strip(known), strip(unmoved));
    written.extend(insert_new(&tx, sql, strip(new)).await?);
    update_known(&tx, sql, &known).await?;
    written.extend(known);
    let lines: Vec<_> = written.iter().flat_map(|(key, outcome)| outcome.lines.iter().map(move |line| (*key, line))).collect();
    history::append(&tx, sql, &lines).await?;
    let happenings = written.iter().flat_map(|(key, outcome)| outcome.happenings.iter().map(move |one| (*key, one)));
    events::append(&tx, sql, &happenings.collect::<Vec<_>>()).await?;
    tx.commit().await?;
    for (key, outcome) in &written {
        settle(key, outcome, groups, answers);
    }
    Ok(())
}

/// The rows there are, locked until the transaction ends. SQLite: its transaction is the only one that writes.
async fn lock(tx: &Tx, sql: &Sql, groups: &Groups<'_>) -> Result<HashMap<DeliveryKey, Delivery>, PortError> {
    let rest = sql.either("ORDER BY d.message_id, d.subscription FOR UPDATE OF d", "");
    let wanted: Vec<&DeliveryKey> = groups.keys().copied().collect();
    let mut found = HashMap::with_capacity(wanted.len());
    for part in wanted.chunks(Rows::limit(sql.backend, 2)) {
        let (text, values) = select(sql.backend, part.iter().copied(), rest);
        for row in tx.rows(&text, values).await? {
            let (key, delivery) = delivery(&row)?;
            found.insert(key, delivery);
        }
    }
    Ok(found)
}

/// Inserts deliveries that had no row; returns those that still had none.
async fn insert_new<'a>(
    tx: &Tx,
    sql: &Sql,
    mut new: Vec<(&'a DeliveryKey, Outcome)>,
) -> Result<Vec<(&'a DeliveryKey, Outcome)>, PortError> {
    let mut written = HashSet::new();
    for part in new.chunks(Rows::limit(sql.backend, WIDTH)) {
        let (text, values) = insert(sql, part, "true", SKIP_KNOWN);
        written.extend(keys(&tx.rows(&text, values).await?)?);
    }
    new.retain(|(key, _)| written.contains(*key));
    Ok(new)
}

/// Writes deliveries whose rows are locked.
async fn update_known(tx: &Tx, sql: &Sql, known: &[(&DeliveryKey, Outcome)]) -> Result<(), PortError> {
    const SET: &str = "upstream = v.upstream, fingerprint = v.fingerprint, sent_at = v.sent_at, state = v.state, signed = v.signed, \
         signed_attempt = v.signed_attempt, signed_delay_ms = v.signed_delay_ms, signed_reason = v.signed_reason, \
         signed_detail = v.signed_detail, command = v.command, command_attempt = v.command_attempt, \
         command_lease_until = v.command_lease_until, command_unknown = v.command_unknown, \
         command_reason = v.command_reason, live_until = v.live_until, due_at = v.due_at, effect_epoch = v.effect_epoch";
    for part in known.chunks(Rows::limit(sql.backend, WIDTH)) {
        let (source, values) = rows(&states(part)).source(sql.backend);
        let text = format!(
            "UPDATE countersign_delivery AS d SET {SET} FROM {source} \
             WHERE d.message_id = v.message_id AND d.subscription = v.subscription"
        );
        let written = tx.run(&text, values).await?.rows_affected();
        if written != part.len() as u64 {
            return Err(PortError::Refused(APPLYING, format!("{written} of {} locked rows were written", part.len()).into()));
        }
    }
    Ok(())
}

fn insert(sql: &Sql, part: &[(&DeliveryKey, Outcome)], which: &str, conflicts: &str) -> (String, Vec<sea_orm::Value>) {
    let rows = rows(&states(part)).present();
    let names = rows.names();
    let (source, values) = rows.source(sql.backend);
    let text = format!(
        "INSERT INTO countersign_delivery ({names}) SELECT {names} FROM {source} WHERE {which} {conflicts} \
         RETURNING message_id, subscription"
    );
    (text, values)
}

fn states<'a>(part: &'a [(&'a DeliveryKey, Outcome)]) -> Vec<(&'a DeliveryKey, &'a Delivery)> {
    part.iter().filter_map(|(key, outcome)| outcome.to.as_ref().map(|to| (*key, to))).collect()
}

fn keys(rows: &[sea_orm::QueryResult]) -> Result<HashSet<DeliveryKey>, PortError> {
    rows.iter().map(key).collect()
}

/// Takes a delivery off the list and puts its answers where its events stand.
fn settle(key: &DeliveryKey, outcome: &Outcome, groups: &mut Groups<'_>, answers: &mut [Option<Answer>]) {
    let places = groups.remove(key).unwrap_or_default();
    for (place, answer) in places.into_iter().zip(&outcome.answers) {
        answers[place] = Some(answer.clone());
    }
}
