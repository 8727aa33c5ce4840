//! The queue before the exporter: bounded, counted, and never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

use crate::config::Traces;
use crate::names;

/// Hands finished spans to the exporter's own thread; what finds the queue full is dropped and counted.
///
/// **Invariant:** no more than `traces.max_queue` spans wait, so the queue inside, which is as long, never drops one silently.
#[derive(Debug)]
pub struct Queue {
    waiting: Arc<AtomicUsize>,
    max: usize,
    inner: BatchSpanProcessor,
}

impl Queue {
    /// A queue before this exporter, with the bounds of the section.
    pub fn before(exporter: impl SpanExporter + 'static, traces: &Traces) -> Self {
        let bounds = BatchConfigBuilder::default()
            .with_max_queue_size(traces.max_queue)
            .with_max_export_batch_size(traces.max_batch)
            .with_scheduled_delay(Duration::from_millis(traces.interval_ms))
            .build();
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Counted { inner: exporter, waiting: waiting.clone(), failing: AtomicBool::new(false) };
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(bounds).build();
        Self { waiting, max: traces.max_queue, inner }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::AcqRel) < self.max {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            metrics::counter!(names::SPANS_DROPPED_TOTAL, "reason" => "full").increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what leaves the queue, and what the collector did not take; logs when that begins and when it ends.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                if self.failing.swap(false, Ordering::AcqRel) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                let lost = u64::try_from(count).unwrap_or(u64::MAX);
                metrics::counter!(names::SPANS_DROPPED_TOTAL, "reason" => "failed").increment(lost);
                if !self.failing.swap(true, Ordering::AcqRel) {
                    tracing::warn!(%error, "spans cannot be exported: they are dropped, and work goes on; see traces.otlp_endpoint");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
