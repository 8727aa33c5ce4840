//! A listener on the exchange of events hears what becomes of messages that did not go the straight way, at least once.

pub mod away;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, everywhere};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::Mutex;

const QUEUE: &str = "listener";

/// A queue of somebody else, bound to everything, and what came out of it.
pub struct Listener {
    _connection: Connection,
    channel: Channel,
    heard: Mutex<Vec<(String, Value)>>,
}

impl Listener {
    /// Callback has declared the exchange by then.
    pub async fn bound(flow: &Flow) -> anyhow::Result<Self> {
        Self::bound_at(&flow.ground.amqp_url()).await
    }

    /// The same at a broker's address; a queue that is there is taken over.
    async fn bound_at(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(QUEUE.into(), "countersign.events".into(), "#".into(), bind, FieldTable::default()).await?;
        Ok(Self { _connection: connection, channel, heard: Mutex::default() })
    }

    pub async fn listen(&self) -> anyhow::Result<()> {
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(QUEUE.into(), options).await? {
            let event = serde_json::from_slice(&message.data).context("an event that is no JSON")?;
            self.heard.lock().await.push((message.routing_key.to_string(), event));
        }
        Ok(())
    }

    /// Waits until so many different events of a kind have been heard of a message.
    pub async fn hears(&self, what: &str, id: &str, times: usize) -> anyhow::Result<()> {
        let heard = async || self.listen().await.is_ok() && self.events(what, id).await.len() >= times;
        wait_until(&format!("{times} events {what} of {id}"), PATIENCE, heard).await
    }

    /// How often each event of a kind was heard of a message, by its id.
    async fn events(&self, what: &str, id: &str) -> BTreeMap<String, usize> {
        let mut events = BTreeMap::new();
        for (key, event) in self.heard.lock().await.iter() {
            if *key == format!("{what}.{SUBSCRIPTION}") && event["data"]["message_id"] == id {
                *events.entry(event["id"].to_string()).or_default() += 1;
            }
        }
        events
    }

    /// What was heard, of which message.
    pub async fn heard(&self) -> BTreeSet<(String, String)> {
        let pair = |(key, event): &(String, Value)| {
            let what = key.split('.').next().unwrap_or_default().to_owned();
            (what, event["subject"].as_str().unwrap_or_default().to_owned())
        };
        self.heard.lock().await.iter().map(pair).collect()
    }

    /// What was heard of a message, in the order in which it was heard first.
    async fn story(&self, id: &str) -> Vec<String> {
        let (mut known, mut story) = (BTreeSet::new(), Vec::new());
        for (_, event) in self.heard.lock().await.iter().filter(|(_, event)| event["data"]["message_id"] == id) {
            if known.insert(event["id"].to_string()) {
                let kind = event["type"].as_str().unwrap_or_default();
                story.push(kind.trim_start_matches("countersign.delivery.").to_owned());
            }
        }
        story
    }

    /// Asserts that all that was heard is an event about one of these messages, without anything of its body.
    async fn heard_only_of(&self, ids: &[String]) -> anyhow::Result<()> {
        let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        for (key, event) in self.heard.lock().await.iter() {
            let is_known = event["subject"].as_str().is_some_and(|id| ids.contains(id));
            ensure!(is_known && event["specversion"] == "1.0" && event["data"]["upstream"] == "shop", "{key}: {event}");
            ensure!(!event.to_string().contains("\\\"order\\\""), "a payload: {event}");
        }
        Ok(())
    }
}

everywhere!(what_is_resent_parked_and_recovered_is_heard);

async fn what_is_resent_parked_and_recovered_is_heard(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let listener = Listener::bound(&flow).await?;
    let thief = flow.lose_everything().await?;
    let ids = flow.send(0, 1).await?;
    flow.all_in_state(&ids, "parked").await?;
    // On a busy machine the last copy may still lie there: it would be handled, and nothing left to resend.
    flow.queue_reaches(SUBSCRIPTION, 0).await?;
    thief.abort();
    let id = &ids[0];
    listener.hears("parked", id, 1).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.resend_by_hand(id).await?;
    flow.all_signed(&ids).await?;
    listener.hears("recovered", id, 1).await?;
    listener.hears("resent", id, 4).await?;
    let straight = flow.send(1, 5).await?;
    flow.all_signed(&straight).await?;
    listener.listen().await?;
    listener.heard_only_of(&ids).await?;
    for (what, times) in [("parked", 1), ("recovered", 1), ("resent", 4)] {
        let events = listener.events(what, id).await;
        ensure!(events.len() == times && events.values().all(|count| *count == 1), "{what}: {events:?}");
    }
    flow.finish().await
}

/// Killed when the broker has them and MSG DB has them still: they are told again, under the same ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn across_a_kill_between_publish_and_delete_each_is_heard_twice_at_most() -> anyhow::Result<()> {
    const POINT: &str = "callback.after_event_publish";
    let mut flow = Flow::new("events_killed", Setup { postgres: false, max_batch: 256 }).await?;
    flow.start(&[Which::Upstream]).await?;
    let listener = Listener::bound(&flow).await?;
    let ids = flow.send(0, 3).await?;
    flow.queue_reaches(SUBSCRIPTION, 3).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.system.spawn(Which::Callback, &format!("{POINT}=1*return"))?;
    flow.system.dies_at(Which::Callback, POINT, PATIENCE).await?;
    flow.start(&[Which::Callback]).await?;
    flow.all_signed(&ids).await?;
    let mut most = 0;
    for id in &ids {
        listener.hears("resent", id, 1).await?;
        listener.hears("recovered", id, 1).await?;
    }
    let again = async || {
        let mut twice = false;
        if listener.listen().await.is_err() {
            return false;
        }
        for id in &ids {
            for what in ["resent", "recovered"] {
                twice |= listener.events(what, id).await.values().any(|count| *count > 1);
            }
        }
        twice
    };
    wait_until("what was not deleted to be told again", PATIENCE, again).await?;
    for id in &ids {
        for what in ["resent", "recovered"] {
            let events = listener.events(what, id).await;
            ensure!(events.len() == 1, "{what} of {id} under several ids: {events:?}");
            most = events.values().copied().fold(most, usize::max);
        }
    }
    ensure!(most == 2, "one was heard {most} times");
    flow.finish().await
}
