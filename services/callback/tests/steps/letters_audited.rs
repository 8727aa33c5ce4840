//! Orders about dead letters are one row of the audit each: refused, failed and half-done ones too.

use countersign_boot::{Stop, Tasks};
use countersign_callback::grpc::DeadLetterApi;
use countersign_delivery::ports::audit::AuditEntry;
use countersign_wire::proto::dead_letter_event::Kind;
use countersign_wire::proto::dead_letter_service_server::DeadLetterService as _;
use countersign_wire::proto::{
    DeadLetterActSummary, DeadLetterFilter, DiscardDeadLettersRequest, DiscardDeadLettersResponse, GetDeadLetterRequest,
    RedriveDeadLettersRequest, RedriveDeadLettersResponse,
};
use futures::StreamExt as _;
use tonic::{Code, Request, Status};

use crate::dead_letters::{message, rejected, states};
use crate::rig::Rig;

fn api(rig: &Rig) -> DeadLetterApi {
    let stop = Stop::default();
    DeadLetterApi::new(rig.desk.clone(), Tasks::new(stop.clone()), stop)
}

fn of_inventory(reasons: &[&str]) -> DeadLetterFilter {
    let reasons = reasons.iter().map(|word| (*word).to_owned()).collect();
    DeadLetterFilter { subscription: "inventory".into(), reasons, ..DeadLetterFilter::default() }
}

/// An order that is right in every part.
fn redriving() -> RedriveDeadLettersRequest {
    RedriveDeadLettersRequest { filter: Some(of_inventory(&["rejected"])), by: "ann".into(), ..Default::default() }
}

fn discarding() -> DiscardDeadLettersRequest {
    let reason = "a test order".into();
    DiscardDeadLettersRequest { filter: Some(of_inventory(&["rejected"])), by: "ann".into(), reason, ..Default::default() }
}

async fn redrive(rig: &Rig, asked: RedriveDeadLettersRequest) -> Result<DeadLetterActSummary, Status> {
    let told = api(rig).redrive_dead_letters(Request::new(asked)).await?.into_inner();
    let told: Vec<RedriveDeadLettersResponse> = told.map(Result::unwrap).collect().await;
    Ok(last_word(told.into_iter().filter_map(|answer| answer.event?.kind)))
}

async fn discard(rig: &Rig, asked: DiscardDeadLettersRequest) -> Result<DeadLetterActSummary, Status> {
    let told = api(rig).discard_dead_letters(Request::new(asked)).await?.into_inner();
    let told: Vec<DiscardDeadLettersResponse> = told.map(Result::unwrap).collect().await;
    Ok(last_word(told.into_iter().filter_map(|answer| answer.event?.kind)))
}

fn last_word(told: impl Iterator<Item = Kind>) -> DeadLetterActSummary {
    let Some(Kind::Summary(summary)) = told.last() else { panic!("no last word") };
    summary
}

/// Act, what it was about, result and detail of each row, oldest first.
fn rows(rig: &Rig) -> Vec<(String, String, String, String)> {
    let row = |entry: AuditEntry| (entry.act, entry.target, entry.result.as_str().to_owned(), entry.detail);
    rig.audit.all().into_iter().map(row).collect()
}

fn row(act: &str, target: &str, result: &str, detail: &str) -> (String, String, String, String) {
    (act.into(), target.into(), result.into(), detail.into())
}

#[tokio::test]
async fn an_order_is_one_row_however_many_letters_it_selects() {
    let rig = rejected(&[1, 2, 3]).await;
    let id = message(2).id.to_string();
    let one = Some(DeadLetterFilter { message_ids: vec![id.to_uppercase()], ..of_inventory(&[]) });
    redrive(&rig, RedriveDeadLettersRequest { filter: one, reason: " mended ".into(), ..redriving() }).await.unwrap();
    discard(&rig, DiscardDeadLettersRequest { limit: 1, ..discarding() }).await.unwrap();
    redrive(&rig, redriving()).await.unwrap();
    let expected = [
        row("redrive_dead_letters", &id, "done", "1 redriven or settled, 0 not"),
        row("discard_dead_letters", "reason rejected, at most 1", "done", "1 discarded, 0 not, there may be more"),
        row("redrive_dead_letters", "reason rejected", "done", "1 redriven or settled, 0 not"),
    ];
    assert_eq!(rows(&rig), expected);
    assert_eq!(states(&rig).await, ["discarded", "redriven", "redriven"]);
    let first = rig.audit.all().remove(0);
    assert_eq!((first.by, first.subscription, first.reason), ("ann".into(), "inventory".into(), "mended".into()));
}

