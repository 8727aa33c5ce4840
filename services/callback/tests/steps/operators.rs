use countersign_boot::{Stop, Tasks};
use countersign_callback::grpc::Service;
use countersign_callback::upstreams::Answer;
use countersign_delivery::Outcome as Signed;
use countersign_delivery::message::Attempt;
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::Command;
use countersign_testkit::build::{a_check, a_message, a_message_with, a_receipt, a_receipt_of, subscription};
use countersign_wire::proto::callback_service_server::CallbackService as _;
use countersign_wire::proto::{
    DeliveryActResult, GetDeliveryRequest, GetOutlookRequest, GetOutlookResponse, ListDeliveriesRequest, ListDeliveriesResponse,
    RedriveDeliveryRequest,
};
use tonic::{Code, Request, Status};

use crate::rig::{Reply, Rig, Settings, armed};

fn service(rig: &Rig) -> Service {
    let stop = Stop::default();
    Service::new(rig.desk.clone(), Tasks::new(stop.clone()), stop)
}

async fn redrive(rig: &Rig, subscription: &str) -> Result<Vec<(String, String)>, Status> {
    let (message_id, by) = (a_message().id.to_string(), "ada".into());
    let request = RedriveDeliveryRequest { message_id, subscription: subscription.into(), by, ..Default::default() };
    let response = service(rig).redrive_delivery(Request::new(request)).await?;
    let pair = |result: DeliveryActResult| (result.subscription, result.result);
    Ok(response.into_inner().results.into_iter().map(pair).collect())
}

async fn list(rig: &Rig, request: ListDeliveriesRequest) -> Result<ListDeliveriesResponse, Status> {
    Ok(service(rig).list_deliveries(Request::new(request)).await?.into_inner())
}

async fn parked() -> Rig {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Failed { reason: FailReason::Rejected, detail: "no such article".into() })]).await;
    assert!(rig.look(&a_check()).await.is_empty());
    rig
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, result)| ((*name).to_owned(), (*result).to_owned())).collect()
}

#[tokio::test]
async fn an_operator_sends_a_parked_delivery_again_in_a_new_epoch() {
    let rig = parked().await;
    assert_eq!(redrive(&rig, "").await.unwrap(), pairs(&[("inventory", "resent")]));
    let epoch = Attempt { epoch: 1, number: 1 };
    assert_eq!(rig.upstreams.calls()[0].orders[0].attempt, epoch);
    assert_eq!(rig.row(&a_message()).unwrap().command, Command::Resent { attempt: epoch });
}

