//! What operators may ask and are answered.

use std::sync::Arc;

use countersign_audit::Auditor;
use countersign_delivery::SubscriptionName;
use countersign_testkit::build::a_topology;
use countersign_testkit::pauses::MemoryPauses;
use countersign_wire::acts;
use countersign_wire::proto::subscription_service_server::SubscriptionService as _;
use countersign_wire::proto::{BreakerState, ListSubscriptionsRequest, PauseSubscriptionRequest, ResumeSubscriptionRequest};
use tonic::{Code, Request};

use super::world::{Given, QUEUE, RECEIPTS, World};
use crate::Guard;
use crate::grpc::subscriptions::Api;
use crate::pause::Watch;
use crate::standing::Standing;

/// The API over a subscription that can be paused and one that cannot.
fn api(world: &World, pauses: &MemoryPauses) -> Api {
    let mut watch = Watch::new(Arc::new(pauses.clone()));
    let known = watch.over(&world.lane.reception.subscription.name);
    let one = Standing { paused: known, ..Standing::of(&world.lane) };
    let name = SubscriptionName::new("audit").unwrap();
    let other = Standing { name, guard: Guard::Inbox, ..Standing::of(&world.lane) };
    let auditor = Auditor::new(&world.context, ("downstream", "stock"), Arc::new(world.broker.clone()), &a_topology());
    Api::new(vec![one, other], watch, world.context.clock.clone(), auditor)
}

fn pause(name: &str, reason: &str, by: &str) -> Request<PauseSubscriptionRequest> {
    Request::new(PauseSubscriptionRequest { name: name.into(), reason: reason.into(), by: by.into() })
}

fn resume(name: &str) -> Request<ResumeSubscriptionRequest> {
    Request::new(ResumeSubscriptionRequest { name: name.into(), by: "ada".into() })
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_listed_until_it_is_resumed() {
    let world = World::given(Given { breaker_failures: 1, rate_per_second: Some(9), ..Given::default() });
    let (pauses, list) = (MemoryPauses::default(), || Request::new(ListSubscriptionsRequest {}));
    let api = api(&world, &pauses);
    world.lane.reception.breaker.failed();
    let answer = api.pause_subscription(pause(QUEUE, "a bad roll-out", "ada")).await.unwrap().into_inner();
    let listed = api.list_subscriptions(list()).await.unwrap().into_inner().subscriptions;
    assert_eq!(listed.iter().map(|status| status.name.as_str()).collect::<Vec<_>>(), ["audit", QUEUE], "by name");
    assert_eq!(Some(&listed[1]), answer.subscription.as_ref());
    let shown = listed[1].paused.clone().unwrap();
    assert_eq!(
        (shown.reason.as_str(), shown.by.as_str(), shown.since_ms),
        ("a bad roll-out", "ada", world.context.clock.now().as_millis())
    );
    assert_eq!((listed[1].breaker(), listed[1].rate_per_second, listed[1].concurrency), (BreakerState::Open, 9, 4));
    assert!(api.resume_subscription(resume(QUEUE)).await.unwrap().into_inner().was_paused);
    assert_eq!(api.list_subscriptions(list()).await.unwrap().into_inner().subscriptions[1].paused, None);
    assert!(!api.resume_subscription(resume(QUEUE)).await.unwrap().into_inner().was_paused);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_paused_is_refused_with_words_that_help() {
    let (world, pauses) = (World::new(), MemoryPauses::default());
    let api = api(&world, &pauses);
    let long = "x".repeat(301);
    let rows = [
        (pause("inventry", "why", ""), Code::NotFound, "it handles audit, inventory"),
        (pause(QUEUE, " ", ""), Code::InvalidArgument, "1 to 300"),
        (pause(QUEUE, &long, ""), Code::InvalidArgument, "301 bytes"),
        (pause(QUEUE, "why", &long), Code::InvalidArgument, "at most 100"),
        (pause("audit", "why", ""), Code::FailedPrecondition, "guard inbox"),
    ];
    for (request, code, words) in rows {
        let status = api.pause_subscription(request).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(words), "{status:?}");
    }
    assert_eq!(api.resume_subscription(resume("audit")).await.unwrap_err().code(), Code::FailedPrecondition);
    pauses.go_down();
    assert_eq!(api.pause_subscription(pause(QUEUE, "why", "")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(api.resume_subscription(resume(QUEUE)).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_resume_are_told_before_and_after_whatever_becomes_of_them() {
    let (world, pauses) = (World::new(), MemoryPauses::default());
    let api = api(&world, &pauses);
    api.pause_subscription(pause(QUEUE, "a bad roll-out", "ada")).await.unwrap();
    api.resume_subscription(resume(QUEUE)).await.unwrap();
    api.resume_subscription(resume(QUEUE)).await.unwrap();
    api.pause_subscription(pause("inventry", "why", "ada")).await.unwrap_err();
    pauses.go_down();
    api.pause_subscription(pause(QUEUE, "why", "ada")).await.unwrap_err();
    let told: Vec<_> = world.broker.ready(RECEIPTS).into_iter().flat_map(|batch| acts::decode(batch.body).unwrap()).collect();
    let said: Vec<_> = told.iter().map(|told| [told.act.as_str(), &told.subscription, told.result.as_str()]).collect();
    let expected = [
        ["pause", QUEUE, "done"],
        ["resume", QUEUE, "done"],
        ["resume", QUEUE, "done"],
        ["pause", "inventry", "refused"],
        ["pause", QUEUE, "failed"],
    ];
    let expected: Vec<_> = expected.into_iter().flat_map(|ended| [[ended[0], ended[1], "begun"], ended]).collect();
    assert_eq!(said, expected);
    assert_eq!((told[1].by.as_str(), told[1].reason.as_str(), told[1].id), ("ada", "a bad roll-out", told[0].id));
    assert!(told[5].detail == "it was not paused" && told[7].detail.contains("does not handle"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_while_the_broker_is_away() {
    let (world, pauses) = (World::new(), MemoryPauses::default());
    let api = api(&world, &pauses);
    world.broker.go_down();
    let answer = api.pause_subscription(pause(QUEUE, "the broker is sick", "ada")).await.unwrap().into_inner();
    assert!(answer.subscription.unwrap().paused.is_some());
    world.broker.come_up();
    world.until("both tellings are there", |world| world.broker.depth(RECEIPTS) == 2).await;
}
