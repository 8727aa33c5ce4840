//! How long it takes to heal, and how fast: after the broker was killed under load, after downstream was away, and after messages were lost.
//!
//! In each, MSG DB must have every accepted message as done in the end, and the handler must have been called for each of them; a second time
//! only where downstream has counted a possible duplicate.

mod backlog;
mod broker;
mod lost;

use anyhow::ensure;
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};

use crate::readings::Readings;
use crate::rig::{ALL, Grounds, Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options};

const NAME: &str = "outage";

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let mut servers = Servers::start().await?;
    for round in 1..=options.outages {
        println!("round {round} of {}", options.outages);
        broker::killed(&mut servers, options, book).await?;
        backlog::piled_up(&servers, options, book).await?;
        for lost in lost::LOST {
            lost::purged(&servers, &lost, options, book).await?;
        }
    }
    Ok(())
}

/// Services that judge as soon as they are told to.
async fn rig(servers: &Servers, options: &Options, callback: &str) -> anyhow::Result<Rig> {
    let mut shape = Shape::in_process();
    shape.extras.callback = callback.into();
    Rig::start_on(servers, &shape, Grounds::of(options)).await
}

/// Waits until the work queue has all of these, and the broker has confirmed each and its check.
async fn piled(servers: &Servers, rig: &Rig, messages: u32) -> anyhow::Result<()> {
    wait_until(&format!("{messages} messages to be in the work queue"), ALL, async || {
        let waiting = servers.rabbitmq.queue_depth(&rig.vhost, SUBSCRIPTION).await;
        let unconfirmed = rig.system.metric(Which::Upstream, "countersign_unconfirmed_messages").await;
        waiting.is_ok_and(|waiting| waiting >= messages) && unconfirmed.is_ok_and(|unconfirmed| unconfirmed == 0.0)
    })
    .await
}

/// Waits until each of so many messages is signed for. What came twice may have been signed twice: receipts are no count of messages.
async fn signed(rig: &Rig, msg_db: &Readings, messages: u32) -> anyhow::Result<()> {
    rig.signed(messages).await?;
    let all = async || msg_db.done().await.is_ok_and(|done| done >= i64::from(messages));
    wait_until(&format!("{messages} messages to be done"), ALL, all).await
}

/// Asserts that MSG DB has so many messages as done, and stops everything.
async fn healed(rig: Rig, messages: u32) -> anyhow::Result<()> {
    let done = Readings::of(&rig.msg_db).await?.done().await?;
    ensure!(done == i64::from(messages), "{done} of {messages} messages are done");
    rig.finish_after_faults(messages).await.map(drop)
}
