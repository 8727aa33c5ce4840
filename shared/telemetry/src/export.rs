//! The exporter: where spans are sent, with which metadata, and as whose.

use std::path::Path;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TraceId;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SdkTracerProvider};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::config::Traces;
use crate::error::Error;
use crate::queue::Queue;
use crate::sampler::WholeTraces;

/// What makes spans and sends them to `endpoint`.
pub fn provider(service: &str, endpoint: &str, traces: &Traces) -> Result<SdkTracerProvider, Error> {
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_millis(traces.timeout_ms))
        .with_metadata(headers(&traces.otlp_headers_file)?);
    if endpoint.starts_with("https://") {
        exporter = exporter.with_tls_config(tls(&traces.otlp_ca_file)?);
    }
    let exporter = exporter.build().map_err(|source| Error::Exporter { endpoint: endpoint.to_owned(), source })?;
    Ok(SdkTracerProvider::builder()
        .with_span_processor(Queue::before(exporter, traces))
        .with_sampler(WholeTraces::of(traces.sample_ratio))
        .with_resource(resource(service))
        .build())
}

/// Who this process is, beside what `OTEL_RESOURCE_ATTRIBUTES` says of where it runs.
fn resource(service: &str) -> Resource {
    Resource::builder()
        .with_service_name(format!("countersign-{service}"))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance_id(RandomIdGenerator::default().new_trace_id())),
        ])
        .build()
}

/// A random id in the form of a UUID, version 4, as the conventions want it.
fn instance_id(random: TraceId) -> String {
    let bits = u128::from_be_bytes(random.to_bytes());
    let bits = bits & !(0xf << 76) | 0x4 << 76;
    let bits = bits & !(0b11 << 62) | 0b10 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn tls(ca_file: &Path) -> Result<ClientTlsConfig, Error> {
    let tls = ClientTlsConfig::new();
    if ca_file.as_os_str().is_empty() {
        return Ok(tls.with_enabled_roots());
    }
    let pem = std::fs::read(ca_file).map_err(|error| wrong("otlp_ca_file", ca_file, error))?;
    Ok(tls.ca_certificate(Certificate::from_pem(pem)))
}

/// One `name: value` a line; blank lines and such that begin with `#` are left out.
fn headers(file: &Path) -> Result<MetadataMap, Error> {
    let mut headers = MetadataMap::new();
    if file.as_os_str().is_empty() {
        return Ok(headers);
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong("otlp_headers_file", file, error))?;
    let lines = text.lines().map(str::trim).enumerate();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = pair(line).ok_or_else(|| {
            wrong("otlp_headers_file", file, format_args!("line {} is not `name: value`, both of printable ASCII", at + 1))
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn pair(line: &str) -> Option<(MetadataKey<Ascii>, MetadataValue<Ascii>)> {
    let (name, value) = line.split_once(':')?;
    let mut value: MetadataValue<Ascii> = value.trim().parse().ok()?;
    value.set_sensitive(true);
    Some((name.trim().to_ascii_lowercase().parse().ok()?, value))
}

fn wrong(key: &'static str, path: &Path, what: impl std::fmt::Display) -> Error {
    Error::File { key, path: path.display().to_string(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_called_by_a_uuid_of_version_4() {
        assert_eq!(instance_id(TraceId::from(u128::MAX)), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(instance_id(TraceId::from(1_u128)), "00000000-0000-4000-8000-000000000001");
    }

    #[test]
    fn headers_are_read_line_by_line() {
        let (name, value) = pair("Authorization: Bearer a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer a:b"));
        assert!(value.is_sensitive());
        for wrong in ["no colon", ": no name", "two words: x", "x-bytes-bin: x", "name: \u{7}"] {
            assert!(pair(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let said = headers(Path::new("/nowhere/headers")).unwrap_err().to_string();
        assert!(said.starts_with("traces.otlp_headers_file /nowhere/headers: "), "{said}");
        assert!(tls(Path::new("/nowhere/ca.pem")).unwrap_err().to_string().starts_with("traces.otlp_ca_file /nowhere/ca.pem: "));
    }
}
