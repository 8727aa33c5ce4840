//! Rows of mode `outbox`: one UPDATE for many outcomes, one for a claim, one for a release.
//!
//! The statements of [`record`] and [`release`] say what [`countersign_delivery::outbox::next`] and
//! [`countersign_delivery::outbox::released`] say; the conformance suite walks both side by side.

use std::collections::HashMap;

use countersign_delivery::id::{MessageId, UpstreamName};
use countersign_delivery::message::{Position, StoredMessage};
use countersign_delivery::outbox::{Entry, Outcome, Patience, Status};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::outbox::{Claim, OutboxRow, Released};
use countersign_delivery::time::Timestamp;
use sea_orm::{DbBackend, QueryResult};

use crate::messages::by_id;
use crate::messages::label::Labels;
use crate::messages::row::{COLUMNS, message_id, position, stored, stored_all};
use crate::rows::{Rows, place};
use crate::sql::{Over, Sql, signed, take, unreadable, unsigned};

/// What [`entry`] reads, and whose it is.
const ENTRY: &str = "m.id, m.status, m.tries, m.due_at, m.reason";
const HAS_STATUS: &str = "m.status IS NOT NULL";
/// The rows of one upstream; `{}` is the place of its name.
const OF_UPSTREAM: &str = "IN (SELECT i.id FROM countersign_incarnation AS i WHERE i.upstream = {})";

/// Writes outcomes; returns which rows failed by it.
pub(super) async fn record(
    sql: &Sql,
    outcomes: &[(Position, Outcome)],
    patience: Patience,
    now: Timestamp,
) -> Result<Vec<Position>, PortError> {
    if outcomes.is_empty() {
        return Ok(Vec::new());
    }
    let reason = |outcome: &Outcome| match outcome {
        Outcome::Confirmed => None,
        Outcome::Refused { reason } => Some(reason.clone()),
    };
    let (source, mut values) = Rows::default()
        .uuids("of_incarnation", outcomes.iter().map(|(at, _)| at.incarnation.0))
        .ints("of_seq", outcomes.iter().map(|(at, _)| signed(at.seq.0)))
        .texts("refusal", outcomes.iter().map(|(_, outcome)| reason(outcome)))
        .source(sql.backend);
    let Patience { max_tries, min_pause_ms, max_pause_ms } = patience;
    let (min, max, least) = (signed(min_pause_ms), signed(max_pause_ms), sql.either("LEAST", "MIN"));
    let now = place(&mut values, now.as_millis());
    // The new tries are `m.tries + 1`, and the pause doubles from the second one on.
    let pause = format!("{least}({max}, {} << {least}(m.tries, 20))", sql.number(min));
    let statement = format!(
        "UPDATE countersign_message AS m SET \
         status = CASE WHEN v.refusal IS NULL THEN 1 WHEN m.tries >= {max_tries} THEN 2 ELSE 0 END, \
         tries = CASE WHEN v.refusal IS NULL THEN m.tries ELSE m.tries + 1 END, \
         reason = CASE WHEN v.refusal IS NULL THEN m.reason ELSE v.refusal END, \
         due_at = CASE WHEN v.refusal IS NULL OR m.tries >= {max_tries} THEN m.due_at ELSE {now} + {pause} END \
         FROM {source} WHERE m.incarnation = v.of_incarnation AND m.seq = v.of_seq \
         AND (m.status = 0 OR (m.status = 2 AND v.refusal IS NULL)) RETURNING incarnation, seq, status"
    );
    let rows = sql.write_returning("writing outcomes", &statement, values).await?;
    let failed = rows.iter().map(|row| Ok((status(row)? == Status::Failed).then_some(position(row)?)));
    failed.filter_map(Result::transpose).collect()
}

/// Claims rows for publishing until `until`.
pub(super) async fn claim(
    sql: &Sql,
    labels: &Labels,
    upstream: &UpstreamName,
    which: &Claim,
    limit: u32,
    now: Timestamp,
    until: Timestamp,
) -> Result<Vec<StoredMessage>, PortError> {
    let (named, mut values) = match which {
        Claim::Due => (String::new(), Vec::new()),
        Claim::These(rows) if rows.is_empty() => return Ok(Vec::new()),
        Claim::These(rows) => {
            let (source, values) = Rows::default()
                .uuids("named_incarnation", rows.iter().map(|row| row.position.incarnation.0))
                .ints("named_seq", rows.iter().map(|row| signed(row.position.seq.0)))
                .ints("since_ms", rows.iter().map(|row| signed(row.since_ms)))
                .source(sql.backend);
            (format!("JOIN {source} ON p.incarnation = v.named_incarnation AND p.seq = v.named_seq"), values)
        }
    };
    let until = place(&mut values, until.as_millis());
    let due = match which {
        Claim::Due => place(&mut values, now.as_millis()),
        Claim::These(_) => format!("{until} - v.since_ms"),
    };
    let own = OF_UPSTREAM.replace("{}", &place(&mut values, upstream.as_str()));
    let limit = place(&mut values, i64::from(limit));
    let lock = sql.either("FOR UPDATE OF p SKIP LOCKED", "");
    let columns = COLUMNS.replace("m.", "");
    let statement = format!(
        "WITH due AS (SELECT p.incarnation AS of_incarnation, p.seq AS of_seq FROM countersign_message AS p {named} \
         WHERE p.status = 0 AND p.due_at <= {due} AND p.incarnation {own} ORDER BY p.due_at LIMIT {limit} {lock}) \
         UPDATE countersign_message AS m SET due_at = {until} FROM due \
         WHERE m.incarnation = due.of_incarnation AND m.seq = due.of_seq AND m.status = 0 RETURNING {columns}"
    );
    let rows = sql.write_returning("claiming due rows", &statement, values).await?;
    stored_all(sql, labels, &rows).await
}

