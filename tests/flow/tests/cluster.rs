//! A broker of three nodes, and the leader of each of its queues is killed under load.
//!
//! A quorum queue whose leader dies elects another; what was confirmed is on two nodes. The services name all three nodes, lose the connections
//! that went to the dead one, and go on with another. So messages are accepted and handled while a node is away, and nothing is lost or done
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Ledger};
use countersign_launcher::{RabbitMqCluster, SUBSCRIPTION, Standing, Which, wait_until};
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::bad_input::private::{Own, flow, ready};
use crate::command::expect;
use crate::random_kills::all_done;

const VHOST: &str = "shop";
/// Messages in one call, and between two calls: four hundred a second.
const CALL: u32 = 40;
const PACE: Duration = Duration::from_millis(100);
/// So many are accepted, and handled, while a node is away, and again after it is back.
const MEANWHILE: usize = 800;
/// How long anything may take on a busy machine while a node is away or comes back.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long what is left over may take in the end, on a machine that has fallen behind.
const LEFT_OVER: Duration = Duration::from_mins(10);
/// Nodes, and replicas of each queue.
const NODES: usize = 3;

/// The sender's own books.
#[derive(Default)]
struct Sender {
    ids: Mutex<Vec<String>>,
    accepted: AtomicUsize,
    is_over: AtomicBool,
}

impl Sender {
    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Sends until it is over; a call without an answer is repeated under its keys.
    async fn send(&self, flow: &Flow) -> anyhow::Result<()> {
        let (mut pace, mut number) = (interval(PACE), 0);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over.load(Ordering::Relaxed) {
            pace.tick().await;
            let mut last = None;
            let accepted = wait_until("a call to be accepted", PATIENCE, async || match flow.send(number, CALL).await {
                Ok(ids) => {
                    self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
                    true
                }
                Err(error) => {
                    last = Some(error);
                    false
                }
            });
            accepted.await.with_context(|| format!("{last:?}"))?;
            number += CALL;
            self.accepted.fetch_add(CALL as usize, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn more(&self, flow: &Flow) -> anyhow::Result<()> {
        let look = flow.system.look();
        let (accepted, effects) = (self.accepted() + MEANWHILE, look.counts().await?.orders + MEANWHILE as u64);
        let what = format!("{accepted} to be accepted and {effects} handled");
        let mut handled = 0;
        let more = wait_until(&what, PATIENCE, async || {
            handled = look.counts().await.map_or(handled, |now| now.orders);
            self.accepted() >= accepted && handled >= effects
        });
        more.await.with_context(|| format!("{} accepted, {handled} handled", self.accepted()))
    }
}

/// All queues, each with a leader, all replicas online.
async fn in_sync(cluster: &RabbitMqCluster) -> anyhow::Result<Vec<Standing>> {
    let mut standings = Vec::new();
    let all = wait_until("every replica to be online", PATIENCE, async || {
        standings = cluster.standings(VHOST).await.unwrap_or_default();
        let whole = |queue: &Standing| queue.leader.is_some() && queue.members == NODES && queue.online == NODES;
        !standings.is_empty() && standings.iter().all(whole)
    });
    all.await.with_context(|| format!("{standings:?}"))?;
    Ok(standings)
}

/// Kills the leader of each queue once, one node at a time, each until it is back and in sync. Returns who led what when it was killed.
async fn kill_leaders(flow: &Flow, cluster: &mut RabbitMqCluster, sender: &Sender) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut killed = BTreeMap::new();
    let mut standings = in_sync(cluster).await?;
    loop {
        let mut left = standings.iter().filter(|queue| !killed.contains_key(&queue.queue));
        let next = left.next().and_then(|queue| queue.leader);
        let Some(node) = next else { return Ok(killed) };
        let led: Vec<_> = standings.iter().filter(|queue| queue.leader == Some(node)).map(|queue| queue.queue.clone()).collect();
        let (started, before) = (Instant::now(), sender.accepted());
        cluster.kill9(node);
        sender.more(flow).await.with_context(|| format!("while node {node} is away"))?;
        let (away, accepted) = (started.elapsed(), sender.accepted() - before);
        cluster.start_again(node).await?;
        standings = in_sync(cluster).await?;
        println!("node {node}, leader of {led:?}: killed; {accepted} accepted in the {away:.1?} until that many were handled");
        killed.extend(led.into_iter().map(|queue| (queue, node)));
        sender.more(flow).await.with_context(|| format!("after node {node} is back"))?;
    }
}

/// Every message has an effect by the handler's own journal; a further one only where downstream has counted that it may have happened.
async fn books_agree(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    let effects = Ledger::open(&flow.ground.path("orders.db")).await?.effects().await?;
    let (sent, had): (BTreeSet<_>, BTreeSet<_>) = (ids.iter().collect(), effects.keys().collect());
    ensure!(sent.len() == ids.len() && sent == had, "{} accepted, {} had an effect", sent.len(), had.len());
    let further: usize = effects.values().map(|times| times.len() - 1).sum();
    let counted = flow.system.metric(Which::Downstream, "countersign_possible_duplicates_total").await?;
    let resent = flow.system.metric(Which::Upstream, "countersign_resends_total").await?;
    println!(
        "{} accepted, one effect each, and {further} further ones; {counted} possible duplicates counted; {resent} sent again",
        sent.len()
    );
    ensure!(f64::from(u32::try_from(further)?) <= counted, "{further} further effects, {counted} counted");
    flow.no_invariant_was_violated()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_each_queues_leader_is_killed_under_load() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes some minutes; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    let dir = TempDir::with_prefix("countersign-cluster-")?;
    let mut cluster = RabbitMqCluster::start(dir.path()).await?;
    cluster.node(0).create_vhost(VHOST).await?;
    let url = cluster.amqp_url(VHOST);
    let mut flow = flow("cluster", Own { amqp: Some(url.clone()), postgres: true, ..Own::default() }).await?;
    let file = flow.system.topology_file().display().to_string();
    expect(&flow, 0, &["topology", "apply", "--file", &file, "--amqp-url", &url]).await?;
    // A node that is killed within half a second of a declaration forgets which log was the queue's.
    cluster.settle().await?;
    flow.start(&Which::ALL).await?;

    let sender = Sender::default();
    let disturbed = async {
        let killed = async {
            sender.more(&flow).await?;
            kill_leaders(&flow, &mut cluster, &sender).await
        };
        let killed = killed.await;
        sender.is_over.store(true, Ordering::Relaxed);
        killed
    };
    let (sent, killed) = tokio::join!(sender.send(&flow), disturbed);
    let killed = killed?;
    sent?;
    for queue in [SUBSCRIPTION, "inventory.orders.dead", "countersign.receipts", "countersign.checks", "countersign.checks.1000"]
    {
        ensure!(killed.contains_key(queue), "the leader of {queue} was not killed: {killed:?}");
    }
    ready(&flow).await?;
    let ids = sender.ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all_done(&flow, ids.len(), LEFT_OVER).await?;
    books_agree(&flow, &ids).await?;
    flow.finish().await
}
