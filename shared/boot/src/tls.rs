//! TLS of the listening sockets.
//!
//! What can fail: a handshake (the connection ends, in time); a certificate that is rotated to something that cannot be used (the one
//! before stays in force).

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_telemetry::names;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::access::Tls;
use crate::context::Context;
use crate::error::Error;
use crate::watched::Watched;

/// Time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection, in the clear or not.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Where it is.
    pub(crate) address: Option<SocketAddr>,
    /// DNS names and URIs of the certificate that it has shown, and that is trusted.
    pub(crate) names: Arc<[String]>,
}

/// Accepts the connections of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor(Option<Watched<ServerConfig>>);

impl Acceptor {
    /// By the section; `protocols` are offered by ALPN.
    pub(crate) fn open(context: &Context, tls: &Tls, protocols: &'static [&'static str]) -> Result<Self, Error> {
        if !tls.is_on() {
            return Ok(Self(None));
        }
        let mut files = vec![tls.certificate_file.clone(), tls.key_file.clone()];
        if !tls.client_ca_file.as_os_str().is_empty() {
            files.push(tls.client_ca_file.clone());
        }
        let named = files.clone();
        let parse = move |contents: &[Vec<u8>]| config(&named, contents, protocols);
        let watched = Watched::open(context, "tls", files, parse).map_err(|problem| Error::Config(vec![problem]))?;
        Ok(Self(Some(watched)))
    }

    /// Shakes hands.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(Stream, Peer)> {
        let address = stream.peer_addr().ok();
        let Some(config) = &self.0 else { return Ok((Either::Left(stream), Peer { address, names: Arc::default() })) };
        let shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config.now()).accept(stream)).await;
        let stream = shaken.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time"))??;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let names = shown.map(names_of).unwrap_or_default().into();
        Ok((Either::Right(Box::new(stream)), Peer { address, names }))
    }
}

fn config(files: &[std::path::PathBuf], contents: &[Vec<u8>], protocols: &[&str]) -> Result<ServerConfig, String> {
    let shown = |index: usize| files.get(index).map(|file: &std::path::PathBuf| file.display().to_string()).unwrap_or_default();
    let chain = certificates(&files[0], &contents[0])?;
    let key = PrivateKeyDer::from_pem_slice(&contents[1]).map_err(|_| format!("{} holds no private key (PEM)", shown(1)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let builder = match contents.get(2) {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&files[2], authorities)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", shown(2)))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("{}: {error}", shown(2)))?)
        }
    };
    let ends_at = ends_at(&chain[0]);
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("{} and {} cannot be used together: {error}", shown(0), shown(1)))?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    if let Some(ends_at) = ends_at {
        metrics::gauge!(names::TLS_CERTIFICATE_ENDS_TIMESTAMP_SECONDS).set(ends_at);
    }
    Ok(config)
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{} holds no certificate (PEM)", file.display())),
    }
}

/// When a certificate ends, seconds since the Unix epoch.
#[allow(clippy::cast_precision_loss, reason = "seconds of a date fit")]
fn ends_at(certificate: &CertificateDer<'_>) -> Option<f64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp() as f64)
}

/// DNS names and URIs of a certificate.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}
