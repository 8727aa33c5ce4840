//! A collector that is not there.

use std::time::{Duration, Instant};

use countersign_telemetry::{Log, Metrics, Traces, install, names};

/// How long the exporter may take to notice.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_costs_spans_and_nothing_else() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let traces = Traces { otlp_endpoint: Some(format!("http://{closed}")), interval_ms: 10, ..Traces::default() };
    let guard = install("callback", &Log { filter: "off".to_owned(), ..Log::default() }, &traces).unwrap();
    let metrics = Metrics::install().unwrap();
    let start = Instant::now();
    for _ in 0..1_000 {
        tracing::info_span!(names::SPAN_CHECK).in_scope(|| {});
    }
    assert!(start.elapsed() < Duration::from_secs(3), "1,000 spans took {:?}", start.elapsed());
    let all_counted = || metrics.render().lines().any(|line| line == "countersign_spans_dropped_total{reason=\"failed\"} 1000");
    while !all_counted() {
        assert!(start.elapsed() < LIMIT, "{}", metrics.render());
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    guard.shutdown(Duration::from_secs(5)).await;
    assert!(start.elapsed() < Duration::from_secs(3), "the end took {:?}", start.elapsed());
}
