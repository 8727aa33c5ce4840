//! Three private nodes that are one broker.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Identity, Mapper, RabbitMq};

/// The nodes, in the order in which they are numbered here.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// A cluster of three nodes on loopback. Dropping it kills them and their port mapper.
#[derive(Debug)]
pub struct RabbitMqCluster {
    nodes: Vec<RabbitMq>,
}

/// How a quorum queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The queue.
    pub queue: String,
    /// The number of the node that leads it; none: it has no leader now.
    pub leader: Option<usize>,
    /// How many nodes have a replica.
    pub members: usize,
    /// How many of those run.
    pub online: usize,
}

impl RabbitMqCluster {
    /// Starts the first node, and then the others, which join it. Takes some fifteen seconds.
    ///
    /// # Errors
    /// As [`RabbitMq::start`], or when one does not join.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?.join("rabbitmq");
        let mapper = Arc::new(Mapper::start(&dir).await?);
        let cookie = format!("COUNTERSIGN{}{}", std::process::id(), mapper.port());
        let start = async |name: &'static str| {
            let identity = Identity { name, cookie: cookie.clone(), cluster: &NAMES };
            RabbitMq::start_node(dir.join(name), Arc::clone(&mapper), identity, None)
                .await
                .with_context(|| format!("node {name}"))
        };
        let first = start(NAMES[0]).await?;
        let (second, third) = tokio::try_join!(start(NAMES[1]), start(NAMES[2]))?;
        let cluster = Self { nodes: vec![first, second, third] };
        let status = cluster.nodes[0].ctl(&["--formatter", "json", "cluster_status"]).await?;
        let status: Value = json(&status)?;
        let running = status["running_nodes"].as_array().map_or(0, Vec::len);
        ensure!(running == NAMES.len(), "{running} nodes are one cluster: {status}");
        Ok(cluster)
    }

    /// An address that names all nodes.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        let first = self.nodes[0].amqp_url(vhost);
        let host = |node: &RabbitMq| format!("127.0.0.1:{}", node.ports.amqp);
        let hosts: Vec<_> = self.nodes.iter().map(host).collect();
        first.replacen(&host(&self.nodes[0]), &hosts.join(","), 1)
    }

    /// A node by its number.
    #[must_use]
    pub fn node(&self, number: usize) -> &RabbitMq {
        &self.nodes[number]
    }

    /// As [`RabbitMq::settle`], on all nodes.
    ///
    /// # Errors
    /// As there.
    pub async fn settle(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.settle().await?;
        }
        Ok(())
    }

    /// How the quorum queues of a virtual host stand, asked of a node that runs.
    ///
    /// # Errors
    /// When none runs, or it does not answer.
    pub async fn standings(&self, vhost: &str) -> anyhow::Result<Vec<Standing>> {
        let node = self.nodes.iter().find(|node| node.running.is_alive()).context("no node of the cluster runs")?;
        let columns = ["name", "type", "leader", "members", "online"];
        let listed = node.ctl(&[&["--formatter", "json", "list_queues", "--vhost", vhost], &columns[..]].concat()).await?;
        let listed: Vec<Value> = json(&listed)?;
        let quorum = listed.iter().filter(|queue| queue["type"] == "quorum" || queue["type"] == "rabbit_quorum_queue");
        Ok(quorum.map(standing).collect())
    }

    /// SIGKILL to a node.
    pub fn kill9(&self, number: usize) {
        self.nodes[number].kill9();
    }

    /// Starts a killed node again.
    ///
    /// # Errors
    /// As [`RabbitMq::start_again`].
    pub async fn start_again(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].start_again().await
    }
}

/// What a command printed as JSON, behind what else it may have said.
fn json<T: serde::de::DeserializeOwned>(printed: &str) -> anyhow::Result<T> {
    let from = printed.find(['[', '{']).unwrap_or_default();
    serde_json::from_str(&printed[from..]).with_context(|| printed.to_owned())
}

fn standing(queue: &Value) -> Standing {
    let count = |key: &str| queue[key].as_array().map_or(0, Vec::len);
    let leader = queue["leader"].as_str().and_then(|leader| NAMES.iter().position(|name| Identity::of(name) == leader));
    let name = queue["name"].as_str().unwrap_or_default().to_owned();
    Standing { queue: name, leader, members: count("members"), online: count("online") }
}
