//! An upstream that does not answer in time for as much as it is asked for.

use std::time::Duration;

use countersign_boot::Client;
use countersign_callback::upstreams::digests::Digests as _;
use countersign_callback::upstreams::digests::grpc::GrpcDigests;
use countersign_delivery::Outcome as Signed;
use countersign_delivery::reconcile::{Certificate, MINUTE_MS, State, Window};
use countersign_testkit::build::NOW;
use tokio::net::TcpListener;

use super::{HOUR_MS, Net, counts, last_hour};

/// How long each window was, minutes, that one reconciliation of the last hour asked for, and what it came to.
async fn asked_of(quick_minutes: u64, late: Option<tonic::Code>) -> (Vec<u64>, Certificate) {
    let net = Net::new();
    for minutes_ago in [58, 31, 9] {
        let messages = net.stored(minutes_ago, 2);
        net.signed(&messages, &Signed::Done).await;
    }
    (net.digests.lock().quick_minutes, net.digests.lock().late) = (Some(quick_minutes), late);
    let certificate = net.reconcile_one().await;
    let long = |window: &Window| window.until.millis_since(window.since) / MINUTE_MS;
    let asked = net.digests.lock().sums.iter().map(long).collect();
    (asked, certificate)
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_is_asked_for_in_halves_and_then_in_the_size_that_worked() {
    let late = [None, Some(tonic::Code::DeadlineExceeded), Some(tonic::Code::Cancelled)];
    for late in late {
        let (asked, certificate) = asked_of(15, late).await;
        assert_eq!(asked, [60, 30, 15, 15, 15, 15], "{late:?}");
        assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [6, 6, 0, 0, 0, 0, 0]), "{late:?}");
        let until = NOW.minus_millis(MINUTE_MS);
        assert_eq!(certificate.compared, Window { since: NOW.minus_millis(HOUR_MS), until }, "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_who_is_too_late_with_one_minute_is_unreachable() {
    let (asked, certificate) = asked_of(0, None).await;
    assert_eq!((asked, certificate.state), (vec![60, 30, 15, 7, 3, 1], State::Unreachable));
    let (asked, certificate) = asked_of(1, None).await;
    assert_eq!((asked.len(), certificate.state), (5 + 60, State::Certified));
    let (asked, certificate) = asked_of(0, Some(tonic::Code::Unavailable)).await;
    assert_eq!((asked, certificate.state), (vec![60], State::Unreachable), "what fails at once is not asked for less");
}

#[tokio::test(start_paused = true)]
async fn what_upstreams_retention_passes_while_slices_are_asked_for_is_not_vouched_for() {
    let net = Net::new();
    for minutes_ago in [50, 42, 35, 9] {
        let messages = net.stored(minutes_ago, 2);
        net.signed(&messages, &Signed::Done).await;
    }
    // The first slice ends 45 minutes ago, and was all there; the second one is not any more.
    let kept = |minutes_ago: u64| Some(NOW.minus_millis(minutes_ago * MINUTE_MS));
    net.digests.lock().quick_minutes = Some(15);
    (net.digests.lock().kept_from, net.digests.lock().kept_later) = (kept(58), kept(40));
    let certificate = net.reconcile_one().await;
    assert_eq!((certificate.state, counts(&certificate)), (State::Certified, [4, 4, 0, 0, 0, 0, 0]), "{certificate:?}");
    assert_eq!(certificate.compared.since, NOW.minus_millis(40 * MINUTE_MS));
}

#[tokio::test]
async fn a_call_that_nobody_answers_is_late_and_one_that_nobody_takes_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let digests = GrpcDigests::new(Duration::from_millis(300), &Client::default());
    let error = digests.sums(&address, last_hour()).await.unwrap_err();
    assert!(error.is_late(), "{error:?}");
    drop(listener);
    let error = GrpcDigests::new(Duration::from_secs(10), &Client::default()).sums(&address, last_hour()).await.unwrap_err();
    assert!(!error.is_late(), "{error:?}");
}
