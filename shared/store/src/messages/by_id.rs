//! Messages by their ids: no index on ids is needed for it, since an id says its place ([`MessageId::place`]).
//!
//! Rows whose ids do not, such as those of an older version, say when they were sent, and have an index of their own.

use std::collections::HashSet;

use countersign_delivery::id::MessageId;
use countersign_delivery::ports::PortError;
use sea_orm::QueryResult;

use crate::messages::row::message_id;
use crate::rows::Rows;
use crate::sql::{Over, signed};

/// Finds rows of `countersign_message` as `m`, those that meet `condition`; `columns` have the id among them.
pub(super) async fn select(
    over: Over<'_>,
    columns: &str,
    condition: &str,
    ids: &[MessageId],
) -> Result<Vec<QueryResult>, PortError> {
    let backend = over.backend();
    let (mut found, mut known) = (Vec::with_capacity(ids.len()), HashSet::with_capacity(ids.len()));
    for ids in ids.chunks(Rows::limit(backend, 3)) {
        let (source, values) = at_their_places(ids).source(backend);
        let query = format!(
            "SELECT {columns} FROM {source} CROSS JOIN countersign_incarnation AS i CROSS JOIN countersign_message AS m \
             WHERE i.tag = v.tag AND m.incarnation = i.id AND m.seq = v.seq AND m.id = v.id AND {condition}"
        );
        found.extend(over.rows(&query, values).await?);
    }
    for row in &found {
        known.insert(message_id(row)?);
    }
    let missing: Vec<MessageId> = ids.iter().copied().filter(|id| !known.contains(id)).collect();
    for ids in missing.chunks(Rows::limit(backend, 1)) {
        let (source, values) = Rows::default().uuids("id", ids.iter().map(|id| id.uuid())).source(backend);
        let query = format!(
            "SELECT {columns} FROM {source} CROSS JOIN countersign_message AS m \
             WHERE m.id = v.id AND m.sent_at IS NOT NULL AND {condition}"
        );
        found.extend(over.rows(&query, values).await?);
    }
    Ok(found)
}

fn at_their_places(ids: &[MessageId]) -> Rows {
    let places = || ids.iter().map(|id| id.place());
    Rows::default()
        .uuids("id", ids.iter().map(|id| id.uuid()))
        .ints("tag", places().map(|(tag, _)| signed(tag)))
        .ints("seq", places().map(|(_, seq)| signed(seq.0)))
}
