//! Installs logging and the export of traces, and takes them down again.

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, Targets, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt};

use crate::config::{Log, LogFormat, LogOutput, Traces};
use crate::error::Error;
use crate::export::provider;

/// The AMQP client logs returned messages with their bodies here; payloads appear in no log, whatever filter is asked for.
const NEVER_LOGGED: &str = "lapin::returned_messages=off";
/// Targets that never enter a trace: they carry the export itself (an endless loop), or they are far too many.
const KEPT_OUT: [&str; 9] = ["h2", "hyper", "tonic", "tower", "lapin", "opentelemetry", "reqwest", "rustls", "sqlx"];

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// Installs the subscriber of this process: log lines, and traces when `traces.otlp_endpoint` is given.
///
/// `service` becomes the resource attribute `service.name`, as `countersign-<service>`; version and a random id of this process stand
/// beside it, and what the environment variable `OTEL_RESOURCE_ATTRIBUTES` says. Call once, inside a tokio runtime
/// with at least two worker threads: on one thread the exporter and the work it waits for can block each other.
///
/// # Errors
/// [`Error::Filter`], [`Error::File`] and [`Error::Exporter`] for a configuration that cannot be used, [`Error::SubscriberInstalled`] for
/// a second call.
pub fn install(service: &str, log: &Log, traces: &Traces) -> Result<Guard, Error> {
    let directives = format!("{},{NEVER_LOGGED}", log.filter);
    let filter = directives.parse::<EnvFilter>().map_err(|source| Error::Filter { filter: log.filter.clone(), source })?;
    let provider = match &traces.otlp_endpoint {
        Some(endpoint) => Some(provider(service, endpoint, traces)?),
        None => None,
    };
    // Lines name what they are about themselves; a span is made for the exporter alone, and costs next to nothing without one. A layer that is
    // an absent one would want every span of every library, and a filter that says no level would be asked about each of them.
    let events = filter_fn(|metadata| !metadata.is_span()).with_max_level_hint(LevelFilter::TRACE);
    let subscriber = tracing_subscriber::registry().with(lines(log).with_filter(filter.and(events)));
    match &provider {
        Some(provider) => subscriber.with(spans(provider)).try_init()?,
        None => subscriber.try_init()?,
    }
    Ok(Guard { provider })
}

fn lines<S>(log: &Log) -> BoxedLayer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let (writer, colour) = match log.output {
        LogOutput::Stdout => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
        LogOutput::Stderr => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let layer = fmt::layer().with_ansi(colour).with_writer(writer);
    match log.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

fn spans<S>(provider: &SdkTracerProvider) -> BoxedLayer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let mut targets = Targets::new().with_default(LevelFilter::INFO);
    for target in KEPT_OUT {
        targets = targets.with_target(target, LevelFilter::OFF);
    }
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("countersign"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(targets)
        .boxed()
}

/// What [`install`] leaves behind: keep it while the process works, and [`shutdown`](Guard::shutdown) at the end.
#[derive(Debug)]
#[must_use = "spans that are still queued are lost when nobody shuts the exporter down"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends the spans that wait and stops the exporter; gives up after `timeout`. Without traces it does nothing.
    ///
    /// Runs on a blocking thread, because the exporter waits for work that the runtime's own threads have to do. Returns
    /// whether everything was sent in time.
    pub async fn shutdown(self, timeout: Duration) -> bool {
        let Some(provider) = self.provider else {
            return true;
        };
        let stop = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout));
        matches!(tokio::time::timeout(timeout, stop).await, Ok(Ok(Ok(()))))
    }
}
