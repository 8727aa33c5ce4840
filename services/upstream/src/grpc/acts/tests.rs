use countersign_delivery::ports::audit::ToldAct;
use countersign_delivery::topology::Mode;
use countersign_wire::acts;
use countersign_wire::proto::upstream_service_server::UpstreamService as _;
use tonic::Code;

use super::*;
use crate::accept::NewMessage;
use crate::grpc::Api;
use crate::send::Outcome;
use crate::stage::{Process, Stage, an_order, pass};

const RECEIPTS: &str = "countersign.receipts";

fn api(stage: &Stage, process: &Process) -> Api {
    let name = ("upstream", "shop");
    let auditor = Auditor::new(&process.context, name, std::sync::Arc::new(stage.broker.clone()), &stage.topology);
    Api { upstream: process.upstream.clone(), auditor }
}

/// Act, what it was about, result and detail of everything that was told, in order.
fn told(stage: &Stage) -> Vec<[String; 4]> {
    let batches = stage.broker.ready(RECEIPTS).into_iter();
    let told = batches.flat_map(|batch| acts::decode(batch.body).unwrap());
    told.map(|ToldAct { act, target, result, detail, .. }| [act, target, result.as_str().to_owned(), detail]).collect()
}

fn row(act: &str, target: &str, result: &str, detail: &str) -> [String; 4] {
    [act, target, result, detail].map(str::to_owned)
}

fn named(by: Option<Named>, with_body: bool) -> Request<proto::GetMessageRequest> {
    Request::new(proto::GetMessageRequest { by, with_body, operator: "ann".into() })
}

async fn sent(process: &Process, key: &str) -> String {
    let outcome = process.upstream.send(NewMessage { idempotency_key: key.into(), ..an_order(key) }).await;
    pass(10).await;
    let (Outcome::Confirmed(accepted) | Outcome::Committed(accepted)) = outcome else { panic!("{outcome:?}") };
    accepted.id.to_string()
}

#[tokio::test(start_paused = true)]
async fn each_question_for_a_body_is_told_and_the_body_is_not() {
    let stage = Stage::new();
    let process = stage.start().await;
    let (api, id) = (api(&stage, &process), sent(&process, "A-1").await);
    let (by_id, key) = (|id: &str| Some(Named::Id(id.to_owned())), Some(Named::IdempotencyKey("A-1".into())));
    let shown = api.get_message(named(by_id(&id.to_uppercase()), true)).await.unwrap().into_inner();
    let body = shown.message.unwrap().body;
    assert!(!body.is_empty());
    let bytes = format!("{} bytes shown", body.len());
    assert_eq!(told(&stage), [row("reveal_message", &id, "begun", ""), row("reveal_message", &id, "done", &bytes)]);
    stage.broker.purge(RECEIPTS);

    api.get_message(named(key, true)).await.unwrap();
    assert_eq!(told(&stage), [row("reveal_message", "key A-1", "begun", ""), row("reveal_message", &id, "done", &bytes)]);
    stage.broker.purge(RECEIPTS);
    let refused = [(by_id("no id"), Code::InvalidArgument), (None, Code::InvalidArgument), (by_id(&other(&id)), Code::NotFound)];
    for (by, code) in refused {
        assert_eq!(api.get_message(named(by, true)).await.unwrap_err().code(), code);
    }
    let results: Vec<_> = told(&stage).into_iter().map(|[_, _, result, _]| result).collect();
    assert_eq!(results, ["begun", "refused"].repeat(3));
    stage.broker.purge(RECEIPTS);

    assert!(api.get_message(named(by_id(&id), false)).await.unwrap().into_inner().message.unwrap().body.is_empty());
    assert_eq!(told(&stage), Vec::<[String; 4]>::new(), "who asks for no body is not told of");
    process.stop().await;
}

/// An id like this one that nobody has.
fn other(id: &str) -> String {
    id[..id.len() - 1].to_owned() + if id.ends_with('f') { "e" } else { "f" }
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_no_body_is_shown_and_a_release_goes_on() {
    let stage = Stage::new().with_route(Mode::Outbox, false);
    let process = stage.start().await;
    let (api, id) = (api(&stage, &process), sent(&process, "A-1").await);
    stage.broker.go_down();
    let refused = api.get_message(named(Some(Named::Id(id.clone())), true)).await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("nothing was done"), "{refused:?}");
    assert!(api.get_message(named(Some(Named::Id(id.clone())), false)).await.is_ok(), "without its body it is shown");
    let release = proto::ReleaseMessagesRequest { ids: vec![id.clone()], by: "ann".into() };
    let answer = api.release_messages(Request::new(release)).await.unwrap().into_inner();
    assert_eq!(answer.results[0].state(), proto::ReleaseState::NotFailed, "it was tried");
    stage.broker.come_up();
    let all_told = async {
        while told(&stage).len() < 4 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), all_told).await.expect("it is told later");
    let rows = told(&stage);
    for expected in [["reveal_message", "failed"], ["release", "refused"]] {
        assert!(
            rows.iter().any(|[act, target, result, _]| [act, result] == expected && *target == id),
            "{expected:?} in {rows:?}"
        );
    }
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_message_of_a_release_is_an_act_of_its_own() {
    let stage = Stage::new().with_route(Mode::Outbox, false);
    let process = stage.start().await;
    let (api, id) = (api(&stage, &process), sent(&process, "A-1").await);
    let release = async |ids: Vec<String>| {
        stage.broker.purge(RECEIPTS);
        let answer = api.release_messages(Request::new(proto::ReleaseMessagesRequest { ids, by: "ann".into() })).await;
        (answer.map_err(|status| status.code()).map(|_| ()), told(&stage))
    };
    let (answer, rows) = release(vec![id.clone(), other(&id)]).await;
    assert_eq!((answer, rows.len(), stage.broker.depth(RECEIPTS)), (Ok(()), 4, 2), "in two batches");
    assert_eq!(rows[2], row("release", &id, "refused", "the broker has confirmed it"));
    assert_eq!(rows[3], row("release", &other(&id), "refused", "this upstream has no such message of mode outbox"));
    let (answer, rows) = release(vec![id.clone(), "no id".into()]).await;
    let short: Vec<_> = rows[2..].iter().map(|[_, target, result, _]| (target.as_str(), result.as_str())).collect();
    assert_eq!((answer, short), (Err(Code::InvalidArgument), vec![(id.as_str(), "refused"), ("no id", "refused")]));
    let (answer, rows) = release(Vec::new()).await;
    assert_eq!((answer, rows[1].clone()[1].as_str(), rows.len()), (Err(Code::InvalidArgument), "0 messages", 2));
    process.stop().await;
}
