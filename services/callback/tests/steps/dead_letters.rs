use std::time::Duration;

use countersign_boot::Stop;
use countersign_callback::dead_letters::Filter;
use countersign_callback::dead_letters::act::{Deed, Event, Order, Outcome, Summary, carry_out};
use countersign_callback::take_in::{self, Source, take_in};
use countersign_delivery::Outcome as Signed;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::broker::{Delivered, Handle, HeaderValue, Publication};
use countersign_delivery::ports::dead_letters::{DeadLetters as _, Filter as Stored, Letter, Place};
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::Command;
use countersign_delivery::{Message, Timestamp};
use countersign_testkit::build::{a_message_with, a_receipt_of, subscription, upstream};
use countersign_wire::arrival::{Death, dead_copy};
use countersign_wire::names;
use countersign_wire::publication::{self, Publish};
use tokio::sync::mpsc;

use crate::rig::{Rig, Settings, armed};

const DEAD: &str = "inventory.dead";
const EPOCH_1: Attempt = Attempt { epoch: 1, number: 1 };

pub fn message(n: u64) -> Message {
    a_message_with(n, &format!("{{\"order\":{n}}}"))
}

fn source() -> Source {
    Source { queue: DEAD.into(), subscription: Some(subscription("inventory")) }
}

fn delivered(Publication { exchange, routing_key, properties, body }: Publication) -> Delivered {
    Delivered { handle: Handle { generation: 1, tag: 1 }, exchange, routing_key, redelivered: false, properties, body }
}

/// Message `n` as it lies in the dead-letter queue.
fn dead(n: u64) -> Delivered {
    let published = publication::to_exchange(&message(n), &upstream("shop"), Publish::FIRST);
    let death =
        Death { reason: FailReason::Rejected, detail: "no such article", at: Timestamp::from_millis(7), by: "downstream" };
    delivered(dead_copy(&delivered(published), DEAD.into(), death))
}

async fn taken_in(rig: &Rig, numbers: &[u64]) {
    let letters: Vec<Delivered> = numbers.iter().map(|n| dead(*n)).collect();
    assert!(matches!(take_in(&rig.desk, &source(), &letters).await, take_in::Outcome::TakenIn));
}

/// Messages that callback has heard of as rejected, and has parked; their letters taken in.
pub async fn rejected(numbers: &[u64]) -> Rig {
    let rig = Rig::new();
    let failed = Signed::Failed { reason: FailReason::Rejected, detail: "no such article".into() };
    rig.sign(numbers.iter().map(|n| a_receipt_of(&message(*n), &subscription("inventory"), failed.clone())).collect()).await;
    taken_in(&rig, numbers).await;
    rig
}

fn order(deed: Deed) -> Order {
    let stored = Stored { place: Place::Of(subscription("inventory")), states: ["open"].into(), ..Stored::default() };
    let filter = Filter { stored, routing_key: String::new() };
    Order { deed, filter, limit: 1_000, validate_only: false, by: "ann".into(), reason: "mended".into() }
}

const REDRIVE: Deed = Deed::Redrive { rate: 10_000 };

async fn act(rig: &Rig, order: Order) -> (Vec<Outcome>, Summary) {
    let (events, mut told) = mpsc::channel(10_000);
    carry_out(rig.desk.clone(), order, None, Stop::default(), events).await;
    let (mut outcomes, mut summary) = (Vec::new(), None);
    while let Some(event) = told.recv().await {
        match event {
            Event::Letter { outcome, .. } => outcomes.push(outcome),
            Event::End(end) => summary = Some(end),
        }
    }
    (outcomes, summary.expect("the last word"))
}

async fn letters(rig: &Rig) -> Vec<Letter> {
    rig.letters.list(&Stored::default(), 0, 1_000).await.unwrap()
}

pub async fn states(rig: &Rig) -> Vec<&'static str> {
    letters(rig).await.iter().map(|letter| letter.state.as_str()).collect()
}

