//! Against servers that HTTP libraries do not write: each says its bytes and nothing else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

/// How long a call may take in these tests, with room for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What a server does once it has read a request.
#[derive(Clone, Copy)]
enum Then {
    /// Closes the connection.
    Close,
    /// Keeps it open and says nothing more.
    Hold,
    /// Says this again and again.
    Trickle(&'static str),
}

async fn says(words: &'static str, then: Then) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = countersign_boot::Tasks::new(countersign_boot::Stop::default());
    tasks.clone().critical("server", async move {
        loop {
            let (socket, _) = listener.accept().await?;
            drop(tasks.spawn("connection", answer(socket, words, then)));
        }
        #[allow(unreachable_code, reason = "tells the type of the error")]
        std::io::Result::Ok(())
    });
    address
}

/// Reads one request to the end of its body, which is one letter, and answers.
async fn answer(mut socket: TcpStream, words: &'static str, then: Then) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nx") {
        match socket.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let mut said = socket.write_all(words.as_bytes()).await;
    match then {
        Then::Close => {}
        Then::Hold => {
            let _ = socket.read_buf(&mut request).await;
        }
        Then::Trickle(drop) => {
            while said.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                said = socket.write_all(drop.as_bytes()).await;
            }
        }
    }
}

/// The word for what a delivery came to, and how long it took.
async fn outcome(words: &'static str, then: Then) -> (&'static str, String, Duration) {
    let address = says(words, then).await;
    let started = Instant::now();
    let outcome = deliver(address, "any", "x", None).await;
    let took = started.elapsed();
    match outcome {
        Ok(Handled::Done) => ("done", String::new(), took),
        Ok(Handled::Duplicate) => ("duplicate", String::new(), took),
        Err(Failure::Reject { detail }) => ("reject", detail, took),
        Err(Failure::Retry { detail }) => ("retry", detail, took),
    }
}

#[tokio::test]
async fn whatever_a_server_says_is_judged_in_time() {
    let rows = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Hold, "done"),
        ("HTTP/1.0 204 No Content\r\n\r\n", Then::Close, "done"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n", Then::Hold, "reject"),
        ("HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Hold, "done"),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", Then::Hold, "retry"),
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", Then::Hold, "retry"),
        ("HTTP/1.1 299 Fine\r\ncontent-length: 0\r\n\r\n", Then::Hold, "done"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", Then::Hold, "retry"),
        ("HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n", Then::Hold, "retry"),
        ("SSH-2.0-OpenSSH_9.2\r\n", Then::Hold, "retry"),
        ("", Then::Close, "retry"),
        ("", Then::Hold, "retry"),
        ("HTTP/1.1 200 OK\r\nconte", Then::Close, "retry"),
        ("HTTP/1.1 200 OK\r\nx-slow: ", Then::Trickle("a"), "retry"),
    ];
    for (words, then, expected) in rows {
        let (got, detail, took) = outcome(words, then).await;
        assert_eq!(got, expected, "{words:?}: {detail}");
        assert!(took < SOON, "{words:?} took {took:?}");
    }
}

#[tokio::test]
async fn once_the_status_is_there_nothing_that_happens_to_the_body_changes_it() {
    let rows = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Then::Close, "done", ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Then::Hold, "done", ""),
        ("HTTP/1.1 200 OK\r\n\r\n", Then::Trickle("abc"), "done", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense", Then::Hold, "done", ""),
        ("HTTP/1.1 200 OK\r\ncountersign-outcome: DUPLICATE\r\ncontent-length: 10\r\n\r\n", Then::Hold, "duplicate", ""),
        ("HTTP/1.1 422 No\r\ncontent-length: 9\r\n\r\nno such", Then::Hold, "reject", "HTTP 422: no such"),
        (
            "HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfor\r\n",
            Then::Trickle("1\r\n!\r\n"),
            "retry",
            "HTTP 500: for!",
        ),
    ];
    for (words, then, expected, said) in rows {
        let (got, detail, took) = outcome(words, then).await;
        assert_eq!(got, expected, "{words:?}: {detail}");
        assert!(detail.starts_with(said), "{words:?}: {detail}");
        assert!(took < SOON, "{words:?} took {took:?}");
    }
}

#[tokio::test]
async fn a_handler_that_trickles_is_done_with_long_before_its_time_is_over() {
    let address = says("HTTP/1.1 200 OK\r\n\r\n", Then::Trickle("abc")).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let handler = HttpHandler::new(&Secret::new(format!("http://{address}/")), Duration::from_mins(5), 1).unwrap();
    let started = Instant::now();
    assert_eq!(deliver(address, "", "x", Some(&handler)).await, Ok(Handled::Done));
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_takes_no_connection_is_given_up_long_before_the_call_is() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut taken = Vec::new();
    // Nobody accepts: once its backlog is full, the system answers no further connection.
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        taken.push(connected.unwrap());
        assert!(taken.len() < 100, "the backlog is never full");
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let handler = HttpHandler::new(&Secret::new(format!("http://{address}/")), Duration::from_mins(5), 1).unwrap();
    let started = Instant::now();
    let Err(Failure::Retry { detail }) = deliver(address, "", "x", Some(&handler)).await else { panic!("it is tried again") };
    assert!(started.elapsed() >= CONNECT / 2 && started.elapsed() < SOON, "{detail} after {:?}", started.elapsed());
}
