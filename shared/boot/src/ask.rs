//! What `--health` does: asks the process that runs under this configuration whether it is ready.
//!
//! An image without a shell, let alone curl, needs it for its health check. The answer is the one of `/health/ready`, so the container's
//! engine shows which dependency is away and why.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use countersign_telemetry::with_sources;

use crate::config::Frame;

/// How long the process may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Exit code when it is not ready, or does not answer.
const NOT_READY: u8 = 1;

/// Asks, prints what was answered, and says by the exit code whether it is ready.
pub(crate) fn ask(service: &str, frame: &Frame<'_>) -> ExitCode {
    // A second installation, by an embedding binary, is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = url(frame.http.listen, frame.tls.is_on());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(get(&url)));
    match answer {
        Ok((ready, text)) => {
            println!("{}", text.trim_end());
            ExitCode::from(if ready { 0 } else { NOT_READY })
        }
        Err(problem) => {
            eprintln!("countersign-{service}: {url} does not answer: {problem}");
            ExitCode::from(NOT_READY)
        }
    }
}

/// Where a process that listens there is reached from its own machine.
fn url(listen: SocketAddr, tls: bool) -> String {
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        named => named,
    };
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}/health/ready", SocketAddr::new(host, listen.port()))
}

async fn get(url: &str) -> Result<(bool, String), String> {
    // The certificate names the service, not the loopback address; and nothing is told to whoever answers.
    let client = reqwest::Client::builder().timeout(ANSWER).no_proxy().tls_danger_accept_invalid_certs(true).build();
    let answered = async {
        let answer = client?.get(url).send().await?;
        let ready = answer.status().is_success();
        Ok((ready, answer.text().await?))
    };
    answered.await.map_err(|error: reqwest::Error| with_sources(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_listens_everywhere_is_asked_on_loopback() {
        let rows = [
            ("0.0.0.0:8080", false, "http://127.0.0.1:8080/health/ready"),
            ("[::]:8080", true, "https://[::1]:8080/health/ready"),
            ("10.1.2.3:1", false, "http://10.1.2.3:1/health/ready"),
        ];
        for (listen, tls, expected) in rows {
            assert_eq!(url(listen.parse().unwrap(), tls), expected);
        }
    }
}
