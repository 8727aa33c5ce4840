//! Clients that say nothing, say it slowly, or are too many; and those that are as they should be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{LIMIT, Service, connect, example, get, prepared};

/// The time-out that tests configure, as a duration and as text.
const SHORT: (Duration, &str) = (Duration::from_millis(400), "400");
/// Time between two bytes of a client that trickles.
const TRICKLE: Duration = Duration::from_millis(20);

/// The preface of HTTP/2 with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// GET /hello on stream 1: a frame of headers with `END_STREAM` and `END_HEADERS`.
const GET_HELLO: &[u8] = b"\0\0\x10\x01\x05\0\0\0\x01\x82\x86\x04\x06/hello\x01\x04test";

/// A client that writes bytes itself.
struct Raw(TcpStream);

impl Raw {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    /// One request over a connection that stays, and its answer.
    fn get(&mut self, path: &str) -> String {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        String::from_utf8(body).unwrap()
    }

    /// Whether the server closes within `limit`.
    fn closes_within(&mut self, limit: Duration) -> bool {
        self.0.set_read_timeout(Some(limit)).unwrap();
        match self.0.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => panic!("an answer to nothing"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(_) => true,
        }
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let error = self.0.read_to_end(&mut rest).err();
        assert!(error.is_none_or(|error| error.kind() == ErrorKind::ConnectionReset), "it is not closed");
        rest
    }
}

fn short_heads() -> Service {
    Service::start(&[("COUNTERSIGN_HTTP__HEADER_TIMEOUT_MS", SHORT.1)])
}

#[test]
fn a_connection_that_says_nothing_or_too_little_is_closed_after_the_time() {
    let service = short_heads();
    let http = service.http();
    for said in [&b""[..], b"PRI * HTTP", b"GET /hello HTTP/1.1\r\nHost: te", PREFACE] {
        let start = Instant::now();
        let mut client = Raw::connect(&http);
        client.0.write_all(said).unwrap();
        client.rest();
        assert!(start.elapsed() >= SHORT.0, "{said:?} was closed after {:?}", start.elapsed());
    }
    assert_eq!(get(&http, "/health/live").0, 200);
}

#[test]
fn a_connection_that_trickles_its_head_is_closed_after_the_time() {
    let service = short_heads();
    let http = service.http();
    let start = Instant::now();
    let mut client = Raw::connect(&http);
    client.0.write_all(b"GET /hello HTTP/1.1\r\nHost: test\r\nX-Slow: ").unwrap();
    while client.0.write_all(b"z").is_ok() && !client.closes_within(TRICKLE) {
        assert!(start.elapsed() < LIMIT, "it may trickle for ever");
    }
    assert!(start.elapsed() >= SHORT.0, "closed after {:?}", start.elapsed());
}

#[test]
fn silent_connections_that_take_every_place_keep_nobody_waiting_for_long() {
    let bounds = [("COUNTERSIGN_HTTP__MAX_CONNECTIONS", "8"), ("COUNTERSIGN_HTTP__HEADER_TIMEOUT_MS", SHORT.1)];
    let service = Service::start(&bounds);
    let http = service.http();
    let start = Instant::now();
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&http).unwrap()).collect();
    assert_eq!(get(&http, "/health/live").0, 200);
    // Twice as many as there are places went before.
    assert!((2 * SHORT.0..LIMIT / 2).contains(&start.elapsed()), "answered after {:?}", start.elapsed());
    drop(silent);
    service.signal(Signal::TERM);
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("all connections are taken").count(), 1, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn when_every_place_is_taken_the_connection_that_is_idle_longest_makes_room() {
    let service = Service::start(&[("COUNTERSIGN_HTTP__MAX_CONNECTIONS", "3")]);
    let http = service.http();
    let mut idle: Vec<Raw> = (0..3).map(|_| Raw::connect(&http)).collect();
    for client in [0, 1, 2, 0] {
        idle[client].get("/hello");
        // The service is done with a request a moment after its answer is here.
        std::thread::sleep(Duration::from_millis(100));
    }
    let start = Instant::now();
    assert_eq!(get(&http, "/health/live").0, 200);
    assert!(start.elapsed() < LIMIT / 4, "answered after {:?}", start.elapsed());
    assert!(idle[1].closes_within(LIMIT), "it was idle longest");
    for kept in [0, 2] {
        assert_eq!(idle[kept].get("/hello"), "hello from the closure\n");
    }
}

#[test]
fn a_connection_may_be_idle_longer_than_a_head_may_take_and_is_used_again() {
    let service = short_heads();
    let mut client = Raw::connect(&service.http());
    for _ in 0..200 {
        assert_eq!(client.get("/hello"), "hello from the closure\n");
    }
    assert!(!client.closes_within(3 * SHORT.0));
    client.0.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(client.get("/hello"), "hello from the closure\n");
}

