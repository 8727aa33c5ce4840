//! Downstream is away while messages pile up and their first checks come due; then it is started.
//!
//! The clock starts with its process, and stops when callback has recorded the last receipt, and again when a check has found the last message
//! signed. Slow is not lost: nothing may have been sent again.

use std::time::Instant;

use anyhow::ensure;
use countersign_launcher::Which;

use super::{NAME, healed, piled, rig, signed};
use crate::readings::Readings;
use crate::servers::Servers;
use crate::{Book, HANDLER, Options, load};

pub(super) async fn piled_up(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let messages = options.messages;
    let mut rig = rig(servers, options, "").await?;
    rig.system.stop(Which::Downstream).await?;
    load::batches(rig.system.grpc_url(Which::Upstream), messages, options.body_bytes as usize).await?;
    piled(servers, &rig, messages).await?;
    rig.reaches(Which::Callback, "countersign_checks_total", "verdict=\"wait\"", messages).await?;
    let msg_db = Readings::of(&rig.msg_db).await?;
    let begun = Instant::now();
    rig.system.spawn_as(Which::Downstream, HANDLER, "")?;
    signed(&rig, &msg_db, messages).await?;
    let took = begun.elapsed().as_secs_f64();
    book.note(NAME, "downstream away: catching up", "messages/s", f64::from(messages) / took, None);
    rig.verified(messages).await?;
    book.note(NAME, "downstream away: until all is verified", "s", begun.elapsed().as_secs_f64(), None);
    let resent = rig.system.metric(Which::Upstream, "countersign_resends_total").await?;
    ensure!(resent == 0.0, "{resent} messages were sent again that were only waiting");
    healed(rig, messages).await
}
