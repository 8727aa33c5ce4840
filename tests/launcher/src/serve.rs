//! Servers shared by a whole run: the life of the `with-servers` binary.
//!
//! It is two processes of the same binary. The *keeper* owns the servers and stops them when its standard input ends;
//! the *front* holds the other end of that pipe and runs the command. However the front ends, SIGKILL included, the pipe
//! closes and the servers go. **Invariant:** no server outlives the process that asked for it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::{Exports, Postgres, RabbitMq, Redis};

/// Bound for all servers together; beside a cold build each takes its time.
const START: Duration = Duration::from_mins(3);
/// Bound for all of them to be gone.
const STOP: Duration = Duration::from_secs(30);
/// The line after which all addresses have been printed.
const DONE: &str = "# servers are ready";
/// Threads that may want to say "stop": the pipe's reader, and the signals.
const STOPPERS: usize = 4;

/// Which private servers to start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Start `RabbitMQ`.
    pub rabbitmq: bool,
    /// Start Redis.
    pub redis: bool,
    /// Start `PostgreSQL`.
    pub postgres: bool,
}

impl Wanted {
    /// The names under which the command line knows them.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.rabbitmq, "rabbitmq"), (self.redis, "redis"), (self.postgres, "postgres")];
        all.into_iter().filter_map(|(wanted, name)| wanted.then_some(name)).collect()
    }
}

/// The keeper: starts the servers, prints their addresses, and stops them when standard input ends or SIGINT or SIGTERM
/// arrives. Logs go below `logs`, or into the temporary directory.
///
/// # Errors
/// When a server does not come up, with the end of its log. The others are stopped.
pub async fn keep(wanted: Wanted, logs: Option<&Path>) -> anyhow::Result<()> {
    let mut stop = stop_requests()?;
    let temporary = TempDir::with_prefix("countersign-servers-")?;
    let dir = logs.map_or_else(|| temporary.path().to_path_buf(), PathBuf::from);
    let servers = tokio::select! {
        servers = Servers::start(wanted, &dir) => servers?,
        _ = stop.recv() => return Ok(()),
    };
    for (name, value) in servers.exports().pairs() {
        println!("{name}={value}");
    }
    println!("{DONE}");
    stop.recv().await;
    Ok(())
}

struct Servers {
    rabbitmq: Option<RabbitMq>,
    redis: Option<Redis>,
    postgres: Option<Postgres>,
}

impl Servers {
    async fn start(wanted: Wanted, dir: &Path) -> anyhow::Result<Self> {
        let rabbitmq = async { Ok::<_, anyhow::Error>(if wanted.rabbitmq { Some(RabbitMq::start(dir).await?) } else { None }) };
        let redis = async { Ok(if wanted.redis { Some(Redis::start(dir).await.context("Redis")?) } else { None }) };
        let postgres = async { Ok(if wanted.postgres { Some(Postgres::start(dir).await.context("PostgreSQL")?) } else { None }) };
        let (rabbitmq, redis, postgres) = tokio::try_join!(rabbitmq, redis, postgres)?;
        Ok(Self { rabbitmq, redis, postgres })
    }

    fn exports(&self) -> Exports {
        Exports {
            amqp: self.rabbitmq.as_ref().map(|node| node.amqp_url("/")),
            amqp_admin: self.rabbitmq.as_ref().map(|node| node.broker().admin_url().to_owned()),
            redis: self.redis.as_ref().map(Redis::url),
            postgres: self.postgres.as_ref().map(Postgres::url),
        }
    }
}

/// A message for each reason to stop: standard input ended, SIGINT, SIGTERM.
fn stop_requests() -> anyhow::Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = mpsc::channel(STOPPERS);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            signals.recv().await;
            let _ = sender.send(()).await;
        });
    }
    // A thread and not a task: a blocking read of standard input would keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.blocking_send(());
    });
    Ok(receiver)
}

/// A running keeper and the addresses of its servers. Dropping it closes the pipe, upon which the keeper stops them.
#[derive(Debug)]
pub struct Keeper {
    child: Child,
    exports: Exports,
}

impl Keeper {
    /// Starts the keeper by running `with_servers --keep …` and waits for its addresses.
    ///
    /// # Errors
    /// When a server does not come up; the reason has been printed to standard error by the keeper.
    pub async fn start(with_servers: &Path, wanted: Wanted, logs: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(with_servers);
        command.arg("--keep").args(wanted.names());
        if let Some(logs) = logs {
            command.arg("--logs").arg(logs);
        }
        // Its own process group: Ctrl-C at a terminal must not take the servers away from under a command that is tidying up.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let exports = timeout(START, read_exports(stdout))
            .await
            .with_context(|| format!("the servers did not come up within {START:?}"))??;
        Ok(Self { child, exports })
    }

    /// Where the servers are.
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Stops the servers and waits until they are gone.
    ///
    /// # Errors
    /// When that takes longer than half a minute.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        timeout(STOP, self.child.wait()).await.context("the servers do not stop")??;
        Ok(())
    }
}

async fn read_exports(stdout: tokio::process::ChildStdout) -> anyhow::Result<Exports> {
    let mut lines = BufReader::new(stdout).lines();
    let mut text = String::new();
    while let Some(line) = lines.next_line().await? {
        if line == DONE {
            return Ok(Exports::from_lines(&text));
        }
        text.push_str(&line);
        text.push('\n');
    }
    bail!("the servers did not come up, see above")
}
