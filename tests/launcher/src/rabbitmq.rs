//! A private `RabbitMQ` node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::broker::Broker;
use crate::port::free_port;
use crate::program::{Program, Running};

mod cluster;
mod files;
mod mapper;

pub use cluster::{RabbitMqCluster, Standing};
use files::Identity;
use mapper::Mapper;

/// A node needs 5 s on a quiet machine and much longer beside a compiler.
const START: Duration = Duration::from_mins(2);
const STOP: Duration = Duration::from_mins(1);
const CONTROL: Duration = Duration::from_mins(1);
const READY: &str = "Server startup complete";

/// A private node on free ports of 127.0.0.1. Dropping it kills it and its port mapper.
#[derive(Debug)]
pub struct RabbitMq {
    node: Program,
    running: Running,
    /// Shared by the nodes of a cluster.
    mapper: Arc<Mapper>,
    broker: Broker,
    scripts: PathBuf,
    dir: PathBuf,
    ports: files::Ports,
    identity: Identity,
}

impl RabbitMq {
    /// Starts one with all of its files below `dir`. Takes about five seconds.
    ///
    /// # Errors
    /// When `RabbitMQ` is missing, older than 3.10, or does not come up; the end of its log is quoted.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_on(dir, None).await
    }

    /// As [`Self::start`], with its metrics for Prometheus ([`Self::metrics_url`]) and the statistics that they are made of.
    ///
    /// # Errors
    /// As there.
    pub async fn start_with_metrics(dir: &Path) -> anyhow::Result<Self> {
        Self::start_on(dir, Some(free_port()?)).await
    }

    async fn start_on(dir: &Path, metrics: Option<u16>) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?.join("rabbitmq");
        let mapper = Arc::new(Mapper::start(&dir).await?);
        let cookie = format!("COUNTERSIGN{}{}", std::process::id(), mapper.port());
        Self::start_node(dir, mapper, Identity { name: "countersign", cookie, cluster: &[] }, metrics).await
    }

    async fn start_node(dir: PathBuf, mapper: Arc<Mapper>, identity: Identity, metrics: Option<u16>) -> anyhow::Result<Self> {
        let scripts = files::scripts()?;
        let (amqp, admin, distribution) = (free_port()?, free_port()?, free_port()?);
        let ports = files::Ports { amqp, admin, mapper: mapper.port(), distribution, metrics };
        files::write_files(&dir, ports, &identity)?;
        let node = Program::new(scripts.join("rabbitmq-server")).log_to(dir.join("log/node.log"));
        let node = files::with_environment(node, &dir, ports, &identity);
        let running = node.spawn()?;
        running.wait_for_log(READY, START).await?;
        let broker = Broker::new(
            &format!("amqp://guest:guest@127.0.0.1:{}", ports.amqp),
            &format!("http://guest:guest@127.0.0.1:{}", ports.admin),
        );
        Ok(Self { node, running, mapper, broker, scripts, dir, ports, identity })
    }

    /// Addresses of the node and what can be asked of any broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where it shows its metrics, without a path; none unless it was started with them.
    #[must_use]
    pub fn metrics_url(&self) -> Option<String> {
        self.ports.metrics.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// See [`Broker::amqp_url`].
    pub fn amqp_url(&self, vhost: &str) -> String {
        self.broker.amqp_url(vhost)
    }

    /// See [`Broker::create_vhost`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.broker.create_vhost(name).await
    }

    /// See [`Broker::delete_vhost`].
    ///
    /// # Errors
    /// As there.
    pub async fn delete_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.broker.delete_vhost(name).await
    }

    /// See [`Broker::purge`].
    ///
    /// # Errors
    /// As there.
    pub async fn purge(&self, vhost: &str, queue: &str) -> anyhow::Result<u32> {
        self.broker.purge(vhost, queue).await
    }

    /// See [`Broker::queue_depth`].
    ///
    /// # Errors
    /// As there.
    pub async fn queue_depth(&self, vhost: &str, queue: &str) -> anyhow::Result<u32> {
        self.broker.queue_depth(vhost, queue).await
    }

    /// Runs `rabbitmqctl` on this node and returns what it printed. Half a second on a quiet machine.
    ///
    /// # Errors
    /// When it fails, with what it printed, or does not end within a minute.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let log = tempfile::NamedTempFile::new_in(&self.dir)?;
        let program = Program::new(self.scripts.join("rabbitmqctl")).args(arguments.iter().copied()).log_to(log.path());
        let running = files::with_environment(program, &self.dir, self.ports, &self.identity).spawn()?;
        let status = running.wait(CONTROL).await?;
        if !status.success() {
            bail!("rabbitmqctl {} failed ({status}):\n{}", arguments.join(" "), running.log_text());
        }
        Ok(running.log_text())
    }

    /// Writes the node's list of quorum queues to disk. Call it between declaring queues and [`RabbitMq::kill9`].
    ///
    /// `RabbitMQ` writes that list lazily, half a second after a change. A node killed before knows the queue again when it is
    /// back, but not which log was the queue's, and starts an empty one: messages that it had *confirmed* are gone. Seen on
    /// 3.10.8; it concerns new queues only.
    ///
    /// # Errors
    /// As [`RabbitMq::ctl`].
    pub async fn settle(&self) -> anyhow::Result<()> {
        self.ctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]).await.map(|_| ())
    }

    /// Closes the connections of all clients of one virtual host, as an operator would, and returns what the broker says about it. The
    /// management interface could not: it lists connections by their statistics, which this node does not collect.
    ///
    /// # Errors
    /// As [`RabbitMq::ctl`].
    pub async fn close_connections(&self, vhost: &str) -> anyhow::Result<String> {
        self.ctl(&["close_all_connections", "--vhost", vhost, "closed by a test"]).await
    }

    /// SIGKILL to the node. What was confirmed on durable queues is on disk; for queues just declared see
    /// [`RabbitMq::settle`].
    pub fn kill9(&self) {
        self.running.kill9();
    }

    /// The directory in which it keeps all it stores.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join(files::DATA)
    }

    /// Deletes everything that a killed node has stored: [`RabbitMq::start_again`] then brings up a node that has never heard of anything.
    ///
    /// # Errors
    /// When it still runs, or its files cannot be deleted.
    pub fn lose_data(&self) -> anyhow::Result<()> {
        if self.running.is_alive() {
            bail!("the RabbitMQ node still runs: kill it before its data is deleted");
        }
        let data = self.data();
        std::fs::remove_dir_all(&data).with_context(|| format!("deleting {}", data.display()))?;
        std::fs::create_dir(&data).with_context(|| format!("creating {}", data.display()))
    }

    /// SIGSTOP to the node: clients stay connected and hear nothing, not even heartbeats.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.running.pause()
    }

    /// SIGCONT to the node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.running.resume()
    }

    /// Stops the node in good order (takes some seconds), and its port mapper.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.running.signal(Signal::TERM)?;
        self.running.wait(STOP).await?;
        self.mapper.kill9();
        Ok(())
    }

    /// Starts the node again on the same ports and data.
    ///
    /// # Errors
    /// When it still runs or does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.running.is_alive() {
            bail!("the RabbitMQ node still runs");
        }
        self.mapper.revive().await?;
        self.running = self.node.spawn()?;
        self.running.wait_for_log(READY, START).await?;
        Ok(())
    }

    /// The ids of the node and of its port mapper.
    pub fn pids(&self) -> [u32; 2] {
        [self.running.pid(), self.mapper.pid()]
    }
}
