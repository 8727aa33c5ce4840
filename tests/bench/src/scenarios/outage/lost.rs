//! Messages are lost: confirmed by the broker, and purged from the work queue before anybody consumed them. All of them have to be found and sent
//! again, once as callback comes configured, and once with its rate of resends raised out of the way.
//!
//! Callback and downstream start when the last check has come due. The clock starts with them; it stops when the broker has confirmed the last one that was
//! sent again, when callback has recorded the last receipt, and when a check has found the last one signed, less the delay of that check. So the
//! two probes that make a message count as lost are in it, with their grace.

use std::time::{Duration, Instant};

use anyhow::ensure;
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};

use super::{NAME, healed, piled, rig, signed};
use crate::readings::Readings;
use crate::rig::ALL;
use crate::servers::Servers;
use crate::{Book, HANDLER, Options, load};

/// Each message once more than at first. Upstream's answers are no such count: a call that takes too long has none.
const PUBLISHES: &str = "countersign_publish_total";
const CONFIRMED: &str = "kind=\"message\",outcome=\"confirmed\"";

/// How callback is configured.
pub(super) struct Lost {
    leading: &'static str,
    callback: &'static str,
}

/// The default rate is 5,000 a second.
pub(super) const LOST: [Lost; 2] = [
    Lost { leading: "lost", callback: "" },
    Lost { leading: "lost, unbounded rate", callback: "resend_rate_per_s = 1000000\nresend_burst = 100000" },
];

pub(super) async fn purged(servers: &Servers, lost: &Lost, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let messages = options.lost.unwrap_or(options.messages);
    let mut rig = rig(servers, options, lost.callback).await?;
    rig.system.stop(Which::Downstream).await?;
    rig.system.stop(Which::Callback).await?;
    load::batches(rig.system.grpc_url(Which::Upstream), messages, options.body_bytes as usize).await?;
    piled(servers, &rig, messages).await?;
    let purged = servers.rabbitmq.purge(&rig.vhost, SUBSCRIPTION).await?;
    ensure!(purged >= messages, "the purge hit {purged} of {messages} messages");
    let tier = format!("countersign.checks.{}", options.check_delay_ms);
    let due = async || servers.rabbitmq.queue_depth(&rig.vhost, &tier).await.is_ok_and(|waiting| waiting == 0);
    wait_until("every check to come due", ALL, due).await?;

    let msg_db = Readings::of(&rig.msg_db).await?;
    let begun = Instant::now();
    rig.system.spawn(Which::Callback, "")?;
    rig.system.spawn_as(Which::Downstream, HANDLER, "")?;
    rig.reaches(Which::Upstream, PUBLISHES, CONFIRMED, 2 * messages).await?;
    let resent = begun.elapsed();
    signed(&rig, &msg_db, messages).await?;
    let all_signed = begun.elapsed();
    rig.verified(messages).await?;
    let verified = begun.elapsed().saturating_sub(Duration::from_millis(options.check_delay_ms));
    for (until, took) in [("resent", resent), ("signed", all_signed), ("verified", verified)] {
        let per_second = f64::from(messages) / took.as_secs_f64();
        book.note(NAME, &format!("{}: {until}", lost.leading), "messages/s", per_second, None);
    }
    healed(rig, messages).await
}
