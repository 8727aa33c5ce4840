//! One service by itself, with a configuration of the test's own; and what any service's readiness says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::PATIENCE;
use countersign_launcher::{Program, Running, Which, binary, free_port, wait_until};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one answer of a health endpoint may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What `/health/ready` says; none: no answer.
pub async fn readiness(http: &str) -> Option<Value> {
    let address = http.strip_prefix("http://").unwrap_or(http).to_owned();
    let asking = async {
        let mut stream = TcpStream::connect(&address).await.ok()?;
        let request = format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    };
    timeout(ANSWER, asking).await.ok().flatten()
}

/// Waits until readiness gives a reason with all of these words for a dependency.
pub async fn unready(http: &str, dependency: &str, words: &[&str]) -> anyhow::Result<()> {
    let what = format!("{dependency} to be unready because of {words:?}");
    let said = wait_until(&what, PATIENCE, async || {
        let Some(said) = readiness(http).await else { return false };
        let reason = said["dependencies"][dependency]["reason"].as_str().unwrap_or_default();
        said["ready"] == false && words.iter().all(|word| reason.contains(word))
    });
    match said.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("readiness says {:?}", readiness(http).await.map(|said| said.to_string())))),
    }
}

/// Waits until it is ready.
pub async fn ready(http: &str) -> anyhow::Result<()> {
    let is_ready =
        wait_until("it to be ready", PATIENCE, async || readiness(http).await.is_some_and(|said| said["ready"] == true));
    match is_ready.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("readiness says {:?}", readiness(http).await.map(|said| said.to_string())))),
    }
}

/// A service that was started alone. Dropping it kills it.
pub struct Lone {
    running: Running,
    http: String,
}

impl Lone {
    /// Starts it with these sections; files go into `dir`. Listens on free ports.
    pub fn start(dir: &Path, which: Which, sections: &str) -> anyhow::Result<Self> {
        let http = format!("127.0.0.1:{}", free_port()?);
        let grpc = format!("[grpc]\nlisten = \"127.0.0.1:{}\"\n", free_port()?);
        let text = format!("[http]\nlisten = \"{http}\"\n{grpc}{sections}");
        let name = which.name();
        let file = dir.join(format!("lone-{name}.toml"));
        std::fs::write(&file, text)?;
        let program =
            Program::new(binary(name)?).arg("--config").arg(&file).current_dir(dir).log_to(dir.join(format!("lone-{name}.log")));
        Ok(Self { running: program.spawn()?, http })
    }

    /// Waits until it says so, and asserts that it lives on.
    pub async fn unready(&self, dependency: &str, words: &[&str]) -> anyhow::Result<()> {
        unready(&self.http, dependency, words).await.with_context(|| self.running.log_text())?;
        ensure!(self.running.is_alive(), "it ended: {}", self.running.log_text());
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        ready(&self.http).await.with_context(|| self.running.log_text())
    }

    /// Waits until it has ended by itself with a failure; gives back what it said.
    pub async fn refuses(&self, words: &[&str]) -> anyhow::Result<()> {
        let status = self.running.wait(PATIENCE).await?;
        let said = self.running.log_text();
        ensure!(status.code() == Some(1) && words.iter().all(|word| said.contains(word)), "expected {words:?}: {status}: {said}");
        ensure!(!said.contains("panicked"), "it panicked: {said}");
        Ok(())
    }

    /// Asserts that a secret is not in its log.
    pub fn keeps_quiet_about(&self, secret: &str) -> anyhow::Result<()> {
        let said = self.running.log_text();
        ensure!(!said.contains(secret), "{secret:?} is in its log: {said}");
        Ok(())
    }
}
