use std::sync::Mutex;

use countersign_delivery::Attempt;
use countersign_testkit::build::subscription;

use super::*;
use crate::accept::NewMessage;
use crate::config::UpstreamSection;
use crate::lookup::By;
use crate::resend::{Order, Outcome as Resent};
use crate::send::{Accepted, Outcome};
use crate::stage::{Process, Stage, an_order, is_check, is_closed, pass, section};

/// More than the lease, and the time that adopting takes.
const LONG: u64 = 20_000;

/// What a table says about the orders.
#[derive(Clone, Debug)]
enum Table {
    /// This body.
    Has(&'static str),
    /// Nothing.
    Empty,
    /// It cannot be read.
    Away,
    /// It does not answer.
    Silent,
    /// A bug.
    Broken,
}

#[derive(Clone)]
struct Orders(Arc<Mutex<(Table, Vec<Wanted>)>>);

impl Orders {
    fn with(body: &'static str) -> Self {
        Self(Arc::new(Mutex::new((Table::Has(body), Vec::new()))))
    }

    fn now(&self, table: Table) {
        self.0.lock().unwrap().0 = table;
    }

    fn asked(&self) -> Vec<Wanted> {
        self.0.lock().unwrap().1.clone()
    }
}

#[async_trait]
impl MessageSource for Orders {
    async fn rebuild(&self, wanted: &Wanted) -> Result<Option<Rebuilt>, SourceError> {
        let table = {
            let mut state = self.0.lock().unwrap();
            state.1.push(wanted.clone());
            state.0.clone()
        };
        match table {
            Table::Has(body) => Ok(Some(Rebuilt { body: body.into(), fingerprint: None })),
            Table::Empty => Ok(None),
            Table::Away => Err("the table is locked".into()),
            Table::Silent => std::future::pending().await,
            Table::Broken => panic!("a bug of the source"),
        }
    }
}

/// A stage whose processes have a source for orders, which says `body`.
fn a_stage(body: &'static str) -> (Stage, Orders) {
    let (mut stage, orders) = (Stage::new(), Orders::with(body));
    stage.sources.add("order.created".into(), Arc::new(orders.clone()));
    (stage, orders)
}

async fn accepted(process: &Process, message: NewMessage) -> Accepted {
    match process.upstream.send(message).await {
        Outcome::Confirmed(accepted) | Outcome::Committed(accepted) => accepted,
        Outcome::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

/// The bodies in the work queue.
fn bodies(stage: &Stage) -> Vec<Bytes> {
    stage.broker.ready("orders").into_iter().map(|message| message.body).collect()
}

/// A process that stored an order while the broker was away, and died; then the broker came back.
async fn left_behind(stage: &Stage) -> (Accepted, countersign_delivery::IncarnationId) {
    let process = stage.start().await;
    stage.broker.go_down();
    let accepted = accepted(&process, an_order("1")).await;
    let dead = stage.heartbeat().await.incarnation;
    process.kill().await;
    stage.broker.come_up();
    (accepted, dead)
}

#[tokio::test(start_paused = true)]
async fn the_body_is_published_and_not_stored() {
    let (stage, orders) = a_stage("1");
    let process = stage.start().await;
    accepted(&process, an_order("1")).await;
    accepted(&process, crate::stage::a_movement("2")).await;
    assert_eq!(bodies(&stage), ["1"]);
    let stored: Vec<_> = stage.stored().await.into_iter().map(|stored| stored.message.body).collect();
    assert_eq!(stored, ["", "2"], "only messages of that type");
    assert_eq!(orders.asked(), [], "it was at hand");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_did_not_take_is_published_with_its_body_rebuilt() {
    let (stage, orders) = a_stage("1");
    let process = stage.start().await;
    stage.broker.go_down();
    let headers = BTreeMap::from([("region".to_owned(), "north".to_owned())]);
    let sent = accepted(&process, NewMessage { idempotency_key: "k".into(), headers, ..an_order("1") }).await;
    stage.broker.come_up();
    pass(2_000).await;
    assert_eq!(bodies(&stage), ["1"]);
    let [wanted] = &orders.asked()[..] else { panic!("asked once: {:?}", orders.asked()) };
    assert_eq!((wanted.id, wanted.kind.as_str(), wanted.routing_key.as_str()), (sent.id, "order.created", "order.created"));
    assert_eq!(wanted.idempotency_key.as_ref().map(IdempotencyKey::as_str), Some("k"));
    assert_eq!(wanted.headers["region"], "north");
    pass(2_000).await;
    assert_eq!(stage.heartbeat().await.watermark.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_answer_is_asked_again() {
    for trouble in [Table::Away, Table::Silent, Table::Broken, Table::Has("")] {
        let (stage, orders) = a_stage("1");
        let process = stage.start().await;
        stage.broker.go_down();
        accepted(&process, an_order("1")).await;
        orders.now(trouble.clone());
        stage.broker.come_up();
        pass(30_000).await;
        assert_eq!(stage.broker.published(), [], "{trouble:?}");
        assert!(orders.asked().len() > 1, "{trouble:?}");
        assert_eq!(stage.heartbeat().await.watermark.0, 1, "{trouble:?}");
        orders.now(Table::Has("1"));
        pass(20_000).await;
        assert_eq!(bodies(&stage), ["1"], "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_publishes_what_its_source_gives() {
    let (stage, _) = a_stage("1");
    let (_, dead) = left_behind(&stage).await;
    let _successor = stage.start().await;
    pass(LONG).await;
    assert!(is_closed(&stage, dead));
    assert_eq!(bodies(&stage), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn of_what_is_gone_or_changed_only_the_check_is_published() {
    for table in [Table::Empty, Table::Has("2")] {
        let (stage, orders) = a_stage("1");
        let (accepted, dead) = left_behind(&stage).await;
        orders.now(table.clone());
        let _successor = stage.start().await;
        pass(LONG).await;
        assert!(is_closed(&stage, dead), "{table:?}");
        assert_eq!(stage.broker.published().iter().map(is_check).collect::<Vec<_>>(), [true], "{table:?}");
        let [check] = &stage.checks()[..] else { panic!("one check: {table:?}") };
        assert_eq!((check.message_id, check.attempt), (accepted.id, Attempt::FIRST));
        assert_eq!(check.required, [subscription("orders")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_without_the_source_leaves_it_to_one_that_has_it() {
    let (stage, _) = a_stage("1");
    let (_, dead) = left_behind(&stage).await;
    let mut stock = stage.clone();
    stock.sources = Sources::default();
    let without = stock.start().await;
    pass(LONG).await;
    assert_eq!(stage.broker.published(), [], "an empty body is never published");
    assert!(!is_closed(&stage, dead));
    without.stop().await;
    let _with = stage.start().await;
    pass(2 * LONG).await;
    assert_eq!(bodies(&stage), ["1"]);
    assert!(is_closed(&stage, dead));
}

#[tokio::test(start_paused = true)]
async fn an_order_to_resend_is_answered_by_what_the_source_says() {
    let (stage, orders) = a_stage("1");
    let process = stage.start_on(UpstreamSection { source_timeout_ms: 100, ..section() }, Arc::new(stage.messages.clone()));
    let Accepted { id, fingerprint, .. } = accepted(&process, an_order("1")).await;
    stage.broker.purge("orders");
    let attempt = Attempt { epoch: 0, number: 2 };
    let order = Order { id, attempt, effect_epoch: 0, subscriptions: vec![subscription("orders")], fingerprint };
    let rows = [
        (Table::Has("1"), "resent"),
        (Table::Has("2"), "changed"),
        (Table::Empty, "gone"),
        (Table::Away, "not_confirmed"),
        (Table::Silent, "not_confirmed"),
        (Table::Broken, "not_confirmed"),
        (Table::Has(""), "not_confirmed"),
    ];
    for (table, expected) in rows {
        orders.now(table.clone());
        let answers = process.upstream.resend(std::slice::from_ref(&order), None).await;
        assert_eq!(answers[0].word(), expected, "{table:?}: {answers:?}");
    }
    assert_eq!(bodies(&stage), ["1"]);
    let other = Order { fingerprint: countersign_delivery::Fingerprint::of("other", "", b""), ..order.clone() };
    assert_eq!(process.upstream.resend(&[other], None).await, [Resent::Changed], "whatever its source says");

    let mut stock = stage.clone();
    stock.sources = Sources::default();
    let without = stock.start().await;
    let answers = without.upstream.resend(&[order], None).await;
    assert!(matches!(&answers[..], [Resent::NotConfirmed(why)] if why.contains("no source")), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_look_up_shows_the_rebuilt_body_or_says_why_not() {
    let (stage, orders) = a_stage("1");
    let process = stage.start().await;
    let id = accepted(&process, an_order("1")).await.id;
    let found = process.upstream.find(&By::Id(id)).await.unwrap().unwrap();
    assert!(found.stored.message.body.is_empty());
    let whole = process.upstream.with_body(found.clone()).await.unwrap();
    assert_eq!(whole.stored.message.body, "1");
    for (table, word) in [(Table::Empty, "no more"), (Table::Has("2"), "another"), (Table::Away, "locked")] {
        orders.now(table);
        let why = process.upstream.with_body(found.clone()).await.unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fingerprint_of_the_callers_own_is_compared_with_the_sources_own() {
    struct Versions(&'static [u8]);
    #[async_trait]
    impl MessageSource for Versions {
        async fn rebuild(&self, _: &Wanted) -> Result<Option<Rebuilt>, SourceError> {
            let fingerprint = Some(countersign_delivery::Fingerprint::new(self.0.to_vec())?);
            Ok(Some(Rebuilt { body: "written otherwise".into(), fingerprint }))
        }
    }
    for (version, expected) in [(&b"v1"[..], "resent"), (b"v2", "changed")] {
        let mut stage = Stage::new();
        stage.sources.add("order.created".into(), Arc::new(Versions(version)));
        let process = stage.start().await;
        let sent = accepted(&process, NewMessage { fingerprint: "v1".into(), ..an_order("1") }).await;
        let attempt = Attempt { epoch: 0, number: 2 };
        let order = Order { id: sent.id, attempt, effect_epoch: 0, subscriptions: Vec::new(), fingerprint: sent.fingerprint };
        assert_eq!(process.upstream.resend(&[order], None).await[0].word(), expected);
    }
}
