//! A collector that takes the connection and then says nothing.

use std::time::{Duration, Instant};

use countersign_telemetry::{Log, Traces, install, names};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_holds_up_neither_work_nor_the_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let traces = Traces { otlp_endpoint: Some(endpoint), max_queue: 64, max_batch: 64, ..Traces::default() };
    let guard = install("callback", &Log { filter: "off".to_owned(), ..Log::default() }, &traces).unwrap();
    let start = Instant::now();
    for _ in 0..10_000 {
        tracing::info_span!(names::SPAN_CHECK).in_scope(|| {});
    }
    assert!(start.elapsed() < Duration::from_secs(3), "10,000 spans took {:?}", start.elapsed());
    let start = Instant::now();
    assert!(!guard.shutdown(Duration::from_millis(500)).await);
    assert!(start.elapsed() < Duration::from_secs(3), "the end took {:?}", start.elapsed());
}