#[tokio::test]
async fn what_is_done_is_not_sent_again() {
    let rig = Rig::new();
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    let refused = redrive(&rig, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("already done"), "{}", refused.message());
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn beside_a_done_delivery_the_other_is_sent_again_alone() {
    let rig = parked().await;
    rig.sign(vec![a_receipt_of(&a_message(), &subscription("audit"), Signed::Done)]).await;
    assert_eq!(redrive(&rig, "").await.unwrap(), pairs(&[("audit", "already_done"), ("inventory", "resent")]));
    assert_eq!(rig.upstreams.calls()[0].orders[0].subscriptions, [subscription("inventory")]);
}

#[tokio::test]
async fn an_unknown_message_and_an_unknown_subscription_are_told_apart() {
    let rig = parked().await;
    let words = redrive(&rig, "billing").await.unwrap_err();
    assert_eq!(words.code(), Code::NotFound);
    assert!(words.message().contains("inventory"), "{}", words.message());
    let words = redrive(&Rig::new(), "").await.unwrap_err();
    assert_eq!(words.code(), Code::NotFound);
    assert!(words.message().contains("knows nothing"), "{}", words.message());
}

#[tokio::test]
async fn what_consumers_may_have_forgotten_is_refused_with_the_reason() {
    let rig = Rig::with(Settings { dedup_retention_ms: 10_000, ..Settings::default() });
    rig.sign(vec![a_receipt(Signed::Failed { reason: FailReason::Rejected, detail: String::new() })]).await;
    rig.clock.advance(10_000);
    let refused = redrive(&rig, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("dedup_retention"), "{}", refused.message());
    assert!(matches!(rig.row(&a_message()).unwrap().command, Command::None));
}

#[tokio::test]
async fn when_upstream_is_away_the_order_stands_and_a_check_carries_it_on() {
    let rig = parked().await;
    rig.upstreams.will(&[Reply::Fail]);
    assert_eq!(redrive(&rig, "inventory").await.unwrap(), pairs(&[("inventory", "ordered")]));
    let (queue, check) = armed(&rig.broker.published()).remove(0);
    assert_eq!(queue, "countersign.checks.1000");
    rig.clock.advance(rig.desk.policy.resend_lease_ms);
    assert!(rig.look(&check).await.is_empty());
    assert_eq!(rig.row(&a_message()).unwrap().command, Command::Resent { attempt: Attempt { epoch: 1, number: 1 } });
}

#[tokio::test]
async fn what_upstream_cannot_rebuild_is_parked_again() {
    let rig = parked().await;
    rig.upstreams.will(&[Reply::All(Answer::Gone)]);
    assert_eq!(redrive(&rig, "").await.unwrap(), pairs(&[("inventory", "parked")]));
}

#[tokio::test]
async fn a_delivery_is_shown_with_its_history() {
    let rig = parked().await;
    let request = GetDeliveryRequest { message_id: a_message().id.to_string() };
    let shown = service(&rig).get_delivery(Request::new(request)).await.unwrap().into_inner().deliveries.remove(0);
    assert_eq!((shown.state.as_str(), shown.reason.as_str()), ("parked", "rejected: no such article"));
    assert_eq!(shown.upstream, "shop");
    assert_eq!(shown.history.iter().map(|line| line.what.as_str()).collect::<Vec<_>>(), ["parked"]);
    let unknown = GetDeliveryRequest { message_id: a_message_with(9, "").id.to_string() };
    assert_eq!(service(&rig).get_delivery(Request::new(unknown)).await.unwrap_err().code(), Code::NotFound);
    let nonsense = GetDeliveryRequest { message_id: "7".into() };
    assert_eq!(service(&rig).get_delivery(Request::new(nonsense)).await.unwrap_err().code(), Code::InvalidArgument);
}

async fn outlook(rig: &Rig, names: &[&str]) -> Result<GetOutlookResponse, Status> {
    let subscriptions = names.iter().map(|name| (*name).to_owned()).collect();
    Ok(service(rig).get_outlook(Request::new(GetOutlookRequest { subscriptions })).await?.into_inner())
}

#[tokio::test]
async fn the_outlook_tells_figures_clock_and_how_probes_stand() {
    let rig = Rig::new();
    rig.look(&a_check()).await;
    let sent_at_ms = rig.desk.deliveries.now().await.unwrap().as_millis();
    rig.clock.advance(5_000);
    let told = outlook(&rig, &["inventory", "elsewhere"]).await.unwrap();
    assert_eq!(told.now_ms, sent_at_ms + 5_000);
    let figures = told.figures.unwrap();
    assert_eq!((figures.max_resends, figures.check_delay_ms, figures.recheck_delays_ms), (3, 2_000, vec![1_000, 5_000]));
    let [inventory, elsewhere] = &told.subscriptions[..] else { panic!("{:?}", told.subscriptions) };
    assert!(inventory.known && inventory.probes && !elsewhere.known && elsewhere.lanes.is_empty());
    assert_eq!(inventory.lanes.iter().map(|lane| lane.retry_delay_ms).collect::<Vec<_>>(), [0, 100, 1_000]);
    assert_eq!((inventory.lanes[0].latest, inventory.lanes[0].unanswered_since_ms), (1, sent_at_ms));
    rig.answer_probe(1).await;
    let told = outlook(&rig, &["inventory"]).await.unwrap();
    let lane = &told.subscriptions[0].lanes[0];
    assert_eq!((lane.unanswered_since_ms, lane.latest_answered_at_ms), (0, sent_at_ms + 5_000));
}

#[tokio::test]
async fn an_outlook_of_what_cannot_be_a_subscription_is_refused() {
    let rig = Rig::new();
    assert_eq!(outlook(&rig, &["no spaces allowed"]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(outlook(&rig, &["a"; 1_001]).await.unwrap_err().code(), Code::InvalidArgument);
    rig.deliveries.go_down();
    assert_eq!(outlook(&rig, &["inventory"]).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let rig = Rig::new();
    let receipts = (1..=5).map(|n| a_receipt_of(&a_message_with(n, "x"), &subscription("inventory"), Signed::Done));
    rig.sign(receipts.collect()).await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    for size in [2, 2, 1] {
        let request = ListDeliveriesRequest { page_size: 2, page_token, states: vec!["done".into()], ..Default::default() };
        let page = list(&rig, request).await.unwrap();
        assert_eq!(page.deliveries.len(), size);
        seen.extend(page.deliveries.into_iter().map(|one| one.message_id));
        page_token = page.next_page_token;
    }
    assert!(page_token.is_empty());
    let expected: Vec<String> = (1..=5).map(|n| a_message_with(n, "x").id.to_string()).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn filters_are_checked_and_applied() {
    let rig = parked().await;
    let with = |states: &[&str], subscription: &str| ListDeliveriesRequest {
        states: states.iter().map(|word| (*word).to_owned()).collect(),
        subscription: subscription.into(),
        ..Default::default()
    };
    assert_eq!(list(&rig, with(&["parked"], "inventory")).await.unwrap().deliveries.len(), 1);
    assert_eq!(list(&rig, with(&["done"], "")).await.unwrap().deliveries.len(), 0);
    assert_eq!(list(&rig, with(&["lost"], "")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(list(&rig, with(&[], "no spaces allowed")).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn trouble_of_the_database_and_a_stop_are_unavailable() {
    let rig = parked().await;
    rig.deliveries.go_down();
    assert_eq!(list(&rig, ListDeliveriesRequest::default()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(redrive(&rig, "").await.unwrap_err().code(), Code::Unavailable);
    rig.deliveries.come_up();
    let stop = Stop::default();
    let stopping = Service::new(rig.desk.clone(), Tasks::new(stop.clone()), stop.clone());
    stop.begin_soft();
    let refused = stopping.list_deliveries(Request::new(ListDeliveriesRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn each_act_leaves_one_row_refused_and_failed_ones_too() {
    let rig = parked().await;
    redrive(&rig, "billing").await.unwrap_err();
    redrive(&rig, "").await.unwrap();
    let nameless = RedriveDeliveryRequest { message_id: "no-uuid".into(), ..Default::default() };
    service(&rig).redrive_delivery(Request::new(nameless)).await.unwrap_err();
    rig.deliveries.go_down();
    redrive(&rig, "").await.unwrap_err();
    let rows = rig.audit.all().into_iter().map(|entry| (entry.by, entry.act, entry.result.as_str()));
    let row = |by: &str, result| (by.to_owned(), "redrive".to_owned(), result);
    let expected = [row("ada", "refused"), row("ada", "done"), row("", "refused"), row("ada", "failed")];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_act_that_cannot_be_written_down_is_not_tried() {
    let rig = parked().await;
    rig.audit.go_down();
    assert_eq!(redrive(&rig, "").await.unwrap_err().code(), Code::Unavailable);
    assert!(rig.upstreams.calls().is_empty() && rig.audit.all().is_empty());
}
