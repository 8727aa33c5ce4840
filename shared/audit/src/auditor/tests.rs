use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_boot::Caller;
use countersign_delivery::Timestamp;
use countersign_delivery::refusals::{ROWS_MAX, WINDOW_MS};
use countersign_testkit::broker::MemoryBroker;
use countersign_testkit::build::a_topology;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::ids::CountingIds;
use countersign_wire::acts;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::Instant;

use super::*;

const RECEIPTS: &str = "countersign.receipts";
/// More than a telling waits in vain.
const LONG: Duration = Duration::from_mins(1);

/// An auditor on a broker in memory.
struct World {
    context: Context,
    clock: ManualClock,
    broker: MemoryBroker,
    auditor: Auditor,
    carried_out: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let (clock, topology) = (ManualClock::default(), a_topology());
        let broker = MemoryBroker::new(&topology, &clock);
        let context = Context::detached("stock", Arc::new(clock.clone()), Arc::new(CountingIds::default()));
        let auditor = Auditor::new(&context, ("downstream", "stock"), Arc::new(broker.clone()), &topology);
        Self { context, clock, broker, auditor, carried_out: Arc::default() }
    }

    /// Has one act carried out; how often acts were, when it was.
    async fn act(&self, unheard: Unheard) -> Result<usize, NotDone> {
        let (carried_out, clock) = (self.carried_out.clone(), self.clock.clone());
        let act = async move {
            clock.advance(5);
            carried_out.fetch_add(1, Ordering::Relaxed) + 1
        };
        let asked = Asked { acts: vec![a_pause("ada")], unheard };
        let ended = |_: &usize| vec![End { result: ActResult::Done, detail: "paused".into(), target: None }];
        self.auditor.audited(asked, act, ended).await
    }

    /// What callback would read, in the order of the queue.
    fn told(&self) -> Vec<ToldAct> {
        let batches = self.broker.ready(RECEIPTS).into_iter();
        batches
            .inspect(|batch| assert!(acts::are(&batch.properties)))
            .flat_map(|batch| acts::decode(batch.body).unwrap())
            .collect()
    }

    async fn settled(&self) -> bool {
        self.context.tasks.drained(LONG).await
    }
}

fn a_pause(by: &str) -> NewAct {
    let (target, subscription, reason) = ("inventory".to_owned(), "inventory".to_owned(), "a bad roll-out".to_owned());
    NewAct { by: by.into(), act: Act::Pause, target, subscription, reason }
}

