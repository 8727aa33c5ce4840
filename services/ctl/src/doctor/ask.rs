//! Asking over HTTP, with a limit in time and in size.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use countersign_boot::{Client, Secret, SystemClock};
use countersign_delivery::ports::Clock as _;
use serde_json::Value;

/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Waits for an answer no longer than this.
pub async fn within<T, E: fmt::Display>(limit: Duration, question: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

/// What an HTTP server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// The header `Date`, as it came.
    pub date: Option<String>,
    /// This machine's clock before the question and after the answer, milliseconds.
    pub between_ms: (i64, i64),
}

impl Answer {
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.body).map_err(|error| format!("its answer is not JSON: {error}"))
    }
}

/// What shows the other side who asks.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// Nothing.
    Nothing,
    /// User and password.
    Password(&'a str, &'a Secret),
    /// What the command shows to services.
    Token,
}

/// Asks questions over HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    /// The token file of the command; empty: none.
    token_file: PathBuf,
    limit: Duration,
}

impl Http {
    /// # Errors
    /// When a file cannot be read, or the client cannot be built.
    pub fn new(limit: Duration, shown: &Client) -> anyhow::Result<Self> {
        let read = |file: &Path| std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
        let mut client = reqwest::Client::builder().no_proxy().timeout(limit);
        if !shown.ca_file.as_os_str().is_empty() {
            let authorities = reqwest::Certificate::from_pem_bundle(&read(&shown.ca_file)?);
            client = client.tls_certs_only(authorities.context("--ca-file holds no certificates (PEM)")?);
        }
        if !shown.certificate_file.as_os_str().is_empty() {
            let both = [read(&shown.certificate_file)?, read(&shown.key_file)?].concat();
            let identity = reqwest::Identity::from_pem(&both);
            client = client.identity(identity.context("--certificate-file and --key-file cannot be used")?);
        }
        let client = client.build().context("no HTTP client can be built")?;
        Ok(Self { client, token_file: shown.token_file.clone(), limit })
    }

    /// One GET. An error is in words and holds no password.
    pub async fn get(&self, url: &str, shown: Shown<'_>) -> Result<Answer, String> {
        let request = self.client.get(url);
        let request = match shown {
            Shown::Password(user, password) => request.basic_auth(user, Some(password.expose())),
            Shown::Token if !self.token_file.as_os_str().is_empty() => {
                let token = std::fs::read_to_string(&self.token_file);
                request.bearer_auth(token.map_err(|error| format!("{}: {error}", self.token_file.display()))?.trim())
            }
            Shown::Nothing | Shown::Token => request,
        };
        let before = SystemClock.now().as_millis();
        let asking = async {
            let response = request.send().await.map_err(in_words)?;
            let after = SystemClock.now().as_millis();
            let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(ToOwned::to_owned);
            let status = response.status().as_u16();
            let body = read(response).await?;
            Ok::<_, String>(Answer { status, body, date, between_ms: (before, after) })
        };
        within(self.limit, asking).await
    }
}

async fn read(mut response: reqwest::Response) -> Result<String, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(in_words)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(format!("its answer is longer than {MAX_ANSWER_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// With what caused it, without the address: that may hold a password.
fn in_words(error: reqwest::Error) -> String {
    let error = anyhow::Error::from(error.without_url());
    format!("{error:#}")
}
