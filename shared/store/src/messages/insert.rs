//! One INSERT a message: the batch, its fence, its key conflicts, and the tombstone that resolves a lost answer.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::id::{IncarnationId, Seq};
use countersign_delivery::message::Position;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Entombed, Inserted, Insertion, Numbered};
use countersign_delivery::time::Timestamp;
use sea_orm::{DbBackend, QueryResult};

use crate::messages::label::Labels;
use crate::messages::row::{self, COLUMNS, KEY, LABEL, WIDTH, stored};
use crate::rows::{Rows, place};
use crate::sql::{Sql, Tx, signed, take, unsigned};

const INSERTING: &str = "inserting messages";
/// Whether incarnation `i` takes messages: nobody has fenced it, nobody has claimed its inheritance.
const OPEN: &str = "i.state = 'open' AND NOT EXISTS \
                    (SELECT 1 FROM countersign_heartbeat AS h WHERE h.incarnation = i.id AND h.adopter IS NOT NULL)";

/// Leaves out what has a key that is taken.
const SKIP_KNOWN_KEYS: &str = "ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING";

/// No row names a label that is not there: a process may know one that its database has lost, when a standby without it took over.
const LABEL_IS_THERE: &str = "(v.label IS NULL OR EXISTS (SELECT 1 FROM countersign_label AS l WHERE l.number = v.label))";

/// Inserts a batch in one transaction, under a share lock of the incarnation's row, and only while that is open.
///
/// Rows of mode `outbox` are due at `due_at`.
pub(super) async fn insert(
    sql: &Sql,
    labels: &Labels,
    incarnation: IncarnationId,
    batch: &[Numbered],
    due_at: Timestamp,
) -> Result<Insertion, PortError> {
    if batch.is_empty() {
        return Ok(Insertion::Committed(Vec::new()));
    }
    labels.write_wanted(sql).await;
    let tx = sql.begin(INSERTING).await?;
    // An error here drops the transaction, which rolls it back: nothing that is not explained is ever committed.
    let inserted = insert_within(&tx, labels, incarnation, batch, due_at).await?;
    match &inserted {
        Insertion::Committed(rows) if rows.contains(&Inserted::Stored) => {
            failpoint(Failpoint::StoreAfterInsert);
            commit(tx).await?;
        }
        _ => tx.rollback().await?,
    }
    Ok(inserted)
}

/// Inserts a batch in an open transaction, which its owner commits or not. After an error it must not commit.
pub(super) async fn insert_within(
    tx: &Tx,
    labels: &Labels,
    incarnation: IncarnationId,
    batch: &[Numbered],
    due_at: Timestamp,
) -> Result<Insertion, PortError> {
    let (ordered, backend) = (by_key(batch), tx.backend());
    let mut written = HashSet::with_capacity(batch.len());
    for rows in ordered.chunks(Rows::limit(backend, WIDTH)) {
        let rows = row::rows(incarnation, rows, labels, due_at)?;
        written.extend(insert_rows(tx, backend, incarnation, rows).await?);
    }
    let missing: Vec<&Numbered> = batch.iter().filter(|row| !written.contains(&row.seq)).collect();
    // Some may have been written: a claim may come between two statements.
    if !missing.is_empty() && !is_open(tx, incarnation).await? {
        return Ok(Insertion::Fenced);
    }
    let holders = if missing.is_empty() { HashMap::new() } else { key_holders(tx, backend, &missing).await? };
    let is_explained =
        |row: &Numbered| row.message.idempotency_key.as_ref().is_some_and(|key| holders.contains_key(key.as_str()));
    labels.doubt(missing.into_iter().filter(|row| !is_explained(row)))?;
    let answers = batch.iter().map(|row| answer(row, &written, &holders)).collect::<Result<Vec<_>, _>>()?;
    Ok(Insertion::Committed(answers))
}

/// Commits, with a failpoint between the question and its answer.
async fn commit(tx: Tx) -> Result<(), PortError> {
    let mut committing = pin!(tx.commit());
    // Polled once: the driver has handed COMMIT over by then.
    let early = poll_fn(|context| Poll::Ready(committing.as_mut().poll(context))).await;
    failpoint(Failpoint::StoreAfterCommitSent);
    match early {
        Poll::Ready(answer) => answer,
        Poll::Pending => committing.await,
    }
}

/// In the order of their keys, so that two batches with the same keys wait for each other in one direction only.
fn by_key(batch: &[Numbered]) -> Vec<&Numbered> {
    let mut rows: Vec<&Numbered> = batch.iter().collect();
    rows.sort_by_key(|row| row.message.idempotency_key.as_ref());
    rows
}