/// How rows stand.
pub(super) async fn entries(sql: &Sql, ids: &[MessageId]) -> Result<Vec<(MessageId, Entry)>, PortError> {
    let rows = by_id::select(Over::Pool(sql, "reading statuses"), ENTRY, HAS_STATUS, ids).await?;
    rows.iter().map(|row| Ok((message_id(row)?, entry(row)?))).collect()
}

/// A page of rows that wait for a human.
pub(super) async fn failed(
    sql: &Sql,
    labels: &Labels,
    upstream: &UpstreamName,
    after: Option<MessageId>,
    limit: u32,
) -> Result<Vec<OutboxRow>, PortError> {
    let mut values = Vec::new();
    let own = OF_UPSTREAM.replace("{}", &place(&mut values, upstream.as_str()));
    let after = after.map_or_else(String::new, |after| format!("AND m.id > {}", place(&mut values, after.uuid())));
    let limit = place(&mut values, i64::from(limit));
    let columns = COLUMNS.replace("m.body", sql.either("''::bytea AS body", "x'' AS body"));
    let query = format!(
        "SELECT {columns}, m.tries, m.due_at, m.reason FROM countersign_message AS m \
         WHERE m.status = 2 AND m.incarnation {own} {after} ORDER BY m.id LIMIT {limit}"
    );
    let rows = sql.read("reading failed rows", &query, values).await?;
    labels.of_rows(sql, &rows).await?;
    rows.iter().map(|row| Ok(OutboxRow { stored: stored(labels, row)?, entry: entry(row)? })).collect()
}

/// Releases rows; one answer each, in order.
pub(super) async fn release(
    sql: &Sql,
    upstream: &UpstreamName,
    ids: &[MessageId],
    now: Timestamp,
) -> Result<Vec<Released>, PortError> {
    const WHAT: &str = "releasing failed rows";
    let mut answers: HashMap<MessageId, Released> = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(Rows::limit(sql.backend, 1)) {
        let (source, mut values) = Rows::default().uuids("id", ids.iter().map(|id| id.uuid())).source(sql.backend);
        let own = OF_UPSTREAM.replace("{}", &place(&mut values, upstream.as_str()));
        let now = place(&mut values, now.as_millis());
        let statement = format!(
            "UPDATE countersign_message SET status = 0, tries = 0, due_at = {now} \
             WHERE status = 2 AND id IN (SELECT v.id FROM {source}) AND incarnation {own} RETURNING id"
        );
        for row in sql.write_returning(WHAT, &statement, values).await? {
            answers.insert(message_id(&row)?, Released::Released);
        }
    }
    let others: Vec<MessageId> = ids.iter().copied().filter(|id| !answers.contains_key(id)).collect();
    // A name has no quotes.
    let own = format!("{HAS_STATUS} AND m.incarnation {}", OF_UPSTREAM.replace("{}", &format!("'{upstream}'")));
    for row in by_id::select(Over::Pool(sql, WHAT), ENTRY, &own, &others).await? {
        answers.insert(message_id(&row)?, Released::Otherwise(status(&row)?));
    }
    Ok(ids.iter().map(|id| answers.get(id).copied().unwrap_or(Released::Unknown)).collect())
}

/// How many rows wait for a human, up to a limit.
pub(super) async fn count_failed(sql: &Sql, upstream: &UpstreamName, limit: u32) -> Result<u64, PortError> {
    let own = OF_UPSTREAM.replace("{}", "$1");
    let query = format!(
        "SELECT COUNT(*) AS failed FROM (SELECT 1 FROM countersign_message AS m WHERE m.status = 2 AND m.incarnation {own} LIMIT $2) AS p"
    );
    let values = vec![upstream.as_str().into(), i64::from(limit).into()];
    let rows = sql.read("counting failed rows", &query, values).await?;
    rows.first().map_or(Ok(0), |row| Ok(unsigned(take(row, "failed")?)))
}

fn entry(row: &QueryResult) -> Result<Entry, PortError> {
    Ok(Entry {
        status: status(row)?,
        tries: u32::try_from(take::<i16>(row, "tries")?).unwrap_or(0),
        due_at: Timestamp::from_millis(take(row, "due_at")?),
        reason: take(row, "reason")?,
    })
}

fn status(row: &QueryResult) -> Result<Status, PortError> {
    let number = take::<i16>(row, "status")?;
    Status::of(number).ok_or_else(|| unreadable(format!("{number} is no status")))
}

impl Sql {
    /// A number as the dialect shifts it.
    fn number(&self, number: i64) -> String {
        if self.backend == DbBackend::Sqlite { number.to_string() } else { format!("{number}::bigint") }
    }
}
