//! What operators may ask and are answered.

use std::sync::Arc;

use countersign_delivery::SubscriptionName;
use countersign_testkit::pauses::MemoryPauses;
use countersign_wire::proto::subscription_service_server::SubscriptionService as _;
use countersign_wire::proto::{BreakerState, ListSubscriptionsRequest, PauseSubscriptionRequest, ResumeSubscriptionRequest};
use tonic::{Code, Request};

use super::world::{Given, QUEUE, World};
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
    Api::new(vec![one, other], watch, world.context.clock.clone())
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
