//! What an operator's check-up asks, on a real broker: the answers are right, and asking changes nothing.

use countersign_broker::checkup::{Holding, Right, Standing, holdings, rights, server};
use countersign_broker::topology::{How, apply, compare};
use countersign_broker::{DownReason, Error};
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::{Consumers, Published, Publisher};
use countersign_launcher::{Ground, Permissions};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use crate::rig::{Rig, config, ground, raw, to};

const TOPOLOGY: &str = "
[[exchange]]
name = 'orders'
kind = 'topic'

[[exchange]]
name = 'everybody'
kind = 'fanout'

[[subscription]]
name = 'inventory'
retry_delays_ms = [100]
bind = [{ exchange = 'orders', routing_key = '#' }, { exchange = 'everybody' }]
";

fn parsed() -> Topology {
    Topology::from_toml(TOPOLOGY).unwrap()
}

/// A user of this test's virtual host, and the address it logs in with.
async fn user(ground: &Ground, may: Permissions<'_>) -> String {
    let name = format!("{}_user", ground.name());
    ground.broker().create_user(&name, "secret", ground.vhost(), may).await.unwrap();
    ground.amqp_url().replace("guest:guest", &format!("{name}:secret"))
}

async fn ready(ground: &Ground, queue: &str) -> u32 {
    ground.queue_depth(queue).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_right_is_told_from_its_absence_and_nothing_happens() {
    let ground = ground("rights").await;
    apply(&config(&ground.amqp_url()), &parsed()).await.unwrap();
    let asked = [
        Right::Write(String::new()),
        Right::Write("orders".into()),
        Right::Write("everybody".into()),
        Right::Read("inventory".into()),
        Right::Read("countersign.checks".into()),
        Right::Configure("inventory".into()),
        Right::Configure("not.there".into()),
    ];
    let granted = vec![Standing::Granted; asked.len()];
    assert_eq!(rights(&config(&ground.amqp_url()), &asked).await.unwrap(), granted, "the owner may do everything");
    let rows = [
        (Permissions { configure: "^$", write: "^$", read: "^$", tags: "" }, [false; 7]),
        (
            Permissions { configure: "^$", write: "^(amq\\.default|orders)$", read: "^$", tags: "" },
            [true, true, false, false, false, false, false],
        ),
        (
            Permissions { configure: "^$", write: "^everybody$", read: "^inventory$", tags: "" },
            [false, false, true, true, false, false, false],
        ),
        (
            Permissions { configure: "^(inventory|not)", write: "^$", read: "^countersign", tags: "" },
            [false, false, false, false, true, true, true],
        ),
    ];
    for (may, expected) in rows {
        let standings = rights(&config(&user(&ground, may).await), &asked).await.unwrap();
        for ((right, standing), expected) in asked.iter().zip(&standings).zip(expected) {
            let fits = if expected { *standing == Standing::Granted } else { matches!(standing, Standing::Denied(_)) };
            assert!(fits, "{may:?}: {right} is {standing:?}");
        }
    }
    for queue in ["inventory", "inventory.limit", "countersign.checks"] {
        assert_eq!(ready(&ground, queue).await, 0, "nothing was published to {queue}");
    }
    assert!(ground.queue_depth("not.there").await.is_err(), "nothing was declared");
    assert!(compare(&config(&ground.amqp_url()), &parsed()).await.unwrap().is_empty(), "nothing was changed");
}

/// Messages that wait stay where they are, undelivered, with their count of deliveries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_takes_no_message_and_disturbs_no_consumer() {
    let ground = ground("rights_full").await;
    let config = config(&ground.amqp_url());
    apply(&config, &parsed()).await.unwrap();
    let rig = Rig::up(config.url.expose()).await;
    let messages: Vec<_> = (0..5).map(|number| to("inventory", number)).collect();
    assert_eq!(rig.broker.publish(messages).await, vec![Published::Confirmed; 5]);
    let asked = [Right::Read("inventory".into()), Right::Write(String::new()), Right::Write("everybody".into())];
    assert_eq!(rights(&config, &asked).await.unwrap(), vec![Standing::Granted; 3]);
    let seen = holdings(&config, &["inventory".into(), "not.there".into()]).await.unwrap();
    assert_eq!(seen, [Holding { queue: "inventory".into(), messages: 5, consumers: 0 }]);
    let mut consumer = rig.broker.consume("inventory", 10).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(consumer.next(10).await);
    }
    assert!(got.iter().all(|delivered| !delivered.redelivered), "nobody had them before");
    assert_eq!(rights(&config, &asked).await.unwrap(), vec![Standing::Granted; 3]);
    let seen = holdings(&config, &["inventory".into()]).await.unwrap();
    assert_eq!(seen, [Holding { queue: "inventory".into(), messages: 0, consumers: 1 }]);
    drop(consumer);
    rig.end().await;
}

/// The belt under the braces: what is asked would route nowhere even if the broker took it, except over a fanout exchange.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catch_all_binding_catches_nothing() {
    let ground = ground("rights_caught").await;
    let (_connection, channel) = raw(&ground.amqp_url()).await;
    apply(&config(&ground.amqp_url()), &parsed()).await.unwrap();
    channel.queue_declare("spy".into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    for exchange in ["orders", "everybody"] {
        let options = QueueBindOptions::default();
        channel.queue_bind("spy".into(), exchange.into(), "#".into(), options, FieldTable::default()).await.unwrap();
    }
    let asked = [Right::Write("orders".into()), Right::Write("everybody".into())];
    assert_eq!(rights(&config(&ground.amqp_url()), &asked).await.unwrap(), vec![Standing::Granted; 2]);
    assert_eq!(ready(&ground, "spy").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_from_what_is_forbidden() {
    let ground = ground("rights_missing").await;
    let config = config(&ground.amqp_url());
    let asked = [Right::Write("orders".into()), Right::Read("inventory".into())];
    assert_eq!(rights(&config, &asked).await.unwrap(), vec![Standing::NoSuchThing; 2]);
    let differences = compare(&config, &parsed()).await.unwrap();
    assert!(!differences.is_empty() && differences.iter().all(|difference| difference.how == How::Missing), "{differences:?}");
    apply(&config, &parsed()).await.unwrap();
    let url = user(&ground, Permissions { configure: "^$", write: ".*", read: ".*", tags: "" }).await;
    let differences = compare(&crate::rig::config(&url), &parsed()).await.unwrap();
    assert!(!differences.is_empty(), "nothing can be compared");
    assert!(differences.iter().all(|difference| matches!(difference.how, How::NotCompared(_))), "{differences:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_says_what_it_is_or_why_not() {
    let ground = ground("greeting").await;
    let greeted = server(&config(&ground.amqp_url())).await.unwrap();
    assert!(greeted.product == "RabbitMQ" && greeted.version.contains('.'), "{greeted:?}");
    let refused = server(&config(&ground.amqp_url().replace("guest:guest", "guest:wrong"))).await;
    assert!(matches!(&refused, Err(Error::Down(DownReason::WrongPassword { user })) if user == "guest"), "{refused:?}");
}