#[test]
fn a_connection_that_is_idle_for_too_long_is_closed_in_both_protocols() {
    let service = Service::start(&[("COUNTERSIGN_HTTP__IDLE_TIMEOUT_MS", SHORT.1)]);
    let http = service.http();
    let start = Instant::now();
    let mut client = Raw::connect(&http);
    client.get("/hello");
    assert!(client.closes_within(LIMIT));
    assert!(start.elapsed() >= SHORT.0, "closed after {:?}", start.elapsed());

    let mut client = Raw::connect(&http);
    client.0.write_all(PREFACE).unwrap();
    client.0.write_all(GET_HELLO).unwrap();
    let kinds = frames(&client.rest());
    // Settings, headers, data: the answer. Then GOAWAY; a client that does not answer the ping after it is not waited for.
    assert!([4, 1, 0, 7].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

#[test]
fn a_head_that_is_too_large_is_refused_and_a_large_one_is_not() {
    let service = Service::start(&[]);
    for (bytes, status) in [(60 * 1024, "200"), (70 * 1024, "431")] {
        let mut client = Raw::connect(&service.http());
        let head = format!("GET /hello HTTP/1.1\r\nConnection: close\r\nX-Large: {}\r\n\r\n", "z".repeat(bytes));
        client.0.write_all(head.as_bytes()).unwrap();
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[test]
fn a_client_that_asks_and_does_not_read_the_answers_is_closed() {
    let service = Service::start(&[("COUNTERSIGN_HTTP__IDLE_TIMEOUT_MS", SHORT.1)]);
    let mut client = Raw::connect(&service.http());
    client.0.set_write_timeout(Some(SHORT.0)).unwrap();
    let start = Instant::now();
    let mut stuck = false;
    let error = loop {
        assert!(start.elapsed() < LIMIT, "it holds its place for ever");
        match client.0.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n") {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => stuck = true,
            Err(error) => break error.kind(),
        }
    };
    assert!(stuck && matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

/// The types of the frames in `bytes`.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, rest @ ..] = bytes {
        kinds.push(*kind);
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        bytes = &rest[5 + length..];
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_spoken_with_prior_knowledge() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let service = Service::start(&[("COUNTERSIGN_HTTP__KEEPALIVE_MS", "50"), ("COUNTERSIGN_HTTP__MAX_CONNECTIONS", "1")]);
    let url = format!("http://{}/hello", service.http());
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().timeout(LIMIT).build().unwrap();
    for _ in 0..3 {
        let answers = futures::future::join_all((0..400).map(|_| client.get(&url).send())).await;
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
            assert_eq!(answer.text().await.unwrap(), "hello from the closure\n");
        }
    }
}

/// A client of `/long` that has read its first word: the request is open.
fn begun(http: &str) -> Raw {
    let mut client = Raw::connect(http);
    client.0.write_all(b"GET /long HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"begun \r\n") {
        client.0.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    client
}

#[test]
fn a_connection_with_an_open_request_is_not_idle_however_long_it_takes() {
    let service = Service::start(&[("COUNTERSIGN_HTTP__IDLE_TIMEOUT_MS", SHORT.1)]);
    let mut client = begun(&service.http());
    assert!(!client.closes_within(SHORT.0 + Duration::from_secs(2)));
    client.0.set_read_timeout(Some(LIMIT)).unwrap();
    service.signal(Signal::TERM);
    assert!(String::from_utf8(client.rest()).unwrap().ends_with("finished\r\n0\r\n\r\n"));
}

#[test]
fn a_stop_finishes_what_is_in_flight_and_does_not_wait_for_idle_connections() {
    let service = Service::start(&[]);
    let http = service.http();
    let mut silent = Raw::connect(&http);
    let mut idle = Raw::connect(&http);
    idle.get("/hello");
    let mut unfinished = begun(&http);
    service.signal(Signal::TERM);
    assert!(silent.closes_within(LIMIT) && idle.closes_within(LIMIT));
    let rest = String::from_utf8(unfinished.rest()).unwrap();
    assert!(rest.ends_with("finished\r\n0\r\n\r\n"), "the answer was cut: {rest:?}");
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("clients kept their connections open"), "{log}");
}

#[test]
fn a_process_without_free_descriptors_neither_ends_nor_spins_and_recovers() {
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]).arg(example());
    let service = Service::spawn(prepared(limited, &[("COUNTERSIGN_HTTP__HEADER_TIMEOUT_MS", SHORT.1)]));
    let http = service.http();
    let start = Instant::now();
    let silent: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&http).unwrap()).collect();
    assert_eq!(get(&http, "/health/live").0, 200);
    drop(silent);
    service.signal(Signal::TERM);
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    let pauses = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=pauses).contains(&log.matches("no connection can be accepted for now").count()), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_too_many_is_served_when_another_leaves() {
    let service = Service::start(&[("COUNTERSIGN_GRPC__MAX_CONNECTIONS", "1")]);
    let check =
        async |mut client: HealthClient<_>| client.check(HealthCheckRequest { service: String::new() }).await.map(|_| client);
    let first = check(HealthClient::new(connect(&service).await)).await.unwrap();
    let mut second = Box::pin(check(HealthClient::new(connect(&service).await)));
    assert!(tokio::time::timeout(SHORT.0, &mut second).await.is_err(), "there is one place only");
    drop(first);
    tokio::time::timeout(LIMIT, second).await.unwrap().unwrap();
}
