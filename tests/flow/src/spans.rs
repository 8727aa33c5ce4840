//! A collector of traces inside the test: speaks OTLP over gRPC, keeps every span.

mod seen;
mod tree;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

pub use seen::Seen;

/// The spans received so far.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Seen>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.lock().extend(request.into_inner().resource_spans.into_iter().flat_map(seen::all_of));
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
        let service = TraceServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok((collector, address))
    }

    /// Every span so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// The message's own trace as text: a line for each span, its children indented below it, siblings by name; see [`Seen::line`]. What is
    /// the same twice is there once.
    ///
    /// # Errors
    /// When no span of step 1 names the message.
    pub fn trace_of(&self, message_id: &str) -> anyhow::Result<String> {
        let own = self.id_of_trace_of(message_id)?;
        Ok(tree::of(&self.spans(), |span| span.trace_id() == own))
    }

    /// The traces that are linked to the message's own and got as far as a verdict, as text like [`Self::trace_of`].
    ///
    /// # Errors
    /// When no span of step 1 names the message.
    pub fn checks_of(&self, message_id: &str) -> anyhow::Result<String> {
        let own = self.id_of_trace_of(message_id)?;
        let spans = self.spans();
        let undecided = |span: &Seen| matches!(span.text("countersign.verdict").as_deref(), Some("wait" | "stale"));
        let linked =
            |span: &&Seen| span.links().iter().any(|(trace, _)| *trace == own) && span.trace_id() != own && !undecided(span);
        let traces: BTreeSet<Vec<u8>> = spans.iter().filter(linked).map(|span| span.trace_id().to_vec()).collect();
        Ok(tree::of(&spans, |span| traces.contains(span.trace_id())))
    }

    fn id_of_trace_of(&self, message_id: &str) -> anyhow::Result<Vec<u8>> {
        let names_it = |span: &&Seen| span.is_step("1") && span.text("messaging.message.id").as_deref() == Some(message_id);
        let spans = self.spans();
        let first = spans.iter().find(names_it).context("no span of step 1 names the message")?;
        Ok(first.trace_id().to_vec())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
