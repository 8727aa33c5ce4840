//! A private collector of traces: the agent of rotel, which takes OTLP and passes it on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;

use crate::port::free_port;
use crate::program::{Program, Running};
use crate::wait::wait_until;

const START: Duration = Duration::from_secs(20);

/// A private collector on a free port of 127.0.0.1, which passes on what it takes. Dropping it kills it.
#[derive(Debug)]
pub struct OtlpCollector {
    program: Program,
    running: Running,
    port: u16,
}

impl OtlpCollector {
    /// Starts one that passes traces on to this OTLP address; its log goes below `dir`.
    ///
    /// # Errors
    /// When the programs of `tests/tools.txt` are not to be had, or it does not come up.
    pub async fn start(dir: &Path, onward: &str) -> anyhow::Result<Self> {
        let agent = agent(&crate::python::tools().await?)?;
        let dir = dir.join("collector");
        std::fs::create_dir_all(&dir)?;
        let (port, http) = (free_port()?, free_port()?);
        let program = Program::new(agent)
            .args(["start", "--exporter", "otlp", "--otlp-exporter-endpoint", onward])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{port}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .arg("--pid-file")
            .arg(dir.join("pid"))
            .current_dir(&dir)
            .log_to(dir.join("collector.log"));
        let running = program.spawn()?;
        let collector = Self { program, running, port };
        collector.ready().await?;
        Ok(collector)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let listens = async || !self.running.is_alive() || TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
        wait_until("the collector to listen", START, listens).await?;
        if self.running.is_alive() { Ok(()) } else { bail!("the collector has ended{}", self.running.log_tail()) }
    }

    /// The address for `traces.otlp_endpoint`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL: the port is closed from now on.
    pub fn kill9(&self) {
        self.running.kill9();
    }

    /// SIGSTOP: clients stay connected and get no answer.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.running.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.running.resume()
    }

    /// Starts it again on the same port.
    ///
    /// # Errors
    /// When it still runs or does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.running.is_alive() {
            bail!("the collector still runs");
        }
        self.running = self.program.spawn()?;
        self.ready().await
    }
}

/// The agent lies in the package's own folder, with a Python program before it that starts it as a daemon.
fn agent(python: &Path) -> anyhow::Result<PathBuf> {
    let library = python.parent().and_then(Path::parent).context("no environment above its interpreter")?.join("lib");
    let versions = std::fs::read_dir(&library).with_context(|| format!("reading {}", library.display()))?;
    let agents = versions.flatten().map(|version| version.path().join("site-packages/rotel/rotel-agent"));
    agents.into_iter().find(|agent| agent.is_file()).with_context(|| format!("no rotel-agent below {}", library.display()))
}