#[tokio::test]
async fn a_refused_order_has_its_row_and_touches_nothing() {
    let rig = rejected(&[1]).await;
    let long = "x".repeat(1_000);
    let redrives = [
        RedriveDeadLettersRequest { by: " ".into(), ..redriving() },
        RedriveDeadLettersRequest { by: long.clone(), ..redriving() },
        RedriveDeadLettersRequest { filter: None, ..redriving() },
        RedriveDeadLettersRequest { filter: Some(of_inventory(&[])), ..redriving() },
        RedriveDeadLettersRequest { filter: Some(of_inventory(&["sadness"])), ..redriving() },
        RedriveDeadLettersRequest { rate: 10_001, ..redriving() },
    ];
    let mut answers = Vec::new();
    for asked in redrives {
        answers.push(redrive(&rig, asked).await.unwrap_err());
    }
    for reason in [String::new(), "  ".into(), long] {
        answers.push(discard(&rig, DiscardDeadLettersRequest { reason, ..discarding() }).await.unwrap_err());
    }
    let audited = rig.audit.all();
    assert_eq!(audited.len(), answers.len());
    for (entry, answer) in audited.iter().zip(&answers) {
        assert_eq!(answer.code(), Code::InvalidArgument, "{answer}");
        assert_eq!((entry.result.as_str(), entry.detail.as_str()), ("refused", answer.message()));
        assert!(entry.ended_at.is_some() && entry.by.len() <= 64 && entry.reason.len() <= 500, "{entry:?}");
    }
    assert_eq!(states(&rig).await, ["open"]);
}

#[tokio::test]
async fn what_nobody_could_redrive_is_refused_and_what_came_between_is_a_failure() {
    let rig = rejected(&[1, 2]).await;
    rig.broker.nack_next(2);
    assert_ne!(redrive(&rig, redriving()).await.unwrap().stopped, "");
    rig.letters.go_down();
    assert_ne!(discard(&rig, discarding()).await.unwrap().stopped, "");
    rig.letters.come_up();
    rig.clock.advance(rig.desk.figures.dedup_retention_ms);
    assert_eq!(redrive(&rig, redriving()).await.unwrap().not_done, 2);
    let short: Vec<_> = rows(&rig).into_iter().map(|(_, _, result, detail)| (result, detail.contains("ended early"))).collect();
    assert_eq!(short, [("failed".to_owned(), true), ("failed".to_owned(), true), ("refused".to_owned(), false)]);
    assert_eq!(rows(&rig)[2].3, "0 redriven or settled, 2 not");
}

#[tokio::test]
async fn a_dry_run_has_no_row() {
    let rig = rejected(&[1]).await;
    assert_eq!(redrive(&rig, RedriveDeadLettersRequest { validate_only: true, ..redriving() }).await.unwrap().done, 1);
    assert_eq!(discard(&rig, DiscardDeadLettersRequest { validate_only: true, ..discarding() }).await.unwrap().done, 1);
    assert!(rows(&rig).is_empty(), "{:?}", rows(&rig));
}

#[tokio::test]
async fn an_order_that_cannot_be_written_down_is_not_tried() {
    let rig = rejected(&[1]).await;
    rig.audit.go_down();
    assert_eq!(redrive(&rig, redriving()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(discard(&rig, discarding()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(states(&rig).await, ["open"]);
    assert!(rig.broker.ready("inventory").is_empty());
}

/// The row is ended by the act itself, not by whoever waits for its answer.
#[tokio::test]
async fn an_order_whose_caller_has_gone_ends_its_row() {
    let rig = rejected(&[1, 2, 3]).await;
    let (stop, slow) = (Stop::default(), RedriveDeadLettersRequest { rate: 1, ..redriving() });
    let tasks = Tasks::new(stop.clone());
    let api = DeadLetterApi::new(rig.desk.clone(), tasks.clone(), stop);
    let mut told = api.redrive_dead_letters(Request::new(slow)).await.unwrap().into_inner();
    assert!(told.next().await.is_some());
    drop(told);
    let ended = async {
        while rig.audit.all()[0].ended_at.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("the row is ended");
    let (_, _, result, detail) = rows(&rig).remove(0);
    assert_eq!(result, "failed");
    assert!(detail.contains("has gone"), "{detail}");
}

#[tokio::test]
async fn who_asks_for_bodies_is_a_row_too_and_who_asks_for_none_is_not() {
    let rig = rejected(&[1]).await;
    let id = message(1).id.to_string();
    let asked = |message_id: &str, with_body| {
        let (message_id, subscription, by) = (message_id.to_owned(), "inventory".to_owned(), "ann".to_owned());
        Request::new(GetDeadLetterRequest { message_id, subscription, with_body, by, ..Default::default() })
    };
    let listed = api(&rig).get_dead_letter(asked(&id, false)).await.unwrap().into_inner();
    assert!(listed.letters[0].body.is_empty());
    let shown = api(&rig).get_dead_letter(asked(&id, true)).await.unwrap().into_inner();
    assert!(!shown.letters[0].body.is_empty());
    let nobody = message(9).id.to_string();
    assert_eq!(api(&rig).get_dead_letter(asked(&nobody, true)).await.unwrap_err().code(), Code::NotFound);
    let told = rows(&rig);
    assert_eq!(told[0], row("reveal_dead_letters", &id, "done", "1 shown"));
    assert!(told.len() == 2 && told[1].2 == "refused" && told[1].3.contains("no letter of message"), "{told:?}");
    assert_eq!(rig.audit.all()[0].by, "ann");
}
