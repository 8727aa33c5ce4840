//! What an operator sees of dead letters, and does about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::broker::{Consumers as _, HeaderValue, Publication};
use countersign_delivery::ports::claims::Claims as _;
use countersign_delivery::{Attempt, Message};
use countersign_testkit::build::{a_message_with, a_publication, a_topology};
use countersign_wire::history::{History, What};
use countersign_wire::names;
use countersign_wire::publication::Publish;
use tokio::sync::mpsc;

use super::world::{Behaviour, DEAD, QUARANTINE, QUEUE, RETENTION_MS, World, claim};
use crate::dead_letters::act::{Deed, Event, Order, Outcome, Summary};
use crate::dead_letters::filter::Filter;
use crate::dead_letters::scan::{Keep, WINDOW};
use crate::dead_letters::{Busy, DeadLetters, Problem, Queue};
use crate::handler::Failure;

const KEEP: Keep = Keep { letters: 1_000, bodies: false };

fn message(n: u64) -> Message {
    a_message_with(n, &format!("{{\"order\":{n}}}"))
}

fn desk(world: &World) -> Arc<DeadLetters> {
    Arc::new(DeadLetters {
        consumers: Arc::new(world.broker.clone()),
        publisher: Arc::new(world.broker.clone()),
        topology: a_topology(),
        memories_ms: BTreeMap::from([(QUEUE.to_owned(), RETENTION_MS)]),
        clock: world.context.clock.clone(),
        tasks: world.context.tasks.clone(),
        stop: world.context.stop.clone(),
        busy: Busy::default(),
    })
}

fn queue(desk: &DeadLetters) -> Queue {
    desk.queue_of(QUEUE).expect("it is in the topology")
}

/// A running world with so many rejected messages in its dead-letter queue.
async fn with_rejected(count: u64) -> World {
    let world = World::new();
    world.told(Behaviour::Fail(Failure::reject("no such article")));
    world.start();
    for n in 1..=count {
        world.arrives(&message(n), Publish::FIRST).await;
        world.settled().await;
    }
    assert_eq!(world.broker.depth(DEAD), usize::try_from(count).unwrap());
    world
}

fn redrive(rate: u32) -> Order {
    let (by, reason) = ("ann".to_owned(), "mended".to_owned());
    Order { deed: Deed::Redrive { rate }, filter: Filter::default(), limit: 1_000, validate_only: false, by, reason }
}

fn only(ids: &[u64]) -> Filter {
    Filter { message_ids: ids.iter().map(|n| message(*n).id.to_string()).collect(), ..Filter::default() }
}

/// Carries an order out, and gives what was told.
async fn act(desk: &Arc<DeadLetters>, order: Order) -> (Vec<Outcome>, Summary) {
    let (events, mut told) = mpsc::channel(10_000);
    let act = desk.prepare(queue(desk), order).await.expect("it can begin");
    desk.carry_out(act, events).await;
    let (mut outcomes, mut summary) = (Vec::new(), None);
    while let Some(event) = told.recv().await {
        match event {
            Event::Letter { outcome, .. } => outcomes.push(outcome),
            Event::End(end) => summary = Some(end),
        }
    }
    (outcomes, summary.expect("the last word"))
}

