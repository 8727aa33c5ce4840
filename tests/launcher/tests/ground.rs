//! Two tests on the same servers do not see each other.

use countersign_launcher::{Ground, create_database};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

#[tokio::test]
async fn each_ground_has_its_own_corner_and_gives_it_back() {
    let one = Ground::new("one").await.unwrap();
    let other = Ground::new("other").await.unwrap();
    assert_ne!((one.vhost(), one.redis_url(), one.dir()), (other.vhost(), other.redis_url(), other.dir()));

    let connection = Connection::connect(&one.amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("orders".into(), durable, FieldTable::default()).await.unwrap();
    assert_eq!(one.queue_depth("orders").await.unwrap(), 0);
    assert!(other.queue_depth("orders").await.is_err(), "the other virtual host has no such queue");

    let database = one.database("msg").await.unwrap();
    assert!(database.ends_with(&format!("/{}_msg", one.name())));
    assert!(one.database("msg").await.is_err(), "taken");
    assert!(sea_orm::Database::connect(one.sqlite("upstream")).await.is_ok());

    let (name, broker, dir) = (one.name().to_owned(), one.broker().clone(), one.dir().to_owned());
    drop(one);
    assert!(broker.queue_depth(&name, "orders").await.is_err(), "its virtual host is gone");
    assert!(!dir.exists());
    create_database(&other.database("second").await.unwrap(), &format!("{name}_msg")).await.expect("the name is free again");
}
