//! Whole processes: the example is started, asked, signalled and watched to its end.
#![allow(clippy::disallowed_methods, reason = "tests look at the process from outside")]

mod access;
mod bounds;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(20);

/// Cargo builds examples beside the tests of a package.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let path = folder.join("examples/embedded");
    assert!(path.exists(), "{} is not built: run all targets of the package", path.display());
    path
}

fn command(variables: &[(&str, &str)]) -> Command {
    prepared(Command::new(example()), variables)
}

fn prepared(mut command: Command, variables: &[(&str, &str)]) -> Command {
    command.env_clear().envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A started process. Dropping it kills it.
struct Service {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(variables: &[(&str, &str)]) -> Self {
        Self::spawn(command(variables))
    }

    fn spawn(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("addresses.json");
        let child = command.arg("--addresses").arg(file).spawn().unwrap();
        Self { child, folder }
    }

    /// Waits for the file of addresses: the sign that the process accepts.
    fn addresses(&self) -> serde_json::Value {
        let file = self.folder.path().join("addresses.json");
        serde_json::from_slice(&wait_for(|| std::fs::read(&file).ok())).unwrap()
    }

    fn http(&self) -> String {
        self.addresses()["http"].as_str().unwrap().to_owned()
    }

    fn http_while<T>(self, look: impl FnOnce(&str) -> T) -> T {
        look(&self.http())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(mut self) -> (Option<i32>, String) {
        let status = wait_for(|| self.child.try_wait().unwrap());
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (status.code(), out + &err)
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < LIMIT, "nothing seen within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Status code and body of one GET.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    command(variables).args(arguments).output().unwrap()
}

#[test]
fn a_ready_service_says_so_and_serves_metrics_and_its_own_routes() {
    let service = Service::start(&[]);
    let http = service.http();
    let (status, body) = get(&http, "/health/ready");
    assert_eq!(status, 200);
    let expected = serde_json::json!({"ready": true, "phase": "running", "dependencies": {"broker": {"ready": true}}});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), expected);
    assert_eq!(get(&http, "/health/live"), (200, "live\n".to_owned()));
    assert_eq!(get(&http, "/hello"), (200, "hello from the closure\n".to_owned()));
    assert_eq!(get(&http, "/nothing").0, 404);
    let (_, metrics) = get(&http, "/metrics");
    assert!(metrics.contains("countersign_build_info{service=\"embedded\","), "{metrics}");
    assert!(metrics.contains("countersign_dependency_ready{dependency=\"broker\"} 1"), "{metrics}");
    assert_eq!(service.addresses()["pid"], service.child.id());
}

#[test]
fn an_unready_service_answers_503_with_the_reason_and_stays_alive() {
    let service = Service::start(&[("COUNTERSIGN_WORK__REASON", "connection refused")]);
    let http = service.http();
    let (status, body) = get(&http, "/health/ready");
    assert_eq!(status, 503);
    assert!(body.contains(r#""broker":{"ready":false,"reason":"connection refused"}"#), "{body}");
    assert_eq!(get(&http, "/health/live").0, 200);
}

#[test]
fn a_process_is_asked_for_its_health_by_its_own_program() {
    let asked = |http: &str| {
        let output = run(&[("COUNTERSIGN_HTTP__LISTEN", http)], &["--health"]);
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let ready = Service::start(&[]).http_while(asked);
    assert!(ready.0 == Some(0) && ready.1.contains(r#""ready":true"#), "{ready:?}");
    let unready = Service::start(&[("COUNTERSIGN_WORK__REASON", "connection refused")]).http_while(asked);
    assert!(unready.0 == Some(1) && unready.1.contains("connection refused"), "{unready:?}");
    let nobody = asked("127.0.0.1:1");
    assert!(nobody.0 == Some(1) && nobody.1.contains("http://127.0.0.1:1/health/ready does not answer"), "{nobody:?}");
}

async fn connect(service: &Service) -> tonic::transport::Channel {
    let address = format!("http://{}", service.addresses()["grpc"].as_str().unwrap());
    tonic::transport::Endpoint::new(address).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_health_follows_readiness() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let service = Service::start(&[("COUNTERSIGN_SHUTDOWN__PROBE_PERIOD_MS", "500")]);
    let channel = connect(&service).await;
    let mut client = HealthClient::new(channel);
    let mut seen = client.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(seen.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    service.signal(Signal::TERM);
    assert_eq!(seen.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop(seen);
    drop(client);
    assert_eq!(service.ended().0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_reflection_shows_what_is_served() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let service = Service::start(&[]);
    let channel = connect(&service).await;
    let mut client = ServerReflectionClient::new(channel);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let question = ServerReflectionRequest { host: String::new(), message_request };
    let mut answers = client.server_reflection_info(futures::stream::iter([question])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    assert_eq!(names, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]);
}

#[test]
fn a_stop_turns_unready_waits_a_probe_period_stops_softly_and_ends_with_0() {
    let service = Service::start(&[("COUNTERSIGN_SHUTDOWN__PROBE_PERIOD_MS", "300"), ("COUNTERSIGN_WORK__HOLD_MS", "100")]);
    let http = service.http();
    service.signal(Signal::TERM);
    let body = wait_for(|| Some(get(&http, "/health/ready")).filter(|(status, _)| *status == 503)).1;
    assert!(body.contains(r#""phase":"stopping""#), "{body}");
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    let place = |words: &str| log.find(words).unwrap_or_else(|| panic!("no {words:?} in {log}"));
    let places = ["stopping", "soft stop", "work finished", "stopped"].map(place);
    assert!(places.is_sorted(), "{log}");
}

#[test]
fn work_that_outlasts_the_grace_is_told_to_drop_it() {
    let service = Service::start(&[("COUNTERSIGN_SHUTDOWN__GRACE_MS", "100"), ("COUNTERSIGN_WORK__HOLD_MS", "60000")]);
    service.addresses();
    service.signal(Signal::INT);
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("grace is over") && log.contains("work dropped"), "{log}");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let service = Service::start(&[("COUNTERSIGN_WORK__HOLD_MS", "60000")]);
    let http = service.http();
    service.signal(Signal::TERM);
    wait_for(|| Some(get(&http, "/health/ready")).filter(|(status, _)| *status == 503));
    service.signal(Signal::TERM);
    assert_eq!(service.ended().0, Some(128 + 15));
}

#[test]
fn an_open_connection_does_not_hold_up_the_stop() {
    let service = Service::start(&[]);
    let addresses = service.addresses();
    let idle = ["grpc", "http"].map(|s| TcpStream::connect(addresses[s].as_str().unwrap()).unwrap());
    service.signal(Signal::TERM);
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    drop(idle);
}

#[test]
fn a_failed_critical_task_ends_the_process_with_1_and_its_reason() {
    let (code, log) = Service::start(&[("COUNTERSIGN_WORK__FAIL", "true")]).ended();
    assert_eq!(code, Some(1));
    assert!(log.contains("task work failed: told to fail"), "{log}");
}

#[test]
fn a_taken_address_ends_the_process_with_1_and_the_key_to_change() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, log) = Service::start(&[("COUNTERSIGN_HTTP__LISTEN", &address)]).ended();
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("http.listen = {address} cannot be opened")), "{log}");
}

#[test]
fn check_config_shows_what_would_be_used_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service.toml");
    std::fs::write(&file, "[work]\nhold_ms = 7\n").unwrap();
    let variables = [("COUNTERSIGN_CONFIG", file.to_str().unwrap()), ("COUNTERSIGN_LOG__FORMAT", "json")];
    let output = run(&variables, &["--check-config"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for line in ["hold_ms = 7", "format = \"json\"", "broker = \"amqp://guest:***@127.0.0.1:5672\""] {
        assert!(shown.lines().any(|l| l == line), "no {line} in {shown}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_2_and_names_the_key() {
    for arguments in [&["--check-config"][..], &[]] {
        let output = run(&[("COUNTERSIGN_LOG__FORMT", "json")], arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("unknown key `log.formt`") && said.contains("`log.format`"), "{said}");
    }
    let output = run(&[], &["--config", Path::new("nowhere.toml").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_service_without_tables_has_nothing_to_migrate() {
    let output = run(&[], &["--migrate"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("it has no tables"), "{said}");
}

#[test]
fn version_and_help_are_answered() {
    let version = String::from_utf8(run(&[], &["--version"]).stdout).unwrap();
    assert_eq!(version.trim(), concat!("countersign-embedded ", env!("CARGO_PKG_VERSION")));
    let help = String::from_utf8(run(&[], &["--help"]).stdout).unwrap();
    assert!(help.contains("--check-config") && help.contains("COUNTERSIGN_CONFIG"), "{help}");
    assert_eq!(run(&[], &["--no-such-thing"]).status.code(), Some(2));
}

#[test]
#[cfg(feature = "failpoints")]
fn a_failpoint_says_so_and_kills_the_process() {
    use std::os::unix::process::ExitStatusExt as _;
    let output = run(&[("FAILPOINTS", "upstream.after_store=1*return")], &[]);
    assert_eq!(output.status.signal(), Some(9));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "failpoint hit: upstream.after_store\n");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_failpoint_that_is_off_for_now_or_sleeps_kills_nobody() {
    for actions in ["upstream.after_store=2*off->1*return", "upstream.after_store=sleep(50)"] {
        let service = Service::start(&[("FAILPOINTS", actions)]);
        service.addresses();
        service.signal(Signal::TERM);
        assert_eq!(service.ended().0, Some(0), "{actions}");
    }
}

#[test]
#[cfg(not(feature = "failpoints"))]
fn a_build_without_failpoints_refuses_to_pretend() {
    assert_eq!(run(&[("FAILPOINTS", "upstream.after_store=1*return")], &[]).status.code(), Some(2));
}