fn ids(publications: &[Publication]) -> Vec<String> {
    publications.iter().filter_map(|publication| publication.properties.message_id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_look_shows_everything_and_leaves_everything_as_it_was() {
    let count = u64::from(WINDOW) + 20;
    let world = with_rejected(count).await;
    let desk = desk(&world);
    let before = world.broker.ready(DEAD);
    for _ in 0..2 {
        let listed = desk.list(&queue(&desk), &Filter::default(), KEEP).await.unwrap();
        assert_eq!((u64::from(listed.seen), u64::from(listed.matched), listed.partial), (count, count, None));
        let shown: Vec<_> = listed.letters.iter().map(|(letter, _)| letter.message_id.clone()).collect();
        assert_eq!(shown, ids(&before));
        let (letter, body) = &listed.letters[0];
        assert_eq!(
            (letter.reason.as_str(), letter.detail.as_str(), letter.died_by.as_str()),
            ("rejected", "no such article", "downstream")
        );
        assert!(letter.died_at.is_some() && body.is_empty(), "bodies are not kept unless they are asked for");
        assert_eq!((world.broker.ready(DEAD), world.broker.unsettled(DEAD)), (before.clone(), 0));
    }
    let one = desk.list(&queue(&desk), &only(&[3]), Keep { letters: 5, bodies: true }).await.unwrap();
    assert_eq!((one.matched, &*one.letters[0].1), (1, b"{\"order\":3}".as_slice()));
}

#[tokio::test(start_paused = true)]
async fn what_retries_led_to_a_death_is_in_its_history() {
    let world = World::new();
    world.told(Behaviour::Fail(Failure::retry("no stock yet")));
    world.arrives(&message(1), Publish::FIRST).await;
    world.start();
    for delay in [100, 1_000] {
        world.settled().await;
        world.clock.advance(delay);
    }
    world.until("it is dead", |world| world.broker.depth(DEAD) == 1).await;
    let desk = desk(&world);
    let listed = desk.list(&queue(&desk), &Filter::default(), KEEP).await.unwrap();
    let letter = &listed.letters[0].0;
    let tries: Vec<_> = letter.history.entries.iter().map(|entry| (entry.what.clone(), entry.detail.as_str())).collect();
    assert_eq!(tries, [(What::retried(100), "no stock yet"), (What::retried(1_000), "no stock yet")]);
    assert_eq!((letter.reason.as_str(), letter.retries, letter.history.left_out), ("retries_exhausted", 2, 0));
    assert!(letter.died_at.is_some_and(|died| died > letter.history.entries[0].at));
}

#[tokio::test(start_paused = true)]
async fn a_redriven_message_is_handled_in_a_new_epoch_and_leaves_the_queue() {
    let world = with_rejected(3).await;
    let desk = desk(&world);
    world.told(Behaviour::Do);
    let (outcomes, summary) = act(&desk, redrive(1_000)).await;
    assert_eq!(outcomes, vec![Outcome::Redriven(1); 3]);
    assert_eq!((summary.done, summary.not_done, summary.left, summary.stopped), (3, 0, 0, None));
    world.until("all are done", |world| world.words().iter().filter(|word| *word == "done").count() == 3).await;
    assert_eq!((world.broker.depth(DEAD), world.broker.unsettled(DEAD)), (0, 0));
    let last = world.receipts().pop().expect("signed");
    assert_eq!(last.attempt, Attempt { epoch: 1, number: 1 });
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_again_is_dead_again_and_its_history_says_so() {
    let world = with_rejected(1).await;
    let desk = desk(&world);
    world.told(Behaviour::Fail(Failure::reject("still no such article")));
    act(&desk, redrive(100)).await;
    world.until("it is dead again", |world| world.broker.depth(DEAD) == 1 && world.broker.depth(QUEUE) == 0).await;
    world.settled().await;
    let dead = &world.broker.ready(DEAD)[0].properties;
    let history = History::of(dead);
    let said: Vec<_> = history.entries.iter().map(|entry| (&entry.what, entry.detail.as_str(), entry.attempt.epoch)).collect();
    let died = What::Died { reason: "rejected".into(), by: "downstream".into() };
    assert_eq!(said, [(&died, "no such article", 0), (&What::Redriven { by: "ann".into() }, "mended", 1)]);
    assert_eq!(dead.headers[names::DEAD_DETAIL].as_text(), Some("still no such article"));
    assert_eq!(dead.headers[names::EPOCH], HeaderValue::Int(1));
    assert_eq!(act(&desk, redrive(100)).await.0, [Outcome::Redriven(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_meanwhile_is_only_signed_again() {
    let world = with_rejected(1).await;
    world.told(Behaviour::Do);
    let mine = claim(&message(1), "another");
    world.claims.claim(std::slice::from_ref(&mine), 1_000).await.unwrap();
    world.claims.complete(&[mine], RETENTION_MS).await.unwrap();
    let calls = world.calls();
    assert_eq!(act(&desk(&world), redrive(100)).await.0, [Outcome::Redriven(1)]);
    world.until("it is signed", |world| world.words() == ["rejected", "done"]).await;
    assert_eq!(world.calls(), calls, "no second effect");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_handled_is_refused_and_stays() {
    let world = with_rejected(1).await;
    let desk = desk(&world);
    let mut broken = world.broker.ready(DEAD).remove(0);
    broken.routing_key = DEAD.into();
    broken.properties.message_id = Some(message(2).id.to_string());
    broken.properties.headers.insert(names::ATTEMPT.into(), HeaderValue::Int(-1));
    world.put(broken).await;
    world.clock.advance(RETENTION_MS + 1);
    let (outcomes, summary) = act(&desk, redrive(100)).await;
    let why: Vec<_> =
        outcomes.into_iter().map(|outcome| if let Outcome::Refused(why) = outcome { why } else { String::new() }).collect();
    assert!(why[0].contains("older than the guard remembers") && why[1].contains("cannot be read"), "{why:?}");
    assert_eq!((summary.done, summary.not_done, world.broker.depth(DEAD)), (0, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_and_a_limit_and_a_filter_leave_the_rest_alone() {
    let world = with_rejected(5).await;
    let desk = desk(&world);
    let published = world.broker.published().len();
    for deed in [Deed::Redrive { rate: 1 }, Deed::Discard] {
        let (outcomes, summary) = act(&desk, Order { deed, validate_only: true, ..redrive(1) }).await;
        let epoch = matches!(deed, Deed::Redrive { .. }).then_some(1);
        assert_eq!((outcomes, summary.done), (vec![Outcome::Selected(epoch); 5], 5));
    }
    assert_eq!((world.broker.published().len(), world.broker.depth(DEAD)), (published, 5), "nothing has changed");
    let (_, summary) = act(&desk, Order { deed: Deed::Discard, filter: only(&[2, 4]), ..redrive(1) }).await;
    assert_eq!((summary.done, summary.matched, summary.seen), (2, 2, 5));
    assert_eq!(ids(&world.broker.ready(DEAD)), [1, 3, 5].map(|n| message(n).id.to_string()));
    let (_, summary) = act(&desk, Order { deed: Deed::Discard, limit: 1, ..redrive(1) }).await;
    assert_eq!((summary.done, summary.left), (1, 2));
    assert_eq!(ids(&world.broker.ready(DEAD)), [3, 5].map(|n| message(n).id.to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_confirmed_keeps_its_letter_and_ends_the_act() {
    let world = with_rejected(3).await;
    let desk = desk(&world);
    world.told(Behaviour::Do);
    world.broker.unknown_next(1, true);
    let (outcomes, summary) = act(&desk, redrive(10)).await;
    assert!(matches!(outcomes[..], [Outcome::NotConfirmed(_)]), "{outcomes:?}");
    assert_eq!((summary.not_done, summary.left, world.broker.depth(DEAD)), (1, 2, 3));
    assert!(summary.stopped.is_some());
    world.until("the copy was handled", |world| world.words().contains(&"done".to_owned())).await;
    // It is in both queues: the guard absorbs what comes again.
    let calls = world.calls();
    assert_eq!(act(&desk, Order { filter: only(&[1]), ..redrive(10) }).await.0, [Outcome::Redriven(1)]);
    world.until("it is signed again", |world| world.words().iter().filter(|word| *word == "done").count() == 2).await;
    assert_eq!(world.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn an_act_ends_when_whoever_ordered_it_goes_away() {
    let world = with_rejected(20).await;
    let desk = desk(&world);
    world.told(Behaviour::Do);
    let (events, mut told) = mpsc::channel(10);
    let act = desk.prepare(queue(&desk), redrive(1)).await.unwrap();
    let under_way = world.context.tasks.spawn("an act", {
        let desk = desk.clone();
        async move { desk.carry_out(act, events).await }
    });
    for _ in 0..3 {
        assert!(told.recv().await.is_some());
    }
    assert!(matches!(desk.list(&queue(&desk), &Filter::default(), KEEP).await, Err(Problem::Busy(_))), "one at a time");
    drop(told);
    under_way.await.unwrap();
    world.until("what was redriven is done", |world| world.words().iter().filter(|word| *word == "done").count() >= 3).await;
    let left = world.broker.depth(DEAD);
    assert!((16..=17).contains(&left), "{left} are left");
    assert!(desk.list(&queue(&desk), &Filter::default(), KEEP).await.is_ok(), "the turn was given up");
}

#[tokio::test(start_paused = true)]
async fn the_new_epoch_is_above_that_of_every_copy() {
    let world = with_rejected(1).await;
    let mut other = world.broker.ready(DEAD).remove(0);
    other.routing_key = DEAD.into();
    other.properties.headers.insert(names::EPOCH.into(), HeaderValue::Int(6));
    world.put(other).await;
    world.told(Behaviour::Do);
    assert_eq!(act(&desk(&world), redrive(100)).await.0, [Outcome::Redriven(7), Outcome::Redriven(7)]);
}

#[tokio::test(start_paused = true)]
async fn what_another_holds_is_not_seen_and_that_is_said() {
    let world = with_rejected(3).await;
    let desk = desk(&world);
    let mut other = world.broker.consume(DEAD, 2).await.unwrap();
    assert_eq!(other.next(2).await.len(), 2);
    let listed = desk.list(&queue(&desk), &Filter::default(), KEEP).await.unwrap();
    assert_eq!((listed.ready, listed.seen, listed.partial), (1, 1, None));
    drop(other);
    let listed = desk.list(&queue(&desk), &Filter::default(), KEEP).await.unwrap();
    assert_eq!((listed.ready, listed.seen), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn quarantine_is_looked_into_and_an_absent_broker_or_subscription_is_named() {
    let world = World::new();
    let desk = desk(&world);
    world.put(a_publication("not a uuid", QUARANTINE)).await;
    let listed = desk.list(&desk.quarantine(), &Filter::default(), KEEP).await.unwrap();
    assert_eq!(listed.letters[0].0.message_id, "not a uuid");
    let unknown = desk.queue_of("nobody").unwrap_err();
    assert!(!unknown.is_transient() && unknown.to_string().contains(QUEUE), "{unknown}");
    world.broker.go_down();
    let away = desk.list(&queue(&desk), &Filter::default(), KEEP).await.unwrap_err();
    assert!(away.is_transient(), "{away}");
    world.broker.come_up();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(desk.list(&queue(&desk), &Filter::default(), KEEP).await.is_ok());
}
