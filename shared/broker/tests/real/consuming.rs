//! Consuming: bounds, settlement, and every way to lose the channel.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_delivery::ports::broker::{Consumer, Consumers, Delivered, Handle, Publisher, Settlement};
use lapin::options::QueueDeleteOptions;
use lapin::types::AMQPValue;
use tokio::time::timeout;

use crate::rig::{Rig, SOON, ground, quorum, raw, to};

async fn take(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Delivered> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(timeout(SOON, consumer.next(count - all.len())).await.expect("messages"));
    }
    all
}

fn ids(delivered: &[Delivered]) -> Vec<&str> {
    delivered.iter().filter_map(|delivered| delivered.properties.message_id.as_deref()).collect()
}

fn handles(delivered: &[Delivered], at: &[usize]) -> Vec<Handle> {
    at.iter().map(|at| delivered[*at].handle).collect()
}

async fn publish(rig: &Rig, queue: &str, count: usize) {
    rig.broker.publish((0..count).map(|number| to(queue, number)).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_delivery_is_settled_as_told() {
    let ground = ground("settle").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "dead", &[]).await;
    let dead = [
        ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString("dead".into())),
    ];
    quorum(&channel, "q", &dead).await;
    let rig = Rig::up(&url).await;
    publish(&rig, "q", 10).await;
    let mut consumer = rig.broker.consume("q", 10).await.unwrap();
    let settler = consumer.settler();
    let got = take(&mut consumer, 10).await;
    // A hole at 1: what is acked beyond it must not take it along.
    settler.settle(&handles(&got, &[0, 2, 3, 4]), Settlement::Ack).await;
    settler.settle(&handles(&got, &[5, 6]), Settlement::DeadLetter).await;
    settler.settle(&handles(&got, &[7]), Settlement::Requeue).await;
    let again = take(&mut consumer, 1).await;
    assert_eq!(ids(&again), ["7"]);
    assert!(again[0].redelivered && !got[7].redelivered);
    // Twice is once.
    settler.settle(&handles(&got, &[0, 2]), Settlement::Ack).await;
    drop(consumer);
    let mut other = rig.broker.consume("q", 10).await.unwrap();
    let left: BTreeSet<String> = ids(&take(&mut other, 4).await).into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(left, ["1", "7", "8", "9"].map(ToOwned::to_owned).into());
    drop(other);
    let mut letters = rig.broker.consume("dead", 10).await.unwrap();
    assert_eq!(ids(&take(&mut letters, 2).await), ["5", "6"]);
    drop(letters);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_that_share_a_frame_are_all_sent_and_nothing_else_is() {
    let ground = ground("shared_frame").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::up(&url).await;
    publish(&rig, "q", 8).await;
    let mut consumer = rig.broker.consume("q", 8).await.unwrap();
    let settler = consumer.settler();
    let got = take(&mut consumer, 8).await;
    // At the same time, with a hole at 1.
    let one = |at: usize| {
        let (settler, handles) = (settler.clone(), handles(&got, &[at]));
        async move { settler.settle(&handles, Settlement::Ack).await }
    };
    futures::future::join_all([0, 2, 3, 4].map(one)).await;
    // Whoever gathers is dropped in the middle, with what another has left to it.
    {
        let (mut gathers, mut joins) = (Box::pin(one(5)), Box::pin(one(6)));
        assert!(futures::poll!(&mut gathers).is_pending());
        assert!(futures::poll!(&mut joins).is_ready(), "it relies on the other");
    }
    drop(consumer);
    let mut other = rig.broker.consume("q", 8).await.unwrap();
    assert_eq!(ids(&take(&mut other, 2).await), ["1", "7"]);
    timeout(Duration::from_millis(300), other.next(1)).await.expect_err("all others are acked");
    drop(other);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_prefetch_is_held() {
    let ground = ground("prefetch").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::up(&url).await;
    publish(&rig, "q", 20).await;
    let mut consumer = rig.broker.consume("q", 5).await.unwrap();
    let got = take(&mut consumer, 5).await;
    timeout(Duration::from_millis(300), consumer.next(1)).await.expect_err("the prefetch is used up");
    assert_eq!(ground.queue_depth("q").await.unwrap(), 15);
    consumer.settler().settle(&handles(&got, &[0]), Settlement::Ack).await;
    assert_eq!(ids(&take(&mut consumer, 1).await), ["5"]);
    assert!(rig.broker.consume("q", 0).await.is_err(), "no bound is no choice");
    drop(consumer);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_may_come_later_go_and_come_again() {
    let ground = ground("come_and_go").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    let rig = Rig::up(&url).await;
    let mut consumer = rig.broker.consume("q", 5).await.unwrap();
    // Waiting in short pieces, as a caller in a `select!` does, must not keep it from ever consuming.
    for _ in 0..50 {
        timeout(Duration::from_millis(5), consumer.next(1)).await.expect_err("no queue yet");
    }
    quorum(&channel, "q", &[]).await;
    publish(&rig, "q", 1).await;
    let first = take(&mut consumer, 1).await;
    channel.queue_delete("q".into(), QueueDeleteOptions::default()).await.unwrap();
    timeout(Duration::from_millis(300), consumer.next(1)).await.expect_err("it is gone");
    quorum(&channel, "q", &[]).await;
    rig.broker.publish(vec![to("q", "second")]).await;
    let second = take(&mut consumer, 1).await;
    assert_eq!(ids(&second), ["second"]);
    assert!(second[0].handle.generation > first[0].handle.generation);
    // A stale handle with the tag of a live one.
    assert_eq!(first[0].handle.tag, second[0].handle.tag);
    consumer.settler().settle(&handles(&first, &[0]), Settlement::Ack).await;
    drop(consumer);
    let mut other = rig.broker.consume("q", 5).await.unwrap();
    assert_eq!(ids(&take(&mut other, 1).await), ["second"], "the stale ack touched nothing");
    drop(other);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_consumers_trouble_is_not_anothers() {
    let ground = ground("neighbours").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "healthy", &[]).await;
    quorum(&channel, "ill", &[]).await;
    let rig = Rig::up(&url).await;
    publish(&rig, "healthy", 1).await;
    let mut healthy = rig.broker.consume("healthy", 5).await.unwrap();
    let got = take(&mut healthy, 1).await;
    for _ in 0..10 {
        let mut ill = rig.broker.consume("ill", 5).await.unwrap();
        timeout(Duration::from_millis(50), ill.next(1)).await.expect_err("nothing there");
        drop(ill);
    }
    let mut missing = rig.broker.consume("missing", 5).await.unwrap();
    timeout(Duration::from_millis(300), missing.next(1)).await.expect_err("not there");
    drop(missing);
    publish(&rig, "healthy", 1).await;
    let more = take(&mut healthy, 1).await;
    assert_eq!(more[0].handle.generation, got[0].handle.generation, "its channel was left alone");
    drop(healthy);
    rig.end().await;
}
