//! The broker goes away in the middle of things.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_delivery::ports::broker::{Consumers, Published, Publisher, Settlement};
use countersign_launcher::RabbitMq;
use tokio::time::timeout;

use crate::publishing::tempfile_dir;
use crate::rig::{Rig, config, quorum, raw, to};

/// Longest a broker may take to come back.
const BACK: Duration = Duration::from_secs(90);

/// Publishes 0 to `count`, again while the outcome is not `Confirmed`, and returns what was confirmed at the first try.
async fn publish_all(rig: &Rig, count: usize) -> (BTreeSet<String>, usize) {
    let (mut at_once, mut unknown) = (BTreeSet::new(), 0);
    for chunk in (0..count).collect::<Vec<_>>().chunks(50) {
        let mut open: Vec<usize> = chunk.to_vec();
        let mut first = true;
        while !open.is_empty() {
            let outcomes = rig.broker.publish(open.iter().map(|number| to("q", number)).collect()).await;
            let mut failed = Vec::new();
            for (number, outcome) in open.iter().zip(outcomes) {
                match outcome {
                    Published::Confirmed if first => drop(at_once.insert(number.to_string())),
                    Published::Confirmed => {}
                    Published::Unknown => failed.push(*number),
                    other => panic!("{number}: {other:?}"),
                }
            }
            unknown += failed.len();
            (open, first) = (failed, false);
        }
    }
    (at_once, unknown)
}

async fn consume_all(rig: &Rig, want: &BTreeSet<String>) -> BTreeSet<String> {
    let mut consumer = rig.broker.consume("q", 500).await.unwrap();
    let settler = consumer.settler();
    let mut got = BTreeSet::new();
    while !want.is_subset(&got) {
        let delivered = timeout(BACK, consumer.next(500)).await.expect("every confirmed message is there");
        got.extend(delivered.iter().filter_map(|delivered| delivered.properties.message_id.clone()));
        settler.settle(&delivered.iter().map(|delivered| delivered.handle).collect::<Vec<_>>(), Settlement::Ack).await;
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_while_publishing_keeps_what_it_confirmed() {
    let dir = tempfile_dir("kill");
    let mut node = RabbitMq::start(dir.path()).await.unwrap();
    let url = node.amqp_url("/");
    let (connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    drop((channel, connection));
    node.settle().await.unwrap();
    let rig = Rig::start(countersign_broker::Config { confirm_timeout_ms: 4_000, ..config(&url) });
    timeout(BACK, rig.broker.up()).await.unwrap();
    let kill = async {
        while node.queue_depth("/", "q").await.unwrap_or_default() < 1_500 {}
        node.kill9();
        node.start_again().await.unwrap();
    };
    let ((at_once, unknown), ()) =
        timeout(BACK, async { tokio::join!(publish_all(&rig, 10_000), kill) }).await.expect("publishing goes on");
    println!("{} confirmed at the first try, {unknown} times unknown", at_once.len());
    assert!(unknown > 0, "the kill came in the middle");
    let all: BTreeSet<String> = (0..10_000).map(|number| number.to_string()).collect();
    assert_eq!(consume_all(&rig, &all).await, all);
    rig.end().await;
    drop(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_by_force_heal_both_ways() {
    let dir = tempfile_dir("forced");
    let node = RabbitMq::start(dir.path()).await.unwrap();
    let url = node.amqp_url("/");
    let (connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    drop((channel, connection));
    let rig = Rig::up(&url).await;
    let mut consumer = rig.broker.consume("q", 100).await.unwrap();
    rig.broker.publish(vec![to("q", "before")]).await;
    let before = timeout(BACK, consumer.next(10)).await.unwrap();
    node.ctl(&["close_all_connections", "maintenance"]).await.unwrap();
    let again = timeout(BACK, consumer.next(10)).await.unwrap();
    assert_eq!(again[0].properties.message_id.as_deref(), Some("before"), "unsettled, so it comes again");
    assert!(again[0].redelivered && again[0].handle.generation > before[0].handle.generation);
    timeout(BACK, async { while rig.broker.publish(vec![to("q", "after")]).await != [Published::Confirmed] {} }).await.unwrap();
    drop(consumer);
    rig.end().await;
}
