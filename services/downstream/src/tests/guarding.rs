//! Guards whose handler runs within a transaction: a real database, in a file of its own, beside the fakes.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Health;
use countersign_delivery::ports::archive::Archive as _;
use countersign_delivery::ports::claims::{ClaimKey, Claimed, Claims as _};
use countersign_delivery::topology::Guard;
use countersign_delivery::{FailReason, Fingerprint};
use countersign_store::{Database, Taking, TransactionLimits};
use countersign_testkit::build::a_message;
use countersign_wire::names;
use countersign_wire::publication::Publish;
use metrics_exporter_prometheus::PrometheusBuilder;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;

use super::claiming::Counted;
use super::world::{Behaviour, Given, LEASE_MS, QUEUE, Scripted, World, claim};
use crate::config::OnUnknown;
use crate::gate::Gate;
use crate::guard::Handling;
use crate::guard::transaction::{Transaction, Transactions};
use crate::guard::watched::Watched;
use crate::handler::{Event, Failure, Handled, Handler as _, HandlerContext, TransactionHandler};
use crate::receive::Rules;

const AGAIN: Publish = Publish::AGAIN;
const WITHIN: [Guard; 2] = [Guard::Inbox, Guard::Tiered];

/// Notes each call in the guard's transaction, and then does as it is told.
struct Stock(Scripted);

#[async_trait::async_trait]
impl TransactionHandler for Stock {
    async fn handle(&self, message: &Event, context: &HandlerContext, transaction: &Transaction) -> Result<Handled, Failure> {
        let note = Statement::from_sql_and_values(
            DbBackend::Sqlite,
            "INSERT INTO movement (id) VALUES (?)",
            [context.idempotency_key.as_str().into()],
        );
        transaction.connection().execute_raw(note).await.map_err(Failure::retry)?;
        self.0.handle(message, context).await
    }
}

/// The business's database, which outlives the worlds that use it.
struct Shop {
    dir: TempDir,
    database: Database,
    gate: Gate,
    health: Health,
}

impl Shop {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("shop.db").display());
        let database = Database::connect(url.as_str()).await.unwrap();
        database.migrate_inbox().await.unwrap();
        let health = Health::default();
        let gate = Gate::new("database", health.dependency("database"));
        gate.open();
        let shop = Self { dir, database, gate, health };
        let connection = shop.connection().await;
        connection.execute_unprepared("CREATE TABLE movement (id TEXT NOT NULL)").await.unwrap();
        shop
    }

    async fn connection(&self) -> DatabaseConnection {
        sea_orm::Database::connect(format!("sqlite:{}", self.dir.path().join("shop.db").display())).await.unwrap()
    }

    fn given(&self, guard: Guard) -> Given {
        let (database, gate, inbox) = (self.database.clone(), self.gate.clone(), self.database.inbox());
        let behind = self.gate.clone();
        let given = Given::default();
        Given {
            rules: Rules { guard, ..given.rules },
            handling: Box::new(|handler| {
                Handling::InTransaction(Arc::new(Stock(handler)), Transactions::new(database, gate, 60_000))
            }),
            record: if guard == Guard::Inbox { Box::new(|_| Arc::new(Watched::new(inbox, behind))) } else { given.record },
            database: Some(self.gate.clone()),
            ..Given::default()
        }
    }

    fn world(&self, guard: Guard) -> World {
        World::given(self.given(guard))
    }

    async fn movements(&self) -> i64 {
        let query = Statement::from_string(DbBackend::Sqlite, "SELECT count(*) AS n FROM movement");
        let row = self.connection().await.query_one_raw(query).await.unwrap().unwrap();
        row.try_get("", "n").unwrap()
    }

    /// Until so many effects are committed.
    async fn moved(&self, movements: i64) {
        for _ in 0..10_000 {
            if self.movements().await == movements {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never {movements}");
    }
}

/// The process is killed, as far as the message and the database can tell.
async fn killed(world: World) {
    let World { context, lane, .. } = world;
    drop(lane);
    context.stop.begin_hard();
    assert!(context.tasks.drained(Duration::from_secs(20)).await, "{:?}", context.tasks.running());
}

fn key(fingerprint: Option<Fingerprint>) -> ClaimKey {
    let mut key = claim(&a_message(), "").key;
    key.fingerprint = fingerprint.unwrap_or(key.fingerprint);
    key
}

#[tokio::test]
async fn effect_and_mark_are_there_together_and_a_duplicate_is_signed_again() {
    for guard in WITHIN {
        let shop = Shop::open().await;
        let world = shop.world(guard);
        world.start();
        for _ in 0..2 {
            world.arrives(&a_message(), Publish::FIRST).await;
            world.settled().await;
        }
        assert_eq!((world.calls(), shop.movements().await), (1, 1), "{guard:?}");
        assert_eq!(world.words(), ["done", "done"], "{guard:?}");
        let found = shop.database.inbox().find(&[key(None)]).await.unwrap();
        assert_eq!(found, [Some(a_message().fingerprint)], "{guard:?}");
    }
}

#[tokio::test]
async fn redis_forgets_everything_between_effect_and_mark_and_the_effect_stays_one() {
    let shop = Shop::open().await;
    let world = shop.world(Guard::Tiered);
    world.told(Behaviour::Wait).arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("it is handled", |world| world.calls() == 1).await;
    world.claims.go_down();
    world.handler.go_on.notify_one();
    shop.moved(1).await;
    assert_eq!(world.words(), [""; 0], "not before it is marked");
    killed(world).await;

    // Another process, another Redis.
    let world = shop.world(Guard::Tiered);
    world.arrives(&a_message(), AGAIN).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words(), shop.movements().await), (0, vec!["done".to_owned()], 1));
    let claimed = world.claims.claim(&[claim(&a_message(), "look")], 1).await.unwrap();
    assert_eq!(claimed, [Claimed::Done], "Redis has learned it again");
}

