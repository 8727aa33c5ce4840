//! The business service that demo and flow tests trust to count: it is shown to count rightly.

use std::sync::Arc;
use std::time::Duration;

use countersign_launcher::{Program, Running};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

struct Handler {
    url: String,
    running: Running,
    client: reqwest::Client,
}

impl Handler {
    async fn start(dir: &TempDir, mode: &str) -> Self {
        // Another test of this file may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let running = spawn(dir, mode);
        let line = running.wait_for_log("listening on ", LIMIT).await.unwrap();
        let url = line.replace("listening on ", "http://");
        let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build().unwrap();
        Self { url, running, client }
    }

    async fn order(&self, key: &str) -> reqwest::Response {
        let request = self.client.post(format!("{}/orders", self.url)).body("{\"sku\":1}");
        let request = request.header("ce-id", format!("m-{key}")).header("ce-type", "order").header("ce-source", "test");
        request.header("Idempotency-Key", key).send().await.unwrap()
    }

    async fn behave(&self, wish: Value) {
        let answer = self.client.post(format!("{}/behave", self.url)).json(&wish).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    async fn counts(&self) -> Value {
        self.client.get(format!("{}/counts", self.url)).send().await.unwrap().json().await.unwrap()
    }

    async fn effects(&self) -> Value {
        self.client.get(format!("{}/effects", self.url)).send().await.unwrap().json().await.unwrap()
    }
}

fn spawn(dir: &TempDir, mode: &str) -> Running {
    Program::new(env!("CARGO_BIN_EXE_order-handler"))
        .args(["--mode", mode, "--database"])
        .arg(dir.path().join("orders.db"))
        .log_to(dir.path().join("handler.log"))
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn every_call_is_an_effect_when_counting() {
    let dir = TempDir::new().unwrap();
    let handler = Handler::start(&dir, "count").await;
    for key in ["a", "a", "b"] {
        assert_eq!(handler.order(key).await.status(), 200);
    }
    let effects = handler.effects().await;
    assert_eq!(effects["effects"], json!({"a": 2, "b": 1}));
    assert_eq!((&effects["total"], &effects["distinct"], &effects["calls"]), (&json!(3), &json!(2), &json!(3)));
}

#[tokio::test]
async fn a_repeat_has_no_effect_when_idempotent_and_says_so() {
    let dir = TempDir::new().unwrap();
    let handler = Handler::start(&dir, "idempotent").await;
    assert!(handler.order("a").await.headers().get("countersign-outcome").is_none());
    assert_eq!(handler.order("a").await.headers()["countersign-outcome"], "duplicate");
    let effects = handler.effects().await;
    assert_eq!((&effects["effects"], &effects["calls_by_key"]), (&json!({"a": 1}), &json!({"a": 2})));
    let counts = handler.counts().await;
    assert_eq!(counts, json!({"effects": 1, "orders": 1, "calls": 2, "duplicates": 1, "in_flight": 0}));
}

#[tokio::test]
async fn of_many_calls_at_a_time_one_has_the_effect_when_idempotent() {
    let dir = TempDir::new().unwrap();
    let handler = Arc::new(Handler::start(&dir, "idempotent").await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let handler = handler.clone();
        calls.spawn(async move { handler.order("a").await.headers().contains_key("countersign-outcome") });
    }
    let repeats = calls.join_all().await.into_iter().filter(|repeat| *repeat).count();
    assert_eq!(repeats, 19);
    let counts = handler.counts().await;
    assert_eq!((&counts["effects"], &counts["calls"], &counts["duplicates"]), (&json!(1), &json!(20), &json!(19)));
}

#[tokio::test]
async fn a_file_with_repeated_effects_is_refused_when_idempotent() {
    let dir = TempDir::new().unwrap();
    let handler = Handler::start(&dir, "count").await;
    handler.order("a").await;
    handler.order("a").await;
    handler.running.kill9();
    let idempotent = spawn(&dir, "idempotent");
    assert!(!idempotent.wait(LIMIT).await.unwrap().success());
    assert!(idempotent.log_text().contains("use another file"), "{}", idempotent.log_text());
}

#[tokio::test]
async fn effects_survive_a_kill() {
    let dir = TempDir::new().unwrap();
    let handler = Handler::start(&dir, "count").await;
    handler.order("a").await;
    handler.running.kill9();
    let handler = Handler::start(&dir, "count").await;
    assert_eq!(handler.effects().await["effects"], json!({"a": 1}));
}

#[tokio::test]
async fn it_fails_as_told_and_only_so_often() {
    let dir = TempDir::new().unwrap();
    let handler = Handler::start(&dir, "count").await;
    handler.behave(json!({"status": 503, "for": 2, "only_key": "a"})).await;
    assert_eq!(handler.order("b").await.status(), 200);
    for wanted in [503, 503, 200] {
        assert_eq!(handler.order("a").await.status(), wanted);
    }
    let effects = handler.effects().await;
    assert_eq!((&effects["effects"], &effects["calls_by_key"]), (&json!({"a": 1, "b": 1}), &json!({"a": 3, "b": 1})));
}

#[tokio::test]
async fn what_is_no_cloud_event_is_rejected() {
    let dir = TempDir::new().unwrap();
    let handler = Handler::start(&dir, "count").await;
    let answer = handler.client.post(format!("{}/orders", handler.url)).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(handler.effects().await["calls"], json!(0));
}
