//! Checks and messages that come too late: of an older try or epoch, or older than what consumers remember.

use anyhow::ensure;
use countersign_delivery::Attempt;
use countersign_delivery::check::Check;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::{DiscardDeliveryRequest, RedriveDeliveryRequest, RestoreDeliveryRequest};
use tonic::Code;

use super::{GRACE_MS, book_has, lost, ordered};

/// How often a late check comes.
const COPIES: usize = 3;

/// Late checks come, are judged stale, and leave the history and upstream as they are.
async fn changes_nothing(flow: &Flow, late: Check) -> anyhow::Result<()> {
    let id = late.message_id.to_string();
    let (before, orders, stale) = (flow.told(&id, SUBSCRIPTION).await?, ordered(flow).await?, flow.judged("stale").await?);
    flow.checks_are_due(vec![late; COPIES]).await?;
    let judged = async || flow.judged("stale").await.is_ok_and(|now| now >= stale + 3.0);
    wait_until("the late checks to be judged stale", PATIENCE, judged).await?;
    let after = flow.told(&id, SUBSCRIPTION).await?;
    ensure!(before == after, "a stale check was acted upon: {before:?}, {after:?}");
    let more = ordered(flow).await? - orders;
    ensure!(more == 0.0, "{more} orders came of a stale check");
    Ok(())
}

on_both!(a_check_of_an_older_try_or_epoch_changes_nothing);

async fn a_check_of_an_older_try_or_epoch_changes_nothing(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    flow.figure("probe_grace_ms", GRACE_MS)?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let thief = flow.lose_everything().await?;
    let ids = flow.send(0, 1).await?;
    let sent_again = async || {
        let told = flow.told(&ids[0], SUBSCRIPTION).await.unwrap_or_default();
        told.iter().any(|said| said.what == "resent" && said.attempt == 2)
    };
    wait_until("the second try to be sent", PATIENCE, sent_again).await?;
    thief.abort();
    let first = flow.check_of(&ids[0]).await?;
    changes_nothing(&flow, first.clone()).await?;
    // A human begins a new epoch, and checks of the old one come after that.
    flow.resend_by_hand(&ids[0]).await?;
    let of_a_new_epoch = async || flow.told(&ids[0], SUBSCRIPTION).await.is_ok_and(|told| redriven(&told));
    wait_until("the new epoch's try to be sent", PATIENCE, of_a_new_epoch).await?;
    changes_nothing(&flow, Check { attempt: Attempt { epoch: 0, number: 2 }, ..first }).await?;

    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    let told = flow.told(&ids[0], SUBSCRIPTION).await?;
    let lost = told.iter().filter(|said| said.what == "resending" && said.why.starts_with("lost: ")).count();
    ensure!(lost == 1, "it was lost once before the new epoch, and found once: {told:?}");
    book_has(&flow, 1, &[&ids[0]]).await?;
    flow.finish().await
}

/// Whether a second try was followed by the first of a new epoch.
fn redriven(told: &[countersign_flow::Said]) -> bool {
    told.last().is_some_and(|said| said.what == "resent" && said.attempt == 1)
}

on_both!(what_is_lost_and_older_than_the_memory_of_consumers_is_parked);

async fn what_is_lost_and_older_than_the_memory_of_consumers_is_parked(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    flow.configure(Which::Callback, "[callback]", "dedup_retention_ms = 1000")?;
    let ids = lost(&mut flow, 1).await?;
    flow.start(&[Which::Downstream, Which::Callback]).await?;
    flow.all_in_state(&ids, "parked").await?;
    flow.parked_because(&ids[0], SUBSCRIPTION, "expired").await?;
    let told = flow.told(&ids[0], SUBSCRIPTION).await?;
    ensure!(told.len() == 1 && told[0].attempt == 1, "parked as the try before the one that was not sent: {told:?}");
    ensure!(ordered(&flow).await? == 0.0, "an expired message was ordered");
    book_has(&flow, 0, &[]).await?;

    // A check of it changes nothing any more, and neither does one of what a human does not want.
    let late = flow.check_of(&ids[0]).await?;
    changes_nothing(&flow, late.clone()).await?;
    let (message_id, by) = (ids[0].clone(), "a test".to_owned());
    let mut callback = flow.callback().await?;
    let reason = "nobody wants it".into();
    let discard = DiscardDeliveryRequest { message_id: message_id.clone(), by: by.clone(), reason, ..Default::default() };
    callback.discard_delivery(discard).await?;
    changes_nothing(&flow, late).await?;
    callback.restore_delivery(RestoreDeliveryRequest { message_id, by, ..Default::default() }).await?;

    let redrive = RedriveDeliveryRequest { message_id: ids[0].clone(), by: "a test".into(), ..Default::default() };
    let refused = callback.redrive_delivery(redrive.clone()).await;
    ensure!(refused.as_ref().is_err_and(|status| status.code() == Code::FailedPrecondition), "{refused:?}");
    callback.redrive_delivery(RedriveDeliveryRequest { allow_duplicate: true, ..redrive }).await?;
    flow.all_signed(&ids).await?;
    book_has(&flow, 1, &[&format!("{}/1", ids[0])]).await?;
    flow.finish().await
}
