//! Each server is started, used, killed, started again, stopped, and leaves no process.

#![allow(clippy::disallowed_methods, reason = "a test has no launch frame")]

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use countersign_launcher::{Postgres, RabbitMq, Redis, RedisOptions, wait_until};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use sea_orm::{ConnectionTrait, Database};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// These processes and all that descend from them.
fn family(of: &[u32]) -> BTreeSet<u32> {
    let listed = Command::new("ps").args(["-e", "-o", "pid=", "-o", "ppid="]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let pairs: Vec<(u32, u32)> = listed
        .lines()
        .map(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
            (numbers.next().unwrap(), numbers.next().unwrap())
        })
        .collect();
    let mut family: BTreeSet<u32> = of.iter().copied().collect();
    while let Some((pid, _)) = pairs.iter().find(|(pid, parent)| family.contains(parent) && !family.contains(pid)) {
        family.insert(*pid);
    }
    let running: BTreeSet<u32> = pairs.iter().map(|(pid, _)| *pid).collect();
    family.intersection(&running).copied().collect()
}

async fn all_gone(family: BTreeSet<u32>) {
    assert!(!family.is_empty(), "there was somebody to wait for");
    wait_until("every process to be gone", Duration::from_secs(20), async || {
        let output = Command::new("ps").args(["-e", "-o", "pid="]).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        !output.lines().any(|line| family.contains(&line.trim().parse().unwrap()))
    })
    .await
    .unwrap();
}

async fn publish_durably(url: &str, queue: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, quorum).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let confirm =
        channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), b"order", persistent).await.unwrap();
    assert!(confirm.await.unwrap().is_ack());
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn a_confirmed_message_survives_the_kill_of_the_broker() {
    let dir = TempDir::new().unwrap();
    let mut broker = RabbitMq::start(dir.path()).await.unwrap();
    broker.create_vhost("tenant/one").await.unwrap();
    publish_durably(&broker.amqp_url("tenant/one"), "orders").await;
    assert_eq!(broker.queue_depth("tenant/one", "orders").await.unwrap(), 1);
    assert!(broker.ctl(&["list_vhosts", "--silent"]).await.unwrap().contains("tenant/one"));

    broker.settle().await.unwrap();
    let before = family(&broker.pids()[..1]);
    broker.kill9();
    all_gone(before).await;
    broker.start_again().await.unwrap();
    // The queue elects its leader after the node has said that it is up.
    wait_until("the message to be back", Duration::from_secs(20), async || {
        broker.queue_depth("tenant/one", "orders").await.is_ok_and(|depth| depth == 1)
    })
    .await
    .unwrap();

    assert_eq!(broker.purge("tenant/one", "orders").await.unwrap(), 1);
    assert_eq!(broker.queue_depth("tenant/one", "orders").await.unwrap(), 0);
    broker.delete_vhost("tenant/one").await.unwrap();
    assert!(broker.queue_depth("tenant/one", "orders").await.is_err());

    let before = family(&broker.pids());
    broker.stop().await.unwrap();
    all_gone(before).await;
    broker.start_again().await.unwrap();
    let before = family(&broker.pids());
    drop(broker);
    all_gone(before).await;
}

#[tokio::test]
async fn the_broker_listens_on_loopback_only() {
    let dir = TempDir::new().unwrap();
    let broker = RabbitMq::start(dir.path()).await.unwrap();
    let listeners = broker.ctl(&["eval", "[{A, P} || {listener, _, _, _, A, P, _} <- rabbit_networking:active_listeners()]."]);
    let listeners = listeners.await.unwrap();
    // The distribution listener reports the wildcard it would take by default, so it is tried from outside instead.
    assert!(listeners.contains("{127,0,0,1}"), "{listeners}");
    if let Some(outside) = own_address() {
        for port in listeners.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse::<u16>().ok()) {
            if port > 1023 {
                assert!(TcpStream::connect((outside, port)).is_err(), "port {port} is open on {outside}");
            }
        }
    }
}

/// An address of this machine that is not loopback, if it has one; nothing is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

async fn ask_redis(url: &str, command: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("redis://")).await.unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).trim_end().to_owned()
}

#[tokio::test]
async fn redis_forgets_or_remembers_as_chosen() {
    for (appendonly, left) in [(false, "$-1"), (true, "$3\r\nyes")] {
        let dir = TempDir::new().unwrap();
        let mut redis = Redis::start_with(dir.path(), RedisOptions { appendonly, ..RedisOptions::default() }).await.unwrap();
        assert_eq!(ask_redis(&redis.url(), "SET claim yes").await, "+OK");
        redis.kill9();
        redis.start_again().await.unwrap();
        assert_eq!(ask_redis(&redis.url(), "GET claim").await, left);
        let before = family(&[redis.pid()]);
        redis.stop().await.unwrap();
        all_gone(before).await;
    }
}

#[tokio::test]
async fn a_paused_redis_answers_after_it_is_resumed() {
    let dir = TempDir::new().unwrap();
    let redis = Redis::start(dir.path()).await.unwrap();
    redis.pause().unwrap();
    let url = redis.url();
    let ping = tokio::spawn(async move { ask_redis(&url, "PING").await });
    assert!(
        tokio::time::timeout(Duration::from_millis(300), async {
            while !ping.is_finished() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .is_err()
    );
    redis.resume().unwrap();
    assert_eq!(ping.await.unwrap(), "+PONG");
}

#[tokio::test]
async fn what_postgres_committed_survives_its_kill() {
    let dir = TempDir::new().unwrap();
    let mut server = Postgres::start(dir.path()).await.unwrap();
    let url = server.create_database("msg").await.unwrap();
    let database = Database::connect(&url).await.unwrap();
    database.execute_unprepared("CREATE TABLE t (n int)").await.unwrap();
    database.execute_unprepared("INSERT INTO t VALUES (7)").await.unwrap();

    let before = family(&[server.pid()]);
    server.kill9();
    all_gone(before).await;
    server.start_again().await.unwrap();
    let database = Database::connect(&url).await.unwrap();
    assert_eq!(database.execute_unprepared("DELETE FROM t WHERE n = 7").await.unwrap().rows_affected(), 1);

    let before = family(&[server.pid()]);
    server.stop().await.unwrap();
    all_gone(before).await;
    server.start_again().await.unwrap();
    let before = family(&[server.pid()]);
    drop(server);
    all_gone(before).await;
}