#[tokio::test]
async fn a_redelivered_letter_is_stored_once_and_nothing_is_acked_without_the_database() {
    let rig = Rig::new();
    taken_in(&rig, &[1, 2]).await;
    taken_in(&rig, &[2, 3]).await;
    assert_eq!(states(&rig).await, ["open"; 3]);
    rig.letters.go_down();
    let outcome = take_in(&rig.desk, &source(), &[dead(4), dead(5)]).await;
    assert!(matches!(outcome, take_in::Outcome::Held { ref positions, .. } if positions == &[0, 1]), "{outcome:?}");
    rig.letters.come_up();
    taken_in(&rig, &[4, 5]).await;
    assert_eq!(letters(&rig).await.len(), 5);
}

#[tokio::test]
async fn a_full_table_takes_in_what_fits_and_goes_on_when_there_is_room() {
    let rig = Rig::with(Settings { max_dead_letters: 2, ..Settings::default() });
    let outcome = take_in(&rig.desk, &source(), &[dead(1), dead(2), dead(3)]).await;
    let take_in::Outcome::Held { positions, why } = outcome else { panic!("{outcome:?}") };
    assert_eq!(positions, [2]);
    assert!(why.to_string().contains("max_dead_letters") && why.is_transient(), "{why}");
    assert!(matches!(take_in(&rig.desk, &source(), &[dead(3)]).await, take_in::Outcome::Held { .. }));
    act(&rig, Order { limit: 1, ..order(Deed::Discard) }).await;
    taken_in(&rig, &[3]).await;
    assert_eq!(states(&rig).await, ["discarded", "open", "open"]);
}

#[tokio::test]
async fn a_redriven_letter_is_ordered_sent_and_followed_by_a_check() {
    let rig = rejected(&[1]).await;
    let (outcomes, summary) = act(&rig, order(REDRIVE)).await;
    assert_eq!((outcomes, summary.done, summary.stopped), (vec![Outcome::Redriven(1)], 1, None));
    let copy = &rig.broker.ready("inventory")[0];
    assert_eq!(
        (copy.properties.headers[names::EPOCH].clone(), &copy.body[..]),
        (HeaderValue::Int(1), b"{\"order\":1}".as_slice())
    );
    assert_eq!(rig.row(&message(1)).unwrap().command, Command::Resent { attempt: EPOCH_1 });
    let checks = armed(&rig.broker.published());
    assert_eq!((checks.len(), checks[0].1.attempt), (1, EPOCH_1));
    assert_eq!(states(&rig).await, ["redriven"]);
    // It is lost on its way: the check finds it, and upstream sends it as the second try of that epoch.
    let again = rig.lose(&checks[0].1).await;
    assert!(rig.look(&again).await.is_empty());
    assert_eq!(rig.upstreams.calls()[0].orders[0].attempt, EPOCH_1.resent());
}

#[tokio::test]
async fn a_letter_that_nobody_signed_for_is_redriven_in_the_epoch_above_its_own() {
    let rig = Rig::new();
    taken_in(&rig, &[1]).await;
    assert_eq!(act(&rig, order(REDRIVE)).await.0, [Outcome::Redriven(1)]);
    assert_eq!(rig.row(&message(1)).unwrap().command, Command::Resent { attempt: EPOCH_1 });
}

#[tokio::test]
async fn what_is_done_meanwhile_is_settled_and_not_sent() {
    let rig = rejected(&[1]).await;
    let all = Order {
        filter: Filter { stored: Stored { states: ["settled"].into(), ..order(REDRIVE).filter.stored }, ..order(REDRIVE).filter },
        ..order(REDRIVE)
    };
    rig.sign(vec![a_receipt_of(&message(1), &subscription("inventory"), Signed::Done)]).await;
    assert_eq!(act(&rig, all).await.0, [Outcome::AlreadyDone]);
    assert!(rig.broker.ready("inventory").is_empty());
    assert_eq!(states(&rig).await, ["settled"]);
}

