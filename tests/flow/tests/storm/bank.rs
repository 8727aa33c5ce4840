//! A second upstream with a name and a database of its own, whose orders go to the same subscription.

use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Program, Running, binary, free_port, wait_until};

/// Its name.
pub const BANK: &str = "bank";

#[derive(Debug)]
pub struct Bank {
    program: Program,
    ready_url: String,
    grpc_url: String,
    running: Option<Running>,
}

impl Bank {
    /// On a `PostgreSQL` database of this flow, with the other's configuration in all else; not started.
    pub async fn of(flow: &Flow) -> anyhow::Result<Self> {
        let (http, grpc) = (free_port()?, free_port()?);
        let program = Program::new(binary("upstream")?)
            .arg("--config")
            .arg(flow.ground.path("upstream.toml"))
            .env("COUNTERSIGN_UPSTREAM__NAME", BANK)
            .env("COUNTERSIGN_DATABASE__URL", flow.ground.database(BANK).await?)
            .env("COUNTERSIGN_HTTP__LISTEN", format!("127.0.0.1:{http}"))
            .env("COUNTERSIGN_GRPC__LISTEN", format!("127.0.0.1:{grpc}"))
            .current_dir(flow.ground.dir())
            .log_to(flow.ground.path("bank.log"));
        let (ready_url, grpc_url) = (format!("http://127.0.0.1:{http}/health/ready"), format!("http://127.0.0.1:{grpc}"));
        Ok(Self { program, ready_url, grpc_url, running: None })
    }

    pub fn grpc_url(&self) -> &str {
        &self.grpc_url
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        self.running = Some(self.program.spawn()?);
        let ready = async || http.get(&self.ready_url).send().await.is_ok_and(|answer| answer.status().is_success());
        wait_until("the bank to be ready", PATIENCE, ready).await
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.running = None;
    }
}
