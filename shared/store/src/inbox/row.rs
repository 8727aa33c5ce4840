//! Keys as rows, and back.

use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::id::{MessageId, SubscriptionName};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::ClaimKey;
use sea_orm::QueryResult;

use crate::rows::Rows;
use crate::sql::{signed, take, unreadable};

/// A key and its place in the batch.
pub(super) type Placed<'a> = (usize, &'a ClaimKey);

/// How many columns [`rows`] makes.
pub(super) const WIDTH: usize = 5;

/// A batch with its places.
pub(super) fn placed(keys: &[ClaimKey]) -> Vec<Placed<'_>> {
    keys.iter().enumerate().collect()
}

/// A batch as rows `place, of_subscription, of_message_id, of_fingerprint, of_effect_epoch`: no column of a table has such a name, so that each
/// can stand alone.
pub(super) fn rows(keys: &[Placed<'_>]) -> Rows {
    let all = || keys.iter().map(|(_, key)| *key);
    Rows::default()
        .ints("place", keys.iter().map(|(place, _)| signed(*place as u64)))
        .texts("of_subscription", all().map(|key| key.subscription.as_str().to_owned()))
        .uuids("of_message_id", all().map(|key| key.message_id.uuid()))
        .bytes("of_fingerprint", all().map(|key| key.fingerprint.as_bytes().to_vec()))
        .ints("of_effect_epoch", all().map(|key| i64::from(key.effect_epoch)))
}

/// In the order of the primary key, in which every statement locks.
pub(super) fn by_key(keys: &mut [Placed<'_>]) {
    keys.sort_unstable_by_key(|(_, key)| of_row(key));
}

/// The primary key of a key's row.
pub(super) const fn of_row(key: &ClaimKey) -> (&SubscriptionName, MessageId, u32) {
    (&key.subscription, key.message_id, key.effect_epoch)
}

/// A row's place in the batch, if it has one there.
pub(super) fn slot<'a, T>(row: &QueryResult, answers: &'a mut [T]) -> Result<&'a mut T, PortError> {
    let place = usize::try_from(take::<i64>(row, "place")?).map_err(unreadable)?;
    answers.get_mut(place).ok_or_else(|| unreadable(format!("place {place} is not in the batch")))
}

/// A fingerprint of one column.
pub(super) fn fingerprint(row: &QueryResult, column: &str) -> Result<Option<Fingerprint>, PortError> {
    take::<Option<Vec<u8>>>(row, column)?.map(|bytes| Fingerprint::new(bytes).map_err(unreadable)).transpose()
}