#[tokio::test]
async fn what_may_not_be_sent_is_refused_and_stays() {
    let rig = rejected(&[1, 2]).await;
    let mut broken = dead(3);
    broken.properties.headers.insert(names::ATTEMPT.into(), HeaderValue::Int(-1));
    take_in(&rig.desk, &source(), &[broken]).await;
    rig.clock.advance(rig.desk.figures.dedup_retention_ms);
    let (outcomes, summary) = act(&rig, order(REDRIVE)).await;
    let why: Vec<String> = outcomes.iter().map(|outcome| format!("{outcome:?}")).collect();
    assert!(why[0].contains("older than the guard remembers") && why[2].contains("cannot be read"), "{why:?}");
    assert_eq!((summary.not_done, states(&rig).await), (3, vec!["open"; 3]));
}

#[tokio::test]
async fn a_copy_that_is_not_confirmed_keeps_its_letter_and_its_order_is_carried_out_by_upstream() {
    let rig = rejected(&[1]).await;
    rig.broker.nack_next(1);
    let (outcomes, summary) = act(&rig, order(REDRIVE)).await;
    assert!(matches!(outcomes[..], [Outcome::NotConfirmed(_)]) && summary.stopped.is_some(), "{outcomes:?}");
    assert_eq!(states(&rig).await, ["open"]);
    let check = armed(&rig.broker.published()).remove(0).1;
    rig.clock.advance(rig.desk.policy.resend_lease_ms);
    assert!(rig.look(&check).await.is_empty());
    assert_eq!(rig.upstreams.calls()[0].orders[0].attempt, EPOCH_1, "the same try");
}

#[tokio::test]
async fn a_dry_run_a_limit_and_a_pattern_leave_the_rest_alone() {
    let rig = rejected(&[1, 2, 3]).await;
    let published = rig.broker.published().len();
    let dry = act(&rig, Order { validate_only: true, ..order(REDRIVE) }).await.0;
    assert_eq!(dry, vec![Outcome::Selected(Some(1)); 3]);
    assert_eq!((rig.broker.published().len(), states(&rig).await), (published, vec!["open"; 3]));
    let (_, summary) = act(&rig, Order { limit: 2, ..order(Deed::Discard) }).await;
    assert_eq!((summary.done, summary.more), (2, true));
    let filter = Filter { routing_key: "stock.#".into(), ..order(REDRIVE).filter };
    assert_eq!(act(&rig, Order { filter, ..order(REDRIVE) }).await.1.done, 0);
    let filter = Filter { routing_key: "order.*".into(), ..order(REDRIVE).filter };
    assert_eq!(act(&rig, Order { filter, ..order(REDRIVE) }).await.1.done, 1);
    assert_eq!(states(&rig).await, ["discarded", "discarded", "redriven"]);
}

#[tokio::test(start_paused = true)]
async fn an_act_ends_when_whoever_ordered_it_goes_away_and_goes_on_when_it_is_ordered_again() {
    let rig = rejected(&(1..=20).collect::<Vec<_>>()).await;
    let (events, mut told) = mpsc::channel(10);
    let act_of_one = carry_out(rig.desk.clone(), order(Deed::Redrive { rate: 1 }), None, Stop::default(), events);
    let leave = async {
        for _ in 0..3 {
            assert!(told.recv().await.is_some());
        }
        drop(told);
    };
    let ended = tokio::time::timeout(Duration::from_mins(1), async { tokio::join!(act_of_one, leave) });
    assert!(ended.await.is_ok());
    let left = states(&rig).await.iter().filter(|state| **state == "open").count();
    assert!((16..=17).contains(&left), "{left} are left");
    let (outcomes, _) = act(&rig, order(REDRIVE)).await;
    assert_eq!(outcomes, vec![Outcome::Redriven(1); left]);
}