#[tokio::test]
async fn a_claim_that_ends_while_the_handler_runs_lets_nobody_else_in_and_counts_for_nothing() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counted = Counted(recorder.handle());
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let shop = Shop::open().await;
    let world = shop.world(Guard::Tiered);
    world.told(Behaviour::Wait).arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.until("it is handled", |world| world.calls() == 1).await;
    world.clock.advance(LEASE_MS + 1);
    let other = claim(&a_message(), "another");
    let claimed = world.claims.claim(std::slice::from_ref(&other), LEASE_MS).await.unwrap();
    assert_eq!(claimed, [Claimed::Interrupted { starts: 2, crashes: 1 }]);
    let limits = TransactionLimits { lock_timeout_ms: 50, ..TransactionLimits::default() };
    assert!(matches!(shop.database.inbox().begin(&other, limits).await, Ok(Taking::Busy)));
    world.handler.go_on.notify_one();
    world.settled().await;
    assert_eq!((world.words(), shop.movements().await, counted.duplicates()), (vec!["done".to_owned()], 1, 0));
    assert!(matches!(shop.database.inbox().begin(&other, limits).await, Ok(Taking::Done)));
}

#[tokio::test]
async fn a_crash_within_the_handler_leaves_nothing_and_nobody_is_asked() {
    for guard in WITHIN {
        let shop = Shop::open().await;
        let world = shop.world(guard);
        world.told(Behaviour::Wait).arrives(&a_message(), AGAIN).await;
        world.start();
        world.until("it is handled", |world| world.calls() == 1).await;
        killed(world).await;
        shop.moved(0).await;

        let given = shop.given(guard);
        let world = World::given(Given { rules: Rules { on_unknown: OnUnknown::Park, ..given.rules }, ..given });
        // It died as another process: its token was another one.
        world.context.ids.uuid();
        if guard == Guard::Tiered {
            world.somebody_dies_with(&a_message(), "dead").await;
        }
        world.arrives(&a_message(), AGAIN).await;
        world.start();
        world.settled().await;
        assert_eq!((world.words(), shop.movements().await), (vec!["done".to_owned()], 1), "{guard:?}");
        assert_eq!(world.handler.calls.lock().unwrap()[0].crashes, 1, "{guard:?}");
    }
}

