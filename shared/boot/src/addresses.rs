//! Where a process really listens, for logs and for those who started it with port 0.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use crate::error::Error;

/// The content of the file of `--addresses`.
#[derive(Debug, Serialize)]
pub(crate) struct Addresses {
    service: &'static str,
    pid: u32,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

impl Addresses {
    pub(crate) fn new(service: &'static str, grpc: Option<SocketAddr>, http: Option<SocketAddr>) -> Self {
        Self { service, pid: std::process::id(), grpc, http }
    }

    pub(crate) fn log(&self) {
        let show = |a: Option<SocketAddr>| a.map_or_else(|| "none".to_owned(), |a| a.to_string());
        tracing::info!(grpc = %show(self.grpc), http = %show(self.http), "listening");
    }

    /// Written beside and moved into place: a reader sees all of it or nothing.
    pub(crate) fn write(&self, file: &Path) -> Result<(), Error> {
        let wrong = |source| Error::Addresses { path: file.to_owned(), source };
        let mut beside = file.as_os_str().to_owned();
        beside.push(format!(".{}", self.pid));
        let text = serde_json::to_vec(self).map_err(|e| wrong(e.into()))?;
        std::fs::write(&beside, text).map_err(wrong)?;
        std::fs::rename(&beside, file).map_err(wrong)
    }
}
