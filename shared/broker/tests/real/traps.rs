//! Two traps of lapin's confirms, first shown to exist, then shown not to reach us.

use countersign_broker::Config;
use countersign_delivery::ports::broker::{Published, Publisher};
use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use crate::rig::{Rig, bounded, config, ground, quorum, raw, to};

const MANDATORY: BasicPublishOptions = BasicPublishOptions { mandatory: true, immediate: false };

async fn start(channel: &Channel, queue: &str, id: &str) -> lapin::Result<PublisherConfirm> {
    let properties = BasicProperties::default().with_message_id(id.into()).with_delivery_mode(2);
    channel.basic_publish("".into(), queue.into(), MANDATORY, b"x", properties).await
}

async fn publish(channel: &Channel, queue: &str, id: &str) -> lapin::Result<Confirmation> {
    start(channel, queue, id).await?.await
}

fn carried(confirmation: Confirmation) -> Option<String> {
    confirmation.take_message().and_then(|message| message.properties.message_id().as_ref().map(ToString::to_string))
}

/// The reason for our ledger: how often it goes wrong is printed, since it takes confirms that come in bulk or out of order. What the ledger
/// relies on is asserted: no return is lost, and none comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lapin_attaches_returns_to_the_wrong_confirms_but_loses_none() {
    let ground = ground("trap_return").await;
    let (_connection, channel) = raw(&ground.amqp_url()).await;
    quorum(&channel, "there", &[]).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let ids: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    let mut lost: Vec<String> = ids.iter().skip(1).step_by(2).cloned().collect();
    lost.sort();
    let mut wrong = 0;
    for _ in 0..200 {
        let publishes = ids.iter().enumerate().map(|(number, id)| publish(&channel, ["there", "nowhere"][number % 2], id));
        let outcomes = join_all(publishes).await;
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| carried(outcome.unwrap())).collect();
        let right = ids.iter().zip(&outcomes).enumerate().all(|(n, (id, got))| got.as_ref() == (n % 2 == 1).then_some(id));
        wrong += usize::from(!right);
        let mut all: Vec<String> = outcomes.into_iter().flatten().collect();
        all.sort();
        assert_eq!(all, lost);
    }
    println!("{wrong} of 200 rounds had a return on the wrong confirm");
}

/// The reason why one task owns the channel: one task's messages are all accepted, the other's all refused, so that an outcome in the wrong
/// hands can be told. How many are is printed, since it takes bad luck; that none is lost is asserted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lapin_mixes_up_the_confirms_of_two_publishing_tasks() {
    const CHUNKS: usize = 100;
    const CHUNK: usize = 100;
    let ground = ground("trap_tags").await;
    let (_connection, channel) = raw(&ground.amqp_url()).await;
    quorum(&channel, "there", &[]).await;
    quorum(&channel, "full", &bounded()).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    while !publish(&channel, "full", "filler").await.unwrap().is_nack() {}
    let run = |queue: &'static str| {
        let channel = channel.clone();
        tokio::spawn(async move {
            let mut nacks = 0;
            for _ in 0..CHUNKS {
                let mut confirms = Vec::new();
                for _ in 0..CHUNK {
                    confirms.push(start(&channel, queue, "id").await.unwrap());
                }
                let outcomes = join_all(confirms).await;
                nacks += outcomes.into_iter().filter(|outcome| outcome.as_ref().is_ok_and(Confirmation::is_nack)).count();
            }
            nacks
        })
    };
    let (there, full) = (run("there"), run("full"));
    let (wrongly_refused, rightly_refused) = (there.await.unwrap(), full.await.unwrap());
    let wrongly_accepted = CHUNKS * CHUNK - rightly_refused;
    println!(
        "of {} each, {wrongly_refused} were wrongly called refused, {wrongly_accepted} wrongly called accepted",
        CHUNKS * CHUNK
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_publication_gets_its_own_outcome() {
    let ground = ground("own_outcome").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "there", &[]).await;
    quorum(&channel, "full", &bounded()).await;
    let rig = Rig::up(&url).await;
    fill(&rig).await;
    for round in 0..200 {
        // Several callers at once, each with a mixture of its own; one of them with enough for confirms in bulk.
        let calls = [24, 24, 200].into_iter().enumerate().map(|(caller, size)| {
            let queues: Vec<&str> = (0..size)
                .map(|number| ["there", "nowhere", "there", "full", "nowhere"][(number * 7 + round + caller) % 5])
                .collect();
            let batch = queues.iter().enumerate().map(|(number, queue)| to(queue, format!("{round}-{caller}-{number}")));
            let (batch, broker): (Vec<_>, _) = (batch.collect(), rig.broker.clone());
            async move { (queues, broker.publish(batch).await) }
        });
        for (queues, outcomes) in join_all(calls).await {
            for (queue, outcome) in queues.iter().zip(&outcomes) {
                let right = match *queue {
                    "there" => *outcome == Published::Confirmed,
                    "full" => *outcome == Published::Nacked,
                    _ => matches!(outcome, Published::Returned { reason } if reason.contains("NO_ROUTE")),
                };
                assert!(right, "round {round}: {queue} answered {outcome:?} in {outcomes:?}");
            }
        }
    }
    rig.end().await;
}

/// Quorum queues enforce their bound a little late: publish until they refuse.
async fn fill(rig: &Rig) {
    for number in 0..1_000 {
        if rig.broker.publish(vec![to("full", number)]).await == [Published::Nacked] {
            return;
        }
    }
    panic!("the bounded queue never refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_message_to_two_places_and_twice_to_one_is_told_apart() {
    let ground = ground("same_id").await;
    let url = ground.amqp_url();
    let (_connection, channel) = raw(&url).await;
    quorum(&channel, "one", &[]).await;
    let rig = Rig::start(Config { publish_window: 4, ..config(&url) });
    for _ in 0..50 {
        let batch = vec![to("one", "id"), to("nowhere", "id"), to("one", "id"), to("nowhere", "id"), to("one", "id")];
        let outcomes = rig.broker.publish(batch).await;
        let confirmed: Vec<bool> = outcomes.iter().map(|outcome| *outcome == Published::Confirmed).collect();
        assert_eq!(confirmed, [true, false, true, false, true], "{outcomes:?}");
    }
    assert_eq!(ground.queue_depth("one").await.unwrap(), 150);
    rig.end().await;
}