fn results(told: &[ToldAct]) -> Vec<&'static str> {
    told.iter().map(|act| act.result.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_act_is_told_before_it_is_tried_and_when_it_has_ended_under_one_id() {
    let world = World::new();
    let (broker, began) = (world.broker.clone(), world.clock.now());
    let asked = Asked { acts: vec![a_pause("ada"), a_pause("grace")], unheard: Unheard::GoesOn };
    let end = |result, target: Option<&str>| End { result, detail: "so it is".into(), target: target.map(Into::into) };
    let ended = move |_: &usize| vec![end(ActResult::Done, None), end(ActResult::Refused, Some("another"))];
    let depth = world.auditor.audited(asked, async move { broker.depth(RECEIPTS) }, ended).await;
    assert_eq!(depth, Ok(1), "told before it was tried");
    let told = world.told();
    assert_eq!(results(&told), ["begun", "begun", "done", "refused"]);
    assert!(told[0].id == told[2].id && told[1].id == told[3].id && told[0].id != told[1].id, "{told:?}");
    let first = &told[2];
    assert_eq!((first.service.as_str(), first.service_name.as_str(), first.act.as_str()), ("downstream", "stock", "pause"));
    assert_eq!((first.by.as_str(), first.target.as_str(), first.reason.as_str()), ("ada", "inventory", "a bad roll-out"));
    assert_eq!((first.at, told[3].target.as_str(), told[3].by.as_str()), (began, "another", "grace"));
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_an_act_that_changes_something_is_carried_out_and_told_later() {
    let world = World::new();
    world.broker.go_down();
    let began = Instant::now();
    assert_eq!(world.act(Unheard::GoesOn).await, Ok(1));
    assert_eq!(began.elapsed(), WAIT_MAX, "it has waited once");
    assert_eq!(world.told(), []);
    world.broker.come_up();
    assert!(world.settled().await, "{:?}", world.context.tasks.running());
    let mut told = world.told();
    told.sort_by_key(|act| act.ended_at);
    assert_eq!(results(&told), ["begun", "done"]);
    assert_eq!(told[1].ended_at, Some(told[0].at.plus_millis(5)));
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_a_payload_is_not_shown_and_that_is_told_later() {
    let world = World::new();
    world.broker.go_down();
    let refused = world.act(Unheard::IsRefused).await;
    assert_eq!(refused, Err(NotDone::Untold));
    assert!(NotDone::Untold.to_string().contains("within 2 s; try again"));
    world.broker.come_up();
    assert!(world.settled().await);
    let mut told = world.told();
    told.sort_by_key(|act| act.ended_at);
    assert_eq!((results(&told), world.carried_out.load(Ordering::Relaxed)), (vec!["begun", "failed"], 0));
    assert_eq!(world.act(Unheard::IsRefused).await, Ok(1), "the broker is there again");
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_is_told_again_and_means_the_same() {
    let world = World::new();
    world.broker.unknown_next(1, true);
    world.broker.nack_next(1);
    assert_eq!(world.act(Unheard::IsRefused).await, Ok(1));
    assert_eq!(results(&world.told()), ["begun", "begun", "done"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let world = World::new();
    let mut act = Box::pin(world.act(Unheard::GoesOn));
    assert!(futures::poll!(&mut act).is_pending());
    drop(act);
    assert!(world.settled().await);
    assert_eq!((results(&world.told()), world.carried_out.load(Ordering::Relaxed)), (vec!["begun", "done"], 1));
}

#[tokio::test(start_paused = true)]
async fn an_act_that_panics_stays_begun() {
    let world = World::new();
    let asked = Asked { acts: vec![a_pause("ada")], unheard: Unheard::GoesOn };
    let panicked = world.auditor.audited(asked, async { panic!("told to") }, |(): &()| Vec::new()).await;
    assert_eq!((panicked, results(&world.told())), (Err(NotDone::Panicked), vec!["begun"]));
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_does_not_take_before_the_stop_or_what_finds_no_room_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    world.broker.go_down();
    for n in 0..=WAITING_MAX {
        world.auditor.refuse(&a_pause(&n.to_string()), Role::Operator);
    }
    let missing = |count: usize| {
        let text = recorder.handle().render();
        assert!(text.contains(&format!("countersign_audit_missing_total{{act=\"pause\"}} {count}\n")), "{count} in {text}");
    };
    missing(1);
    world.context.stop.begin_soft();
    assert!(world.settled().await, "it does not wait for the broker");
    missing(WAITING_MAX + 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_loop_has_ten_rows_a_minute() {
    let world = World::new();
    let forbidden = world.auditor.on_forbidden(|method| (method == "PauseSubscription").then_some(Act::Pause));
    let call = |path: &str| forbidden(Forbidden { caller: Caller::unasked(), path: path.into(), needed: Role::Operator });
    for _ in 0..100 {
        call("/countersign.v1.SubscriptionService/PauseSubscription");
        call("/countersign.v1.SubscriptionService/ListSubscriptions");
    }
    world.clock.advance(WINDOW_MS);
    call("/countersign.v1.SubscriptionService/PauseSubscription");
    assert!(world.settled().await);
    let mut told = world.told();
    told.sort_by_key(|act| act.at);
    assert_eq!(told.len(), usize::try_from(ROWS_MAX).unwrap() + 1);
    assert!(
        told.iter().all(|act| act.result == ActResult::Refused && act.ended_at > Some(Timestamp::from_millis(0))),
        "{told:?}"
    );
    let details = [&told[0].detail, &told[10].detail];
    assert_eq!(details[0], "it needs the role operator");
    assert!(details[1].contains("; 90 more of the same were refused before it"), "{details:?}");
}
