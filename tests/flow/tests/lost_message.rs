//! A message vanishes from its queue after the broker confirmed it.

use anyhow::ensure;
use countersign_flow::{Flow, everywhere};
use countersign_launcher::{SUBSCRIPTION, Which};

everywhere!(a_message_lost_after_its_confirm_is_sent_again);

async fn a_message_lost_after_its_confirm_is_sent_again(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let lost = flow.send(0, 5).await?;
    flow.queue_reaches(SUBSCRIPTION, 5).await?;
    ensure!(flow.ground.purge(SUBSCRIPTION).await? == 5, "the purge did not hit all five");
    flow.start(&[Which::Downstream]).await?;
    let kept = flow.send(5, 5).await?;
    let all = [lost.clone(), kept.clone()].concat();
    flow.all_signed(&all).await?;
    flow.each_effected_once(&all).await?;
    for id in &lost {
        let resends = flow.history(id, "resending").await?;
        ensure!((1..=3).contains(&resends), "the lost message {id} was resent {resends} times");
    }
    for id in &kept {
        let resends = flow.history(id, "resending").await?;
        ensure!(resends == 0, "message {id} was not lost and was resent {resends} times");
    }
    flow.finish().await
}

everywhere!(a_message_that_nothing_takes_goes_out_once_its_queue_is_bound_again);

async fn a_message_that_nothing_takes_goes_out_once_its_queue_is_bound_again(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    flow.unbind_work_queue().await?;
    let ids = flow.send(0, 3).await?;
    ensure!(flow.system.effects().await?.total == 0, "the queue was not unbound");
    flow.bind_work_queue().await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

everywhere!(a_message_lost_again_and_again_is_parked);

async fn a_message_lost_again_and_again_is_parked(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let thief = flow.lose_everything().await?;
    let ids = flow.send(0, 1).await?;
    flow.all_in_state(&ids, "parked").await?;
    flow.parked_because(&ids[0], SUBSCRIPTION, "resends_exhausted").await?;
    thief.abort();
    flow.start(&[Which::Downstream]).await?;
    ensure!(flow.history(&ids[0], "resending").await? == 3, "parked without having spent its three resends");
    flow.resend_by_hand(&ids[0]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}
