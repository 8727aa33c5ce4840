//! The wrapper: addresses for the command, its exit code, and nothing left however it ends.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use countersign_launcher::{Program, Running, wait_until};
use tempfile::TempDir;

const WITH_SERVERS: &str = env!("CARGO_BIN_EXE_with-servers");
const LIMIT: Duration = Duration::from_secs(90);

fn variables(program: Program) -> Program {
    ["COUNTERSIGN_TEST_AMQP", "COUNTERSIGN_TEST_AMQP_ADMIN", "COUNTERSIGN_TEST_REDIS", "COUNTERSIGN_TEST_POSTGRES"]
        .into_iter()
        .fold(program, Program::env_remove)
}

/// A wrapper around a Redis, whose command says its address and then waits until the test has ended.
fn waiting_wrapper(dir: &Path) -> Running {
    // The directory goes with the test, and the command with the directory: a killed wrapper cannot end it.
    let script = "echo address $COUNTERSIGN_TEST_REDIS; while test -e \"$0\"; do sleep 0.2; done";
    let log = dir.join("wrapper.log");
    let program = Program::new(WITH_SERVERS).args(["redis", "--", "sh", "-c", script]).arg(&log).log_to(&log);
    variables(program).spawn().unwrap()
}

fn answers(url: &str) -> bool {
    std::net::TcpStream::connect(url.trim_start_matches("redis://")).is_ok()
}

async fn address_of(wrapper: &Running) -> String {
    let line = wrapper.wait_for_log("address redis://", LIMIT).await.unwrap();
    line.trim_start_matches("address ").to_owned()
}

async fn gone(url: &str) {
    wait_until("Redis to be gone", LIMIT, async || !answers(url)).await.unwrap();
}

#[tokio::test]
async fn the_command_gets_all_addresses_and_its_exit_code_is_the_answer() {
    let dir = TempDir::new().unwrap();
    let script = "env | grep ^COUNTERSIGN_TEST_ | sort; exit 7";
    let wrapper = Program::new(WITH_SERVERS)
        .args(["rabbitmq", "redis", "postgres", "--", "sh", "-c", script])
        .log_to(dir.path().join("wrapper.log"));
    let wrapper = variables(wrapper).spawn().unwrap();
    let status = wrapper.wait(LIMIT).await.unwrap();
    let log = wrapper.log_text();
    assert_eq!(status.code(), Some(7), "{log}");
    let names: Vec<_> = log.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let wanted = ["COUNTERSIGN_TEST_AMQP", "COUNTERSIGN_TEST_AMQP_ADMIN", "COUNTERSIGN_TEST_POSTGRES", "COUNTERSIGN_TEST_REDIS"];
    assert_eq!(names, wanted, "{log}");
    let redis = log.lines().find_map(|line| line.strip_prefix("COUNTERSIGN_TEST_REDIS=")).unwrap();
    assert!(!answers(redis), "stopped before the wrapper ends");
}

#[tokio::test]
async fn sigterm_ends_command_and_servers() {
    let dir = TempDir::new().unwrap();
    let wrapper = waiting_wrapper(dir.path());
    let redis = address_of(&wrapper).await;
    assert!(answers(&redis));
    wrapper.terminate().unwrap();
    assert_eq!(wrapper.wait(LIMIT).await.unwrap().code(), Some(143));
    assert!(!answers(&redis));
}

#[tokio::test]
async fn sigkill_of_the_wrapper_leaves_no_server() {
    let dir = TempDir::new().unwrap();
    let wrapper = waiting_wrapper(dir.path());
    let redis = address_of(&wrapper).await;
    wrapper.kill9();
    gone(&redis).await;
}

#[tokio::test]
async fn a_server_of_ones_own_is_handed_through() {
    let given = "redis://192.0.2.1:1";
    let output = Command::new(WITH_SERVERS)
        .args(["redis", "--redis-url", given, "--", "sh", "-c", "echo $COUNTERSIGN_TEST_REDIS"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), given);
}

#[tokio::test]
async fn a_missing_server_is_named_with_its_remedy() {
    let empty = TempDir::new().unwrap();
    if ["/opt/homebrew/bin/redis-server", "/usr/local/bin/redis-server"].iter().any(|place| Path::new(place).exists()) {
        return;
    }
    let output = Command::new(WITH_SERVERS)
        .args(["redis", "--", "true"])
        .env("PATH", empty.path())
        .env_remove("COUNTERSIGN_TEST_REDIS")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("deploy/local/install redis"), "{error}");
}
