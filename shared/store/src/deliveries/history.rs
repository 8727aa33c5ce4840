//! What a human can read about a delivery that did not go the straight way.

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{DeliveryKey, HistoryLine};
use countersign_delivery::time::Timestamp;

use crate::deliveries::row::{packed, printable, unpacked};
use crate::rows::Rows;
use crate::sql::{Sql, Tx, take};

/// Appends lines, in order.
pub(super) async fn append(tx: &Tx, sql: &Sql, lines: &[(&DeliveryKey, &HistoryLine)]) -> Result<(), PortError> {
    const WIDTH: usize = 6;
    for part in lines.chunks(Rows::limit(sql.backend, WIDTH)) {
        let rows = Rows::default()
            .uuids("message_id", part.iter().map(|(key, _)| key.message_id.uuid()))
            .texts("subscription", part.iter().map(|(key, _)| key.subscription.as_str().to_owned()))
            .ints("at", part.iter().map(|(_, line)| line.at.as_millis()))
            .ints("attempt", part.iter().map(|(_, line)| packed(line.attempt)))
            .texts("what", part.iter().map(|(_, line)| line.what.clone()))
            .texts("detail", part.iter().map(|(_, line)| printable(&line.detail)));
        let names = rows.names();
        let (source, values) = rows.source(sql.backend);
        tx.run(&format!("INSERT INTO countersign_delivery_history ({names}) SELECT {names} FROM {source}"), values).await?;
    }
    Ok(())
}

/// The lines of one delivery, oldest first.
pub(super) async fn read(sql: &Sql, key: &DeliveryKey) -> Result<Vec<HistoryLine>, PortError> {
    let query = "SELECT h.at, h.attempt, h.what, h.detail FROM countersign_delivery_history AS h \
                 WHERE h.message_id = $1 AND h.subscription = $2 ORDER BY h.line";
    let values = vec![key.message_id.uuid().into(), key.subscription.as_str().into()];
    let rows = sql.read("reading a history", query, values).await?;
    let line = |row| {
        Ok(HistoryLine {
            at: Timestamp::from_millis(take(row, "at")?),
            attempt: unpacked(take(row, "attempt")?),
            what: take(row, "what")?,
            detail: take(row, "detail")?,
        })
    };
    rows.iter().map(line).collect()
}
