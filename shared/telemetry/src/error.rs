//! What can go wrong while telemetry is installed.

/// An error of telemetry. All of them happen at start; none is transient.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `log.filter` is not a list of `target=level` directives.
    #[error("log.filter {filter:?} is not a list of `target=level` directives: {source}")]
    Filter {
        /// The text that was given.
        filter: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// `traces.otlp_endpoint` cannot be used.
    #[error("traces.otlp_endpoint {endpoint:?} cannot be used: {source}")]
    Exporter {
        /// The address that was given.
        endpoint: String,
        /// What the exporter says.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// `traces.otlp_headers_file` or `traces.otlp_ca_file` cannot be used.
    #[error("traces.{key} {path}: {what}")]
    File {
        /// Which of the two.
        key: &'static str,
        /// The path that was given.
        path: String,
        /// What is wrong with it; never what is in it.
        what: String,
    },
    /// The process has a tracing subscriber already.
    #[error("a tracing subscriber is installed already: {0}")]
    SubscriberInstalled(#[from] tracing_subscriber::util::TryInitError),
    /// The process has a metrics recorder already, or its buckets are wrong.
    #[error("the metrics recorder cannot be installed: {0}")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
}

impl Error {
    /// Whether the same call may succeed later. Never: each variant is a wrong configuration or a second installation.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        false
    }
}
