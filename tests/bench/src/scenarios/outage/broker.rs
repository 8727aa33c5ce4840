//! The broker is killed under load, stays away for as long as a check is delayed, and is started again on its data.
//!
//! A quarter is sent before. The clock starts when the broker says that it is up, and stops when callback has recorded a receipt of every
//! message, those included that were sent meanwhile.

use std::time::{Duration, Instant};

use anyhow::ensure;
use countersign_launcher::Which;
use tokio::time::sleep;

use super::{NAME, healed, rig, signed};
use crate::readings::Readings;
use crate::servers::Servers;
use crate::{Book, Options, load};

pub(super) async fn killed(servers: &mut Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let messages = options.messages;
    let rig = rig(servers, options, "").await?;
    let msg_db = Readings::of(&rig.msg_db).await?;
    servers.rabbitmq.settle().await?;
    let url = rig.system.grpc_url(Which::Upstream);
    let sending = tokio::spawn(load::batches(url, messages, options.body_bytes as usize));
    rig.reaches(Which::Upstream, "countersign_stored_total", "", messages / 4).await?;
    servers.rabbitmq.kill9();
    sleep(Duration::from_millis(options.check_delay_ms)).await;
    servers.rabbitmq.start_again().await?;
    let back = Instant::now();
    let before = msg_db.done().await?;
    sending.await??;
    signed(&rig, &msg_db, messages).await?;
    let took = back.elapsed().as_secs_f64();
    let open = f64::from(messages) - f64::from(u32::try_from(before)?);
    ensure!(open > 0.0, "all {messages} messages were signed for before the broker was back: send more");
    book.note(NAME, "broker killed: until all is signed", "s", took, None);
    book.note(NAME, "broker killed: catching up", "messages/s", open / took, None);
    healed(rig, messages).await
}
