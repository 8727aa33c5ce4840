//! How many messages of a queue are ready.

use std::time::Duration;

use countersign_delivery::ports::PortError;
use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{ErrorKind, protocol};
use tokio::time::timeout;
use tracing::debug;

use crate::link::{Link, Live};

const ASKING: &str = "the broker";
/// AMQP 0-9-1: reply code that ends a channel without an error.
const REPLY_SUCCESS: u16 = 200;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Asks on a channel of its own: a queue that is not there closes it.
///
/// # Errors
/// As the port says.
pub(crate) async fn ready(mut link: Link, queue: ShortString, limit: Duration) -> Result<u32, PortError> {
    let asked = timeout(limit, async {
        let live = link.up().await.ok_or_else(|| PortError::Unavailable(ASKING, "it was stopped".into()))?;
        ask(&live, queue).await
    });
    asked.await.unwrap_or_else(|_| Err(PortError::Unavailable(ASKING, "it did not answer in time".into())))
}

async fn ask(live: &Live, queue: ShortString) -> Result<u32, PortError> {
    let away = |error: lapin::Error| PortError::Unavailable(ASKING, Box::new(error));
    let channel = live.connection.create_channel().await.map_err(away)?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue, passive, FieldTable::default()).await;
    let there =
        declared.map_err(|error| if is_not_found(&error) { PortError::Refused(ASKING, Box::new(error)) } else { away(error) })?;
    if let Ok(Err(error)) = timeout(GOODBYE, channel.close(REPLY_SUCCESS, "OK".into())).await {
        debug!(%error, "the channel of a question is gone already");
    }
    Ok(there.message_count())
}

fn is_not_found(error: &lapin::Error) -> bool {
    let code = protocol::AMQPSoftError::NOTFOUND.get_id();
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == code)
}