/// Inserts what fits into one statement; returns the seqs that were written.
///
/// The fence is part of the statement: its row is locked before the first message is written, and without it there is no source
/// to write from. Neither is there once somebody has claimed the inheritance: share locks that overlap without end would never let
/// the fence's UPDATE through, so after the claim no further one is taken.
async fn insert_rows(tx: &Tx, backend: DbBackend, incarnation: IncarnationId, rows: Rows) -> Result<Vec<Seq>, PortError> {
    // PostgreSQL logs every row twice where there may be a conflict, 48 bytes more.
    let conflicts = if rows.has(KEY) { SKIP_KNOWN_KEYS } else { "" };
    let readable = if rows.has(LABEL) { LABEL_IS_THERE } else { "true" };
    let names = rows.names();
    let (source, mut values) = rows.source(backend);
    let own = place(&mut values, incarnation.0);
    let lock = if backend == DbBackend::Sqlite { "" } else { "FOR SHARE" };
    let sql = format!(
        "WITH fence AS (SELECT i.id AS fenced FROM countersign_incarnation AS i WHERE i.id = {own} AND {OPEN} {lock}) \
         INSERT INTO countersign_message ({names}) SELECT {names} FROM fence CROSS JOIN {source} WHERE {readable} {conflicts} RETURNING seq"
    );
    tx.rows(&sql, values).await?.iter().map(|row| Ok(Seq(unsigned(take(row, "seq")?)))).collect()
}

async fn is_open(tx: &Tx, incarnation: IncarnationId) -> Result<bool, PortError> {
    let sql = format!("SELECT 1 FROM countersign_incarnation AS i WHERE i.id = $1 AND {OPEN}");
    Ok(!tx.rows(&sql, vec![incarnation.0.into()]).await?.is_empty())
}

/// Who has the keys of the rows that were not written.
async fn key_holders(tx: &Tx, backend: DbBackend, missing: &[&Numbered]) -> Result<HashMap<String, QueryResult>, PortError> {
    let mut keys: Vec<_> = missing.iter().filter_map(|row| row.message.idempotency_key.as_ref()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut holders = HashMap::with_capacity(keys.len());
    for keys in keys.chunks(Rows::limit(backend, 1)) {
        let (source, values) = Rows::default().texts("key", keys.iter().map(|key| key.as_str().to_owned())).source(backend);
        let sql = format!(
            "SELECT m.idempotency_key, m.id, m.incarnation, m.seq, m.fingerprint FROM countersign_message AS m \
             WHERE m.idempotency_key IN (SELECT v.key FROM {source})"
        );
        for row in tx.rows(&sql, values).await? {
            holders.insert(take(&row, "idempotency_key")?, row);
        }
    }
    Ok(holders)
}

/// What became of one row. One that is missing without a reason is an error.
fn answer(row: &Numbered, written: &HashSet<Seq>, holders: &HashMap<String, QueryResult>) -> Result<Inserted, PortError> {
    if written.contains(&row.seq) {
        return Ok(Inserted::Stored);
    }
    let Some(key) = &row.message.idempotency_key else {
        return Err(PortError::Refused(INSERTING, "a row without a key was not written".into()));
    };
    let Some(holder) = holders.get(key.as_str()) else {
        // Its holder was deleted between the two statements; the key is free now.
        return Err(PortError::Unavailable(INSERTING, "a key's holder has just been deleted".into()));
    };
    let id = row::message_id(holder)?;
    if row::fingerprint(holder)? == row.message.fingerprint {
        Ok(Inserted::Repeat { id, position: row::position(holder)? })
    } else {
        Ok(Inserted::Conflict { id })
    }
}

/// Puts a tombstone at a place, or finds the message that is there. Waits for an open transaction that holds the place.
pub(super) async fn entomb(sql: &Sql, labels: &Labels, position: Position) -> Result<Entombed, PortError> {
    const WHAT: &str = "resolving a lost commit";
    let place = || vec![position.incarnation.0.into(), signed(position.seq.0).into()];
    let tombstone = format!(
        "INSERT INTO countersign_message \
         (incarnation, seq, sent_at, fingerprint, required, exchange, routing_key, type, content_type, body) \
         SELECT $1, $2, 0, {0}, '', '', '', '', '', {0} FROM countersign_incarnation AS i WHERE i.id = $1 \
         ON CONFLICT (incarnation, seq) DO NOTHING",
        sql.either("''::bytea", "x''")
    );
    let written = sql.write(WHAT, &tombstone, place()).await?.rows_affected();
    if written == 1 {
        return Ok(Entombed::RolledBack);
    }
    let query = format!("SELECT {COLUMNS} FROM countersign_message AS m WHERE m.incarnation = $1 AND m.seq = $2");
    let rows = sql.read(WHAT, &query, place()).await?;
    let Some(row) = rows.first() else {
        let known = "SELECT 1 FROM countersign_incarnation AS i WHERE i.id = $1";
        if sql.read(WHAT, known, vec![position.incarnation.0.into()]).await?.is_empty() {
            return Ok(Entombed::RolledBack);
        }
        return Err(PortError::Unavailable(WHAT, "the row has just been deleted".into()));
    };
    if take::<Option<uuid::Uuid>>(row, "id")?.is_none() {
        return Ok(Entombed::RolledBack);
    }
    labels.of_rows(sql, &rows).await?;
    Ok(Entombed::Committed(Box::new(stored(labels, row)?)))
}
