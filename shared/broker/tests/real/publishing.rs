//! Publishing: order, windows, deadlines, destinations that are not there.

use std::time::{Duration, Instant};

use countersign_broker::{Config, State};
use countersign_delivery::ports::broker::{Consumers, Published, Publisher};
use countersign_launcher::RabbitMq;
use futures::future::join_all;
use tokio::time::timeout;

use crate::rig::{Rig, SOON, bounded, config, ground, quorum, raw, to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_larger_than_the_window_arrives_in_order() {
    let ground = ground("in_order").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::start(Config { publish_window: 16, ..config(&url) });
    let outcomes = rig.broker.publish((0..500).map(|number| to("q", number)).collect()).await;
    assert_eq!(outcomes, vec![Published::Confirmed; 500]);
    let mut consumer = rig.broker.consume("q", 1_000).await.unwrap();
    let mut next = 0;
    while next < 500 {
        for delivered in timeout(SOON, consumer.next(100)).await.expect("all are there") {
            assert_eq!(delivered.properties, to("q", next).properties);
            assert_eq!(delivered.body, to("q", next).body);
            next += 1;
        }
    }
    drop(consumer);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_not_there_does_not_stop_the_others() {
    let ground = ground("no_exchange").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::up(&url).await;
    let stray = |id: &str| {
        let mut publication = to("q", id);
        publication.exchange = "gone".into();
        publication
    };
    assert_eq!(rig.broker.publish(vec![stray("1")]).await, [Published::Unknown], "the channel goes with it");
    let mut again = rig.broker.publish(vec![stray("2"), to("q", "3")]).await;
    if again[0] == Published::Unknown {
        // The first time it was closed without a word, see `publisher/penalty.rs`. Twice in a row would be another matter.
        again = rig.broker.publish(vec![stray("2"), to("q", "3")]).await;
    }
    assert!(matches!(&again[0], Published::Returned { reason } if reason.contains("gone")), "{again:?}");
    assert_eq!(again[1], Published::Confirmed);
    rig.end().await;
}

/// The refusals may be those of a channel that takes a dead node for the queue's leader; see `publisher/renewal.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_with_refusals_is_changed_and_others_do_not_notice() {
    let dir = tempfile_dir("renewal");
    let node = RabbitMq::start(dir.path()).await.unwrap();
    let url = node.amqp_url("/");
    let (connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    quorum(&channel, "full", &bounded()).await;
    connection.close(200, "declared".into()).await.unwrap();
    let rig = Rig::up(&url).await;
    let channels = async || node.ctl(&["--silent", "list_channels", "pid"]).await.unwrap();
    let before = channels().await;
    let started = Instant::now();
    let sending = async |sender: i32| {
        let (mut refused, mut slowest) = (0, Duration::ZERO);
        for number in 0.. {
            let begun = Instant::now();
            let outcomes = rig.broker.publish(["q", "full"].map(|queue| to(queue, format!("{sender} {number}"))).into()).await;
            assert_eq!(outcomes[0], Published::Confirmed);
            assert!(rig.broker.is_up());
            refused += usize::from(outcomes[1] == Published::Nacked);
            slowest = slowest.max(begun.elapsed());
            if started.elapsed() > Duration::from_millis(2_500) {
                break;
            }
        }
        assert!(refused > 10 && slowest < Duration::from_secs(2), "{refused} refused, the slowest took {slowest:?}");
    };
    join_all((0..4).map(sending)).await;
    let after = channels().await;
    assert_eq!((before.lines().count(), after.lines().count()), (1, 1), "{before} {after}");
    assert_ne!(before, after, "another channel");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_amqp_cannot_carry_is_turned_down_alone() {
    let ground = ground("cannot_carry").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::up(&url).await;
    let mut huge = to("q", "huge");
    huge.body = vec![0; 16 * 1024 * 1024 + 1].into();
    let outcomes = rig.broker.publish(vec![to("q", 1), to(&"k".repeat(256), 2), huge, to("q", 3)]).await;
    assert_eq!((&outcomes[0], &outcomes[3]), (&Published::Confirmed, &Published::Confirmed));
    assert!(outcomes[1..3].iter().all(|outcome| matches!(outcome, Published::Returned { .. })), "{outcomes:?}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_leaves_publishes_unknown_within_the_deadline_and_comes_back() {
    let dir = tempfile_dir("hang");
    let node = RabbitMq::start(dir.path()).await.unwrap();
    let url = node.amqp_url("/");
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::start(Config { confirm_timeout_ms: 2_000, ..config(&url) });
    assert_eq!(rig.broker.publish(vec![to("q", 1)]).await, [Published::Confirmed]);
    node.pause().unwrap();
    let started = Instant::now();
    assert_eq!(rig.broker.publish(vec![to("q", 2), to("q", 3)]).await, [Published::Unknown, Published::Unknown]);
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2_700), "{took:?}");
    node.resume().unwrap();
    timeout(SOON, async { while rig.broker.publish(vec![to("q", 4)]).await != [Published::Confirmed] {} })
        .await
        .expect("it comes back");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_connection_is_told_and_survived() {
    let dir = tempfile_dir("alarm");
    let node = RabbitMq::start(dir.path()).await.unwrap();
    let url = node.amqp_url("/");
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::start(Config { confirm_timeout_ms: 1_500, ..config(&url) });
    assert_eq!(rig.broker.publish(vec![to("q", 1)]).await, [Published::Confirmed]);
    let mut consumer = rig.broker.consume("q", 10).await.unwrap();
    let first = timeout(SOON, consumer.next(10)).await.expect("the message");
    let mut state = rig.broker.state();
    node.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await.unwrap();
    // The broker tells a connection when it publishes next.
    let outcome = rig.broker.publish(vec![to("q", 2)]).await;
    timeout(SOON, state.wait_for(|state| matches!(state, State::Blocked(_)))).await.expect("it is told").unwrap();
    assert!(!rig.broker.is_up());
    assert_eq!(outcome, [Published::Unknown]);
    // Acks travel on the other connection.
    consumer.settler().settle(&[first[0].handle], countersign_delivery::ports::broker::Settlement::Ack).await;
    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await.unwrap();
    timeout(SOON, rig.broker.up()).await.expect("the alarm is over");
    timeout(SOON, async { while rig.broker.publish(vec![to("q", 3)]).await != [Published::Confirmed] {} })
        .await
        .expect("it comes back");
    drop(consumer);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_waits_for_what_is_in_flight() {
    let ground = ground("drain").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::up(&url).await;
    let broker = rig.broker.clone();
    let call = tokio::spawn(async move { broker.publish((0..2_000).map(|number| to("q", number)).collect()).await });
    while ground.queue_depth("q").await.unwrap() == 0 {}
    let late = rig.broker.clone();
    rig.end().await;
    assert_eq!(call.await.unwrap(), vec![Published::Confirmed; 2_000]);
    assert_eq!(late.publish(vec![to("q", "late")]).await, [Published::Unknown]);
}

/// `cargo test --release -- --ignored` on a quiet machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test; it prints"]
async fn how_fast_it_publishes() {
    let ground = ground("speed").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "q", &[]).await;
    let rig = Rig::up(&url).await;
    for callers in [1, 4, 8] {
        let started = Instant::now();
        let calls = (0..callers).map(|caller| {
            let broker = rig.broker.clone();
            tokio::spawn(async move {
                for round in 0..200 / callers {
                    let batch = (0..256).map(|number| to("q", format!("{caller}-{round}-{number}"))).collect();
                    assert!(broker.publish(batch).await.iter().all(|outcome| *outcome == Published::Confirmed));
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        let count = f64::from(200 / callers * callers * 256);
        println!("{callers} callers: {:.0} confirmed publishes a second", count / started.elapsed().as_secs_f64());
        ground.purge("q").await.unwrap();
    }
    rig.end().await;
}

pub fn tempfile_dir(name: &str) -> tempfile::TempDir {
    tempfile::TempDir::with_prefix(format!("broker-{name}-")).unwrap()
}
