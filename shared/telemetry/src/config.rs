//! The `[log]` and `[traces]` sections.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Section `[log]`: what is logged, in which form, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people (default) or `json` for machines, one object a line.
    pub format: LogFormat,
    /// `stdout` (default) or `stderr`.
    pub output: LogOutput,
    /// Directives `target=level` with commas between; default `info,lapin=warn,sqlx=warn,h2=warn,hyper=warn`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            output: LogOutput::Stdout,
            filter: "info,lapin=warn,sqlx=warn,h2=warn,hyper=warn".to_owned(),
        }
    }
}

impl Log {
    /// The problems of this section, each with what to do; empty when it can be used.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self.filter.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Vec::new(),
            Err(source) => {
                vec![format!("log.filter {:?} cannot be read ({source}): give directives such as `info,lapin=warn`", self.filter)]
            }
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object.
    Json,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Section `[traces]`: whether, where to and how many traces are exported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    /// Address of an OTLP collector that speaks gRPC, such as `http://127.0.0.1:4317`. Default: none, no trace is made.
    pub otlp_endpoint: Option<String>,
    /// File with the metadata that a collector behind a door asks for, one `name: value` a line. Default: none.
    pub otlp_headers_file: PathBuf,
    /// File of the authorities that sign the collector's certificate, PEM. Default: the system's, for `https://`.
    pub otlp_ca_file: PathBuf,
    /// Share of new traces that is kept, 0.0 to 1.0; default 1.0. Decided once, by the trace's id: a trace begun elsewhere keeps
    /// that side's choice, a check that of its message, and what is sent again is kept always.
    pub sample_ratio: f64,
    /// Spans that wait for export at most; default 8192. More are dropped, and counted.
    pub max_queue: usize,
    /// Spans in one export at most; default 512, not more than `max_queue`.
    pub max_batch: usize,
    /// Milliseconds between exports; default 1000.
    pub interval_ms: u64,
    /// Milliseconds that one export may take; default 5000.
    pub timeout_ms: u64,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers_file: PathBuf::new(),
            otlp_ca_file: PathBuf::new(),
            sample_ratio: 1.0,
            max_queue: 8192,
            max_batch: 512,
            interval_ms: 1000,
            timeout_ms: 5000,
        }
    }
}

impl Traces {
    /// The problems of this section, each with what to do; empty when it can be used.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let scheme = |e: &str| e.starts_with("http://") || e.starts_with("https://");
        if let Some(endpoint) = self.otlp_endpoint.as_deref().filter(|e| !scheme(e)) {
            problems.push(format!(
                "traces.otlp_endpoint {endpoint:?} has no http:// or https://: give an address such as http://127.0.0.1:4317"
            ));
        }
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        if given(&self.otlp_ca_file) && !self.otlp_endpoint.as_deref().is_some_and(|e| e.starts_with("https://")) {
            problems.push("traces.otlp_ca_file is of use only with a traces.otlp_endpoint that begins with https://".to_owned());
        }
        if given(&self.otlp_headers_file) && self.otlp_endpoint.is_none() {
            problems.push("traces.otlp_headers_file is of use only with traces.otlp_endpoint".to_owned());
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            problems.push(format!("traces.sample_ratio is {}: give a share from 0.0 to 1.0", self.sample_ratio));
        }
        if self.max_batch == 0 || self.max_batch > self.max_queue {
            problems.push(format!("traces.max_batch is {}: give 1 to traces.max_queue ({})", self.max_batch, self.max_queue));
        }
        if self.interval_ms == 0 || self.timeout_ms == 0 {
            problems.push("traces.interval_ms and traces.timeout_ms must be above 0".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_for_a_collector_that_is_not_there_are_told_of() {
        let endpoint = |address: &str| Traces { otlp_endpoint: Some(address.into()), ..Traces::default() };
        let with_files = |traces: Traces| Traces { otlp_ca_file: "ca.pem".into(), otlp_headers_file: "h".into(), ..traces };
        assert_eq!(with_files(endpoint("https://collector:4317")).problems(), Vec::<String>::new());
        assert_eq!(with_files(endpoint("http://collector:4317")).problems().len(), 1);
        assert_eq!(with_files(Traces::default()).problems().len(), 2);
    }
}
