//! Connecting: every way it fails has a clear word, and it heals by itself.

use countersign_broker::{Broker, Config, DownReason, Error, State};
use countersign_delivery::ports::broker::Publisher;
use countersign_launcher::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rig::{Rig, SOON, config, ground};

/// The first reason it gives that is not "still connecting".
async fn reason(url: &str) -> DownReason {
    let rig = Rig::start(config(url));
    let mut state = rig.broker.state();
    let told = state.wait_for(|state| !matches!(state, State::Down(DownReason::Starting)));
    let told = timeout(SOON, told).await.expect("a word in time").unwrap().clone();
    assert!(!rig.broker.is_up());
    rig.end().await;
    match told {
        State::Down(reason) => reason,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn nobody_listens() {
    let port = free_port().unwrap();
    let told = reason(&format!("amqp://guest:hush@127.0.0.1:{port}/%2f")).await;
    assert!(matches!(&told, DownReason::Unreachable { .. }) && told.is_transient(), "{told:?}");
    assert!(told.to_string().contains(&port.to_string()) && !told.to_string().contains("hush"), "{told}");
}

#[tokio::test]
async fn wrong_password() {
    let ground = ground("password").await;
    let told = reason(&ground.amqp_url().replace("guest:guest", "guest:wrong")).await;
    assert_eq!(told, DownReason::WrongPassword { user: "guest".into() });
}

#[tokio::test]
async fn no_such_vhost() {
    let ground = ground("vhost").await;
    let told = reason(&ground.amqp_url().replace(ground.vhost(), "nowhere")).await;
    assert_eq!(told, DownReason::NoSuchVhost { vhost: "nowhere".into() });
}

#[tokio::test]
async fn something_else_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let told = reason(&format!("amqp://127.0.0.1:{port}/%2f")).await;
    assert!(told.to_string().contains("does not speak AMQP"), "{told}");
    server.abort();
}

/// A greeting as an old `RabbitMQ` sends it.
#[tokio::test]
async fn an_old_broker_is_refused_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let field = |name: &str, value: &str| {
        let mut bytes = vec![u8::try_from(name.len()).unwrap()];
        bytes.extend(name.as_bytes());
        bytes.push(b'S');
        bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value.as_bytes());
        bytes
    };
    let table = [field("product", "RabbitMQ"), field("version", "3.9.13")].concat();
    let mut payload = vec![0, 10, 0, 10, 0, 9];
    payload.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
    payload.extend(table);
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&frame).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let told = reason(&format!("amqp://127.0.0.1:{port}/%2f")).await;
    assert_eq!(told, DownReason::TooOld { version: "3.9.13".into() });
    assert!(told.to_string().contains("3.10"), "{told}");
    server.abort();
}

#[tokio::test]
async fn a_hanging_peer_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}/%2f", listener.local_addr().unwrap());
    let rig = Rig::start(Config { connect_timeout_ms: 200, ..config(&url) });
    let mut state = rig.broker.state();
    let told = state.wait_for(|state| matches!(state, State::Down(DownReason::Unreachable { .. })));
    assert!(timeout(SOON, told).await.expect("in time").unwrap().to_string().contains("200 ms"));
    rig.end().await;
}

#[tokio::test]
async fn a_vhost_that_appears_later_is_found() {
    let ground = ground("later").await;
    let rig = Rig::start(config(&format!("{}_later", ground.amqp_url())));
    let mut state = rig.broker.state();
    timeout(SOON, state.wait_for(|state| matches!(state, State::Down(DownReason::NoSuchVhost { .. })))).await.unwrap().unwrap();
    let name = format!("{}_later", ground.vhost());
    ground.broker().create_vhost(&name).await.unwrap();
    timeout(SOON, rig.broker.up()).await.expect("connected by itself");
    assert_eq!(*state.borrow_and_update(), State::Up);
    rig.end().await;
    ground.broker().delete_vhost(&name).await.unwrap();
}

/// Whoever starts at the node that is away goes on to the one that is there, every time.
#[tokio::test]
async fn of_several_nodes_one_that_can_be_reached_is_taken() {
    let ground = ground("nodes").await;
    let away = free_port().unwrap();
    let url = ground.amqp_url().replacen('@', &format!("@127.0.0.1:{away},"), 1);
    for _ in 0..4 {
        let rig = Rig::up(&url).await;
        assert_eq!(*rig.broker.state().borrow(), State::Up);
        rig.end().await;
    }
    let both = reason(&format!("amqp://guest:hush@127.0.0.1:{away},127.0.0.1:{}/%2f", free_port().unwrap())).await;
    assert!(matches!(both, DownReason::Unreachable { .. }), "{both:?}");
}

#[tokio::test]
async fn a_bad_configuration_is_the_only_error() {
    let bad = Config { url: "nonsense".into(), ..Config::default() };
    let refused = Broker::connect(bad, "test", &TaskTracker::new(), CancellationToken::new());
    assert!(matches!(&refused, Err(Error::Config(problems)) if problems[0].contains("broker.url")), "{refused:?}");
}
