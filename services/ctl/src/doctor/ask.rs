//! Asking over HTTP, with a limit in time and in size.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use countersign_boot::{Secret, SystemClock};
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

/// Asks questions over HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    limit: Duration,
}

impl Http {
    /// # Errors
    /// When the client cannot be built.
    pub fn new(limit: Duration) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(limit).build().context("no HTTP client can be built")?;
        Ok(Self { client, limit })
    }

    /// One GET. An error is in words and holds no password.
    pub async fn get(&self, url: &str, login: Option<(&str, &Secret)>) -> Result<Answer, String> {
        let mut request = self.client.get(url);
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password.expose()));
        }
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