#[tokio::test]
async fn what_fails_is_rolled_back_and_comes_again() {
    for guard in WITHIN {
        let shop = Shop::open().await;
        let world = shop.world(guard);
        world.start();
        for (behaviour, word) in [
            (Behaviour::Fail(Failure::retry("not now")), "retrying 100"),
            (Behaviour::Panic, "retrying 1000"),
            (Behaviour::Do, "done"),
        ] {
            world.told(behaviour);
            match word {
                "retrying 100" => world.arrives(&a_message(), Publish::FIRST).await,
                "retrying 1000" => world.clock.advance(100),
                _ => world.clock.advance(1_000),
            }
            world.until(word, |world| world.words().last().map(String::as_str) == Some(word)).await;
            world.settled().await;
            assert_eq!(shop.movements().await, i64::from(word == "done"), "{guard:?} {word}");
        }
        assert_eq!(world.calls(), 3, "{guard:?}");
    }
}

#[tokio::test]
async fn a_message_in_somebody_elses_transaction_is_put_back_without_costing_a_try() {
    let shop = Shop::open().await;
    let world = shop.world(Guard::Tiered);
    let other = claim(&a_message(), "another");
    let Ok(Taking::Ours(open)) = shop.database.inbox().begin(&other, TransactionLimits::default()).await else {
        panic!("nobody has it");
    };
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["retrying 100".to_owned()]));
    let copy = &world.broker.ready("inventory.retry.100")[0];
    assert_eq!(copy.properties.headers[names::RETRY].as_int(), Some(0));
    open.roll_back().await;
    world.clock.advance(100);
    world.until("it came back and is signed", |world| world.words().len() == 2).await;
    assert_eq!((world.calls(), world.words()[1].as_str(), shop.movements().await), (1, "done", 1));
    assert_eq!(world.handler.calls.lock().unwrap()[0].crashes, 0);
}

#[tokio::test]
async fn an_id_that_only_the_database_knows_under_another_fingerprint_is_never_handled() {
    for guard in WITHIN {
        let shop = Shop::open().await;
        shop.database.inbox().record(&[key(Some(Fingerprint::from_hex("0102").unwrap()))]).await.unwrap();
        let world = shop.world(guard);
        world.arrives(&a_message(), Publish::FIRST).await;
        world.start();
        world.settled().await;
        assert_eq!((world.calls(), world.dead_reason()), (0, Some(FailReason::Conflict)), "{guard:?}");
        assert_eq!(shop.movements().await, 0, "{guard:?}");
    }
}

#[tokio::test]
async fn while_the_database_is_away_nothing_is_consumed_and_no_try_is_spent() {
    for guard in WITHIN {
        let shop = Shop::open().await;
        let world = shop.world(guard);
        world.start();
        shop.database.close().await;
        world.arrives(&a_message(), Publish::FIRST).await;
        world.until("readiness says so", |_| !shop.health.readiness().dependencies["database"].ready).await;
        world.until("it went back", |world| (world.broker.depth(QUEUE), world.broker.unsettled(QUEUE)) == (1, 0)).await;
        assert_eq!((world.calls(), world.words()), (0, Vec::new()), "{guard:?}");
        assert!(world.context.health.readiness().dependencies["redis"].ready, "{guard:?}: it is not to blame");
    }
}

#[tokio::test]
async fn a_further_effect_is_committed_once_beside_the_first() {
    for guard in WITHIN {
        let shop = Shop::open().await;
        let world = shop.world(guard);
        world.start();
        let attempt = countersign_delivery::Attempt { epoch: 3, number: 1 };
        let second = Publish { attempt, effect_epoch: 3, again: true };
        for (publish, movements) in [(Publish::FIRST, 1), (second, 2), (AGAIN, 2), (second, 2)] {
            world.arrives(&a_message(), publish).await;
            world.settled().await;
            assert_eq!(shop.movements().await, movements, "{guard:?} {publish:?}");
        }
        assert_eq!(world.words(), ["done"; 4], "{guard:?}");
        world.claims.forget_everything();
        world.arrives(&a_message(), second).await;
        world.settled().await;
        assert_eq!((shop.movements().await, world.calls()), (2, 2), "{guard:?}: the database knows it");
        killed(world).await;
    }
}
