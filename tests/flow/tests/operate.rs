//! What a named operator does about deliveries, from end to end: each act holds, comes back if it may, and is one row of the audit.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, everywhere};
use countersign_launcher::Which;
use countersign_wire::proto::{
    DiscardDeliveryRequest, ListAuditRequest, ParkDeliveryRequest, RedriveDeliveryRequest, RestoreDeliveryRequest,
};
use serde_json::json;
use tonic::{Code, Status};

const ANN: &str = "ann";

fn redrive(id: &str, allow_duplicate: bool) -> RedriveDeliveryRequest {
    RedriveDeliveryRequest { message_id: id.into(), by: ANN.into(), allow_duplicate, ..Default::default() }
}

fn discard(id: &str, reason: &str) -> DiscardDeliveryRequest {
    DiscardDeliveryRequest { message_id: id.into(), by: ANN.into(), reason: reason.into(), ..Default::default() }
}

/// The audit's acts and results about a message, oldest first.
async fn audited(flow: &Flow, id: &str) -> anyhow::Result<Vec<(String, String)>> {
    let request = ListAuditRequest { message_id: id.into(), ..Default::default() };
    let entries = flow.callback().await?.list_audit(request).await?.into_inner().entries;
    ensure!(entries.iter().all(|entry| entry.by == ANN), "{entries:?}");
    Ok(entries.into_iter().rev().map(|entry| (entry.act, entry.result)).collect())
}

fn refused<T>(answer: &Result<T, Status>, words: &str) -> anyhow::Result<()> {
    let status = answer.as_ref().err();
    let as_expected = status.is_some_and(|status| status.code() == Code::FailedPrecondition && status.message().contains(words));
    ensure!(as_expected, "not refused with {words:?}: {status:?}");
    Ok(())
}

everywhere!(what_is_discarded_is_left_alone_until_it_is_restored);

async fn what_is_discarded_is_left_alone_until_it_is_restored(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let ids = flow.send(0, 1).await?;
    let id = ids[0].as_str();
    flow.all_in_state(&ids, "parked").await?;
    flow.system.behave(&json!({})).await?;
    let mut callback = flow.callback().await?;
    let without_reason = callback.discard_delivery(discard(id, "")).await;
    ensure!(without_reason.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "{without_reason:?}");
    callback.discard_delivery(discard(id, "a test order")).await?;
    flow.all_in_state(&ids, "discarded").await?;
    refused(&callback.redrive_delivery(redrive(id, false)).await, "restore")?;
    let restore = RestoreDeliveryRequest { message_id: id.into(), by: ANN.into(), ..Default::default() };
    callback.restore_delivery(restore.clone()).await?;
    flow.all_in_state(&ids, "parked").await?;
    ensure!(flow.deliveries().await?[0].reason.contains("rejected"), "the reason came back with it");
    refused(&callback.restore_delivery(restore).await, "not discarded")?;
    callback.redrive_delivery(redrive(id, false)).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let expected = [
        ("discard", "refused"),
        ("discard", "done"),
        ("redrive", "refused"),
        ("restore", "done"),
        ("restore", "refused"),
        ("redrive", "done"),
    ];
    ensure!(audited(&flow, id).await? == expected.map(|(act, result)| (act.into(), result.into())), "one row for each act");
    for what in ["parked", "discarded", "restored", "resending", "done"] {
        ensure!(flow.history(id, what).await? == 1, "its history has {what} once");
    }
    flow.finish().await
}

everywhere!(a_late_receipt_resolves_what_an_operator_has_put_aside);

async fn a_late_receipt_resolves_what_an_operator_has_put_aside(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 503})).await?;
    let ids = flow.send(0, 2).await?;
    flow.all_in_state(&ids, "retrying").await?;
    let mut callback = flow.callback().await?;
    let park = ParkDeliveryRequest { message_id: ids[0].clone(), by: ANN.into(), ..Default::default() };
    callback.park_delivery(park).await?;
    callback.discard_delivery(discard(&ids[1], "not wanted any more")).await?;
    // They are on their way back all the same, and what is done is done.
    flow.system.behave(&json!({})).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for (id, act) in [(&ids[0], "park"), (&ids[1], "discard")] {
        ensure!(audited(&flow, id).await? == [(act.to_owned(), "done".to_owned())], "{act}");
        ensure!(flow.history(id, "resending").await? == 0 && flow.history(id, "done").await? == 1, "{act}");
    }
    flow.finish().await
}

everywhere!(a_second_effect_happens_once_and_only_when_it_is_allowed);

async fn a_second_effect_happens_once_and_only_when_it_is_allowed(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 2).await?;
    flow.all_signed(&ids).await?;
    let (id, other) = (ids[0].as_str(), ids[1].as_str());
    let mut callback = flow.callback().await?;
    refused(&callback.redrive_delivery(redrive(id, false)).await, "already done")?;
    callback.redrive_delivery(redrive(id, true)).await?;
    flow.all_signed(&ids).await?;
    // An old copy has no effect beside it.
    flow.send_again(&ids).await?;
    flow.deliveries_settled(5).await?;
    let effects = flow.system.effects().await?;
    let expected = [(id.to_owned(), 1), (other.to_owned(), 1), (format!("{id}/1"), 1)];
    ensure!(effects.effects == expected.into(), "one effect more under a key of its own: {:?}", effects.effects);
    let rows = [("redrive", "refused"), ("redrive", "done")].map(|(act, result)| (act.into(), result.into()));
    ensure!(audited(&flow, id).await? == rows, "one row for each act");
    flow.finish().await
}

/// Dies in the middle of a discard; the row stays begun, and whether it took hold is in the history.
async fn killed_in_an_act(mut flow: Flow, failpoint: &str, took_hold: bool) -> anyhow::Result<()> {
    flow.start(&[Which::Upstream, Which::Downstream]).await?;
    flow.system.start(Which::Callback, &format!("{failpoint}=1*return")).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let ids = flow.send(0, 1).await?;
    flow.all_in_state(&ids, "parked").await?;
    let answer = flow.callback().await?.discard_delivery(discard(&ids[0], "a test order")).await;
    ensure!(answer.is_err(), "it answered, and should be dead");
    flow.system.dies_at(Which::Callback, failpoint, PATIENCE).await?;
    flow.start(&[Which::Callback]).await?;
    flow.all_in_state(&ids, if took_hold { "discarded" } else { "parked" }).await?;
    ensure!(audited(&flow, &ids[0]).await? == [("discard".to_owned(), "begun".to_owned())], "one row, not ended");
    ensure!(flow.history(&ids[0], "discarded").await? == usize::from(took_hold), "the history tells");
    flow.finish().await
}

everywhere!(killed_before_an_act_took_hold);
async fn killed_before_an_act_took_hold(flow: Flow) -> anyhow::Result<()> {
    killed_in_an_act(flow, "callback.after_act_begun", false).await
}

everywhere!(killed_after_an_act_took_hold);
async fn killed_after_an_act_took_hold(flow: Flow) -> anyhow::Result<()> {
    killed_in_an_act(flow, "callback.after_act_applied", true).await
}
