//! A process that exports no traces.

use std::time::Duration;

use countersign_telemetry::{Log, Metrics, Traces, install, names, propagate};
use tracing::level_filters::LevelFilter;

#[tokio::test]
async fn without_an_endpoint_there_is_no_context_and_nothing_to_wait_for() {
    let guard = install("callback", &Log::default(), &Traces::default()).unwrap();
    let span = tracing::info_span!(names::SPAN_CHECK);
    assert!(!propagate::set_parent(&span, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None));
    assert_eq!(propagate::of(&span), None);
    assert!(span.is_disabled(), "a span that nobody exports costs as much as one that somebody does");
    assert!(tracing::info_span!(target: "h2::proto", "noise").is_disabled());
    assert!(guard.shutdown(Duration::from_secs(1)).await);
}

#[tokio::test]
async fn what_the_filter_leaves_out_is_found_out_without_asking_it() {
    // Whoever comes second finds the same subscriber.
    drop(install("callback", &Log::default(), &Traces::default()));
    assert_eq!(LevelFilter::current(), LevelFilter::INFO);
}

#[test]
fn every_metric_that_is_recorded_is_scraped_with_its_meaning() {
    let metrics = Metrics::install().unwrap();
    metrics::counter!(names::PUBLISH_TOTAL, "kind" => "message", "outcome" => "confirmed").increment(2);
    metrics::histogram!(names::HANDLER_DURATION_SECONDS, "subscription" => "orders").record(0.2);
    metrics.upkeep();
    let text = metrics.render();
    assert!(text.contains("# HELP countersign_publish_total "), "{text}");
    assert!(text.contains("countersign_publish_total{kind=\"message\",outcome=\"confirmed\"} 2"), "{text}");
    assert!(text.contains("countersign_handler_duration_seconds_bucket{subscription=\"orders\",le=\"0.25\"} 1"), "{text}");
}
