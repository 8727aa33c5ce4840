use countersign_delivery::reconcile::MINUTE_MS;
use countersign_delivery::{Timestamp, UpstreamName};
use countersign_testkit::build::upstream;
use tonic::Code;

use super::*;
use crate::stage::{Process, Stage, an_order, pass, section};

const MINUTE: i64 = MINUTE_MS.cast_signed();

fn api_of(process: &Process) -> Api {
    Api { upstream: process.upstream.clone(), calls: Arc::new(Semaphore::new(CALLS_MAX)) }
}

/// So many orders, all in the first minute of all.
async fn with_orders(count: usize) -> (Stage, Process) {
    let stage = Stage::new();
    stage.clock.set(Timestamp::default());
    let process = stage.start().await;
    for n in 0..count {
        process.upstream.send(an_order(&n.to_string())).await;
    }
    pass(2_000).await;
    (stage, process)
}

async fn digest(api: &Api, from_ms: i64, until_ms: i64) -> Result<proto::GetDigestResponse, Status> {
    api.get_digest(Request::new(proto::GetDigestRequest { from_ms, until_ms })).await.map(Response::into_inner)
}

fn first_minute(subscription: &str) -> proto::ListStoredRequest {
    proto::ListStoredRequest { until_ms: MINUTE, subscription: subscription.into(), ..Default::default() }
}

async fn list(api: &Api, request: proto::ListStoredRequest) -> Result<proto::ListStoredResponse, Status> {
    api.list_stored(Request::new(request)).await.map(Response::into_inner)
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, words: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(words), "{words} in {status}");
}

#[tokio::test(start_paused = true)]
async fn a_bad_window_is_refused_by_both_calls() {
    let (_stage, process) = with_orders(1).await;
    let api = api_of(&process);
    let rows = [
        (1, MINUTE, "from_ms is 1: give a whole minute"),
        (0, MINUTE + 1, "until_ms is 60001: give a whole minute"),
        (-MINUTE, 0, "from_ms is -60000"),
        (MINUTE, MINUTE, "the window is empty"),
        (2 * MINUTE, MINUTE, "the window is empty"),
        (0, 1_441 * MINUTE, "at most 86400000 are answered at once"),
    ];
    for (from_ms, until_ms, words) in rows {
        refused(digest(&api, from_ms, until_ms).await, words);
        refused(list(&api, proto::ListStoredRequest { from_ms, until_ms, ..first_minute("orders") }).await, words);
    }
    assert!(digest(&api, 0, 1_440 * MINUTE).await.is_ok(), "a whole day");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_window_and_of_nothing_is_refused() {
    let (_stage, process) = with_orders(3).await;
    let api = api_of(&process);
    let page = list(&api, proto::ListStoredRequest { page_size: 1, ..first_minute("orders") }).await.unwrap();
    let token = page.next_page_token;
    assert!(!token.is_empty());
    let next = proto::ListStoredRequest { page_token: token.clone(), ..first_minute("orders") };
    assert_eq!(list(&api, next.clone()).await.unwrap().messages.len(), 2);
    let elsewhere = proto::ListStoredRequest { from_ms: MINUTE, until_ms: 2 * MINUTE, ..next };
    refused(list(&api, elsewhere).await, "not a token of ListStored for this window");
    for page_token in ["7", "not a token", &token[1..]] {
        let request = proto::ListStoredRequest { page_token: page_token.into(), ..first_minute("orders") };
        refused(list(&api, request).await, "give the next_page_token of the page before");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_end_and_one_that_is_too_large_is_refused() {
    let (_stage, process) = with_orders(7).await;
    let api = api_of(&process);
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = proto::ListStoredRequest { page_size: 3, page_token, ..first_minute("orders") };
        let page = list(&api, request).await.unwrap();
        assert!(page.messages.len() <= 3);
        ids.extend(page.messages.into_iter().map(|stored| stored.message_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let minute = digest(&api, 0, MINUTE).await.unwrap().minutes.remove(0);
    assert_eq!((minute.subscription.as_str(), minute.count, ids.len()), ("orders", 7, 7));
    assert!(ids.is_sorted());
    assert_eq!(
        list(&api, proto::ListStoredRequest { page_size: MAX_PAGE, ..first_minute("orders") }).await.unwrap().messages.len(),
        7
    );
    refused(list(&api, proto::ListStoredRequest { page_size: MAX_PAGE + 1, ..first_minute("orders") }).await, "at most 5000");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_nobody_has_stored_for_has_no_messages() {
    let (_stage, process) = with_orders(1).await;
    let api = api_of(&process);
    let page = list(&api, first_minute("nobody")).await.unwrap();
    assert_eq!((page.messages.len(), page.next_page_token.as_str()), (0, ""));
    refused(list(&api, first_minute("")).await, "");
}

#[tokio::test(start_paused = true)]
async fn of_two_upstreams_on_one_database_each_tells_its_own_messages_under_its_own_name() {
    let (stage, process) = with_orders(2).await;
    let messages = Arc::new(stage.messages.clone());
    let other = stage.start_on(crate::config::UpstreamSection { name: upstream("other"), ..section() }, messages);
    pass(1).await;
    for n in 0..3 {
        other.upstream.send(an_order(&format!("other {n}"))).await;
    }
    pass(2_000).await;
    let told = async |process: &Process| {
        let answer = digest(&api_of(process), 0, MINUTE).await.unwrap();
        let listed = list(&api_of(process), first_minute("orders")).await.unwrap().messages.len();
        (UpstreamName::new(&answer.upstream).unwrap(), answer.minutes[0].count, listed)
    };
    assert_eq!(told(&process).await, (section().name, 2, 2));
    assert_eq!(told(&other).await, (upstream("other"), 3, 3));
}

#[tokio::test(start_paused = true)]
async fn more_calls_at_a_time_than_may_be_are_told_to_come_again() {
    let (_stage, process) = with_orders(1).await;
    let api = api_of(&process);
    let taken = [api.turn().unwrap(), api.turn().unwrap()];
    let status = digest(&api, 0, MINUTE).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(list(&api, first_minute("orders")).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(taken);
    assert!(digest(&api, 0, MINUTE).await.is_ok());
}
