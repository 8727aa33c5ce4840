//! Traces as a real collector receives them, over real gRPC.
#![allow(clippy::disallowed_methods, reason = "the collector of this test is a task of its own")]

use std::time::Duration;

use countersign_telemetry::{Log, Traces, install, names, propagate};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tracing::Instrument as _;

const REMOTE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CAUSE: &str = "00-11111111111111111111111111111111-2222222222222222-01";
const LIMIT: Duration = Duration::from_secs(10);

struct Collector(mpsc::Sender<(String, ExportTraceServiceRequest)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let _ = self.0.send((shown, request.into_inner())).await;
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (String, mpsc::Receiver<(String, ExportTraceServiceRequest)>) {
    let (sender, receiver) = mpsc::channel(16);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (format!("http://{address}"), receiver)
}

// One test for the whole journey: a process has one subscriber.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_over_a_message_and_arrives_at_the_collector() {
    let (endpoint, mut exports) = collector().await;
    let headers = std::env::temp_dir().join(format!("countersign-otlp-headers-{}", std::process::id()));
    std::fs::write(&headers, "# of the hosted backend\nAuthorization: Bearer secret\n").unwrap();
    let traces = Traces { otlp_endpoint: Some(endpoint), otlp_headers_file: headers.clone(), ..Traces::default() };
    let guard = install("upstream", &Log::default(), &traces).unwrap();
    std::fs::remove_file(headers).unwrap();
    assert!(install("upstream", &Log::default(), &Traces::default()).is_err(), "a second subscriber is refused");

    let send = tracing::info_span!(
        names::SPAN_SEND,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_SEND, "orders"),
        { names::OTEL_KIND } = names::PRODUCER,
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    assert!(propagate::set_parent(&send, REMOTE, Some("vendor=note")));
    assert!(propagate::link(&send, CAUSE, None));
    let carried = async { propagate::current() }.instrument(send.clone()).await;
    let (traceparent, tracestate) = carried.expect("a span that is exported has a context");
    assert_eq!(propagate::of(&send).unwrap().0, traceparent);
    assert!(traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && traceparent != REMOTE);
    assert_eq!(tracestate.as_deref(), Some("vendor=note"));
    assert!(!propagate::set_parent(&send, CAUSE, None), "an entered span keeps its parent");
    countersign_telemetry::failed(&send, "full");
    drop(send);

    let process = tracing::info_span!(names::SPAN_PROCESS, { names::OTEL_KIND } = names::CONSUMER);
    assert!(propagate::set_parent(&process, &traceparent, tracestate.as_deref()));
    process.in_scope(|| tracing::info_span!(target: "lapin::channel", "noise").in_scope(|| {}));
    drop(process);
    assert!(guard.shutdown(LIMIT).await);

    let (shown, export) = tokio::time::timeout(LIMIT, exports.recv()).await.unwrap().unwrap();
    let [of_one_process] = &export.resource_spans[..] else { panic!("{export:?}") };
    assert_eq!(shown, "Bearer secret");
    let resource = format!("{:?}", of_one_process.resource);
    for part in ["service.name", "countersign-upstream", "service.version", "service.instance.id"] {
        assert!(resource.contains(part), "{part}: {resource}");
    }
    let spans: Vec<&Span> = of_one_process.scope_spans.iter().flat_map(|s| &s.spans).collect();
    let named = |name: &str| *spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name}: {spans:?}"));
    let (send, process) = (named("send orders"), named("process"));
    assert_eq!(send.kind(), SpanKind::Producer);
    assert_eq!(send.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(send.links[0].trace_id, [0x11; 16]);
    let has = |key: &str| send.attributes.iter().any(|a| a.key == key);
    assert!(has("messaging.system") && has("error.type") && !has("otel.name"));
    let status = send.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "full"));
    assert_eq!(process.parent_span_id, send.span_id);
    assert_eq!(process.trace_id, send.trace_id);
    assert_eq!(spans.len(), 2, "what would feed the export with itself is kept out");
}
