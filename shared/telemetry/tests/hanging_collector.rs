//! A collector that takes the connection and then says nothing.

use std::time::{Duration, Instant};

use countersign_telemetry::{Log, Metrics, Traces, install, names};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_holds_up_neither_work_nor_the_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let traces = Traces { otlp_endpoint: Some(endpoint), max_queue: 64, max_batch: 64, ..Traces::default() };
    let guard = install("callback", &Log { filter: "off".to_owned(), ..Log::default() }, &traces).unwrap();
    let metrics = Metrics::install().unwrap();
    let start = Instant::now();
    for _ in 0..10_000 {
        tracing::info_span!(names::SPAN_CHECK).in_scope(|| {});
    }
    assert!(start.elapsed() < Duration::from_secs(3), "10,000 spans took {:?}", start.elapsed());
    // 64 are on their way and 64 wait at most.
    let text = metrics.render();
    let dropped = text.lines().find_map(|line| line.strip_prefix("countersign_spans_dropped_total{reason=\"full\"} ")).unwrap();
    let dropped: u32 = dropped.parse().unwrap();
    assert!((10_000 - 128..=10_000 - 64).contains(&dropped), "{dropped} of 10,000 dropped");
    let start = Instant::now();
    assert!(!guard.shutdown(Duration::from_millis(500)).await);
    assert!(start.elapsed() < Duration::from_secs(3), "the end took {:?}", start.elapsed());
}
