//! A collector of traces inside the test: speaks OTLP over gRPC, keeps every span.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// The spans received so far.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.lock().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port; returns the address for `traces.otlp_endpoint`.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start() -> anyhow::Result<(Self, String)> {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok((collector, address))
    }

    /// Every span so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.lock().clone()
    }

    /// The steps (attribute `countersign.step`) seen in the message's own trace.
    ///
    /// # Errors
    /// When no span of step 1 names the message.
    pub fn steps_in_trace_of(&self, message_id: &str) -> anyhow::Result<BTreeSet<String>> {
        let trace = self.trace_of(message_id)?;
        Ok(self.spans().iter().filter(|span| span.trace_id == trace).filter_map(step).collect())
    }

    fn trace_of(&self, message_id: &str) -> anyhow::Result<Vec<u8>> {
        let names_it = |span: &&Span| {
            step(span).as_deref() == Some("1") && text(span, "messaging.message.id").as_deref() == Some(message_id)
        };
        self.spans().iter().find(names_it).map(|span| span.trace_id.clone()).context("no span of step 1 names the message")
    }

    /// The steps seen in the trace of a message and in the traces linked with it, one way or the other.
    ///
    /// # Errors
    /// When no span of step 1 names the message.
    pub fn steps_of(&self, message_id: &str) -> anyhow::Result<BTreeSet<String>> {
        let spans = self.spans();
        let mut traces = BTreeSet::from([self.trace_of(message_id)?]);
        loop {
            let linked = spans
                .iter()
                .filter(|span| traces.contains(&span.trace_id) || span.links.iter().any(|link| traces.contains(&link.trace_id)));
            let grown: BTreeSet<Vec<u8>> = linked.map(|span| span.trace_id.clone()).chain(traces.iter().cloned()).collect();
            if grown.len() == traces.len() {
                break;
            }
            traces = grown;
        }
        Ok(spans.iter().filter(|span| traces.contains(&span.trace_id)).filter_map(step).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn step(span: &Span) -> Option<String> {
    text(span, "countersign.step")
}

fn text(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
