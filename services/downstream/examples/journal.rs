//! A downstream that keeps a journal: one line in a file for each effect, with the message's id and the try that brought it.
//!
//! `cargo run -p countersign-downstream --example journal -- --config journal.toml`; the topology needs a subscription `inventory.orders`,
//! as `deploy/local/topology.toml` has it. Several of them may write the same file. An order whose body has `takes_ms` takes so long; the
//! others go on meanwhile, as far as `concurrency` lets them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use countersign_downstream::{Config, Event, Failure, Handled, Handler, HandlerContext, Service, async_trait};
use serde::Deserialize;

/// The file; beside the process, or wherever it is started.
const JOURNAL: &str = "journal.txt";

/// The body of a message.
#[derive(Debug, Deserialize)]
struct Order {
    /// How long it takes to handle it, milliseconds.
    #[serde(default)]
    takes_ms: u64,
}

struct Journal {
    file: File,
}

impl Journal {
    fn open() -> anyhow::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(JOURNAL)? })
    }
}

#[async_trait]
impl Handler for Journal {
    async fn handle(&self, message: &Event, context: &HandlerContext) -> Result<Handled, Failure> {
        let Order { takes_ms } = serde_json::from_slice(&message.body).map_err(Failure::reject)?;
        if takes_ms > 0 {
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
        }
        let line = format!("{} {}\n", context.idempotency_key, message.attempt.number);
        // One call for the whole line, to a file opened for appending: lines of several writers do not mix.
        (&self.file).write_all(line.as_bytes()).map_err(Failure::retry)?;
        Ok(Handled::Done)
    }
}

fn main() -> ExitCode {
    countersign_boot::launch("journal", async |config: Config, context| {
        Ok(Service::new(config).handle("inventory.orders", Journal::open()?).run(context).await?)
    })
}
