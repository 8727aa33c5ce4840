//! `countersign doctor` on real servers: nothing to say of a healthy system, and a finding with its remedy for each thing that is wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Permissions, Redis, SUBSCRIPTION, Which, binary, wait_until};
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

const SETUP: Setup = Setup { postgres: false, max_batch: 256 };
/// Bound of one question of the doctor, milliseconds.
const LIMIT_MS: &str = "10000";

/// What doctor said and how it ended.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text).with_context(|| self.text.clone())
    }

    /// Whether there is a finding of this check, subject and severity that says `found` and whose remedy says `remedy`.
    fn has(&self, row: &Row) -> bool {
        let said = self.json().unwrap_or_default();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        said["findings"].as_array().is_some_and(|findings| {
            findings.iter().any(|finding| {
                finding["check"] == row.check
                    && finding["severity"] == row.severity
                    && text(finding, "subject").contains(row.subject)
                    && text(finding, "found").contains(row.found)
                    && text(finding, "remedy").contains(row.remedy)
            })
        })
    }
}

/// A finding that is expected.
#[derive(Debug)]
struct Row {
    check: &'static str,
    subject: &'static str,
    severity: &'static str,
    found: &'static str,
    remedy: &'static str,
}

const fn error(check: &'static str, subject: &'static str, found: &'static str, remedy: &'static str) -> Row {
    Row { check, subject, severity: "error", found, remedy }
}

const fn warning(check: &'static str, subject: &'static str, found: &'static str, remedy: &'static str) -> Row {
    Row { check, subject, severity: "warning", found, remedy }
}

async fn run(flow: &Flow, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Said> {
    let mut command = Command::new(binary("countersign")?);
    command.args(["--timeout-ms", LIMIT_MS, "doctor", "--upstream", &flow.system.grpc_url(Which::Upstream)]);
    command.args(["--callback", &flow.system.grpc_url(Which::Callback)]).args(arguments);
    command.envs(environment.iter().copied()).kill_on_drop(true);
    if !arguments.contains(&"--management-url") {
        command.env("COUNTERSIGN_MANAGEMENT_URL", flow.ground.broker().admin_url());
    }
    let output = timeout(Duration::from_mins(1), command.output()).await??;
    let text = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).into_owned();
    Ok(Said { code: output.status.code(), text })
}

/// With the configuration of this system, or what a test has made of it.
async fn doctor(flow: &Flow, folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Said> {
    let folder = folder.display().to_string();
    run(flow, &[&["-o", "json", "--config", &folder], arguments].concat(), environment).await
}

async fn expect(flow: &Flow, folder: &Path, arguments: &[&str], environment: &[(&str, &str)], row: Row) -> anyhow::Result<()> {
    let said = doctor(flow, folder, arguments, environment).await?;
    ensure!(said.has(&row), "expected {row:?} in {}", said.text);
    let code = said.json()?["errors"].as_u64().map(|errors| i32::from(errors > 0));
    ensure!(said.code == code, "it ended with {:?}: {}", said.code, said.text);
    ensure!(!said.text.contains("guest:guest") && !said.text.contains("hush"), "a password is shown: {}", said.text);
    Ok(())
}

/// Until it is so: the management interface shows some things a moment late.
async fn comes_to(flow: &Flow, row: Row) -> anyhow::Result<()> {
    let what = format!("doctor to say {row:?}");
    wait_until(&what, PATIENCE, async || doctor(flow, flow.ground.dir(), &[], &[]).await.is_ok_and(|said| said.has(&row))).await
}

async fn apply_topology(flow: &Flow) -> anyhow::Result<()> {
    let said = topology(flow, "apply", &flow.system.topology_file()).await?;
    ensure!(said.code == Some(0), "{}", said.text);
    Ok(())
}

/// `countersign topology VERB`.
async fn topology(flow: &Flow, verb: &str, file: &Path) -> anyhow::Result<Said> {
    let mut command = Command::new(binary("countersign")?);
    command.args(["topology", verb, "--file"]).arg(file).env("COUNTERSIGN_AMQP_URL", flow.ground.amqp_url());
    let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(Said { code: output.status.code(), text })
}

/// A folder with the three files, each as `change` makes it; None leaves one out.
fn changed(flow: &Flow, name: &str, change: impl Fn(&str, String) -> Option<String>) -> anyhow::Result<PathBuf> {
    let folder = flow.ground.path(name);
    std::fs::create_dir_all(&folder)?;
    for service in ["upstream", "downstream", "callback"] {
        let text = std::fs::read_to_string(flow.ground.path(&format!("{service}.toml")))?;
        if let Some(text) = change(service, text) {
            std::fs::write(folder.join(format!("{service}.toml")), text)?;
        }
    }
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_system_has_no_error_and_each_disturbance_is_found() -> anyhow::Result<()> {
    let mut flow = Flow::new("doctor", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let consumed = Row { severity: "ok", ..warning("topology.consumers", "", "", "") };
    comes_to(&flow, consumed).await?;
    let said = doctor(&flow, flow.ground.dir(), &[], &[]).await?;
    ensure!(said.code == Some(0) && said.json()?["errors"] == 0, "{}", said.text);
    for check in [
        "connections.broker",
        "connections.redis",
        "connections.http",
        "connections.grpc",
        "versions.broker",
        "versions.redis",
        "versions.services",
        "topology.queue",
        "topology.policy",
        "topology.binding",
        "permissions.broker",
        "retention.horizon",
        "retention.policy",
        "retention.figure",
        "retention.stored",
        "retention.stored_policy",
        "redis.eviction",
        "clocks.skew",
    ] {
        ensure!(said.has(&Row { severity: "ok", ..warning(check, "", "", "") }), "{check} is not ok: {}", said.text);
    }
    ensure!(!said.text.contains("skipped") && !said.text.contains("guest:guest"), "{}", said.text);

    let folder = flow.ground.dir().display().to_string();
    let shown = run(&flow, &["--config", &folder], &[]).await?;
    ensure!(shown.code == Some(0) && shown.text.contains("\nretention\n") && shown.text.contains("0 errors"), "{}", shown.text);

    let vhost = flow.ground.vhost().to_owned();
    let drop_head = json!({"overflow": "drop-head"});
    flow.ground.broker().set_policy(&vhost, "shed", "^countersign\\.checks\\.", &drop_head).await?;
    comes_to(&flow, error("topology.policy", "queue countersign.checks.1000", "at most once", "policy shed")).await?;
    flow.unbind_work_queue().await?;
    comes_to(&flow, error("topology.binding", SUBSCRIPTION, "order.created.#", "topology apply --file")).await?;
    flow.bind_work_queue().await?;
    flow.system.stop(Which::Upstream).await?;
    comes_to(&flow, error("connections.http", "upstream", "does not answer", "--upstream-http")).await?;
    comes_to(&flow, error("connections.grpc", "upstream", "no gRPC", "--upstream http://127.0.0.1:")).await?;
    flow.system.stop(Which::Downstream).await?;
    comes_to(&flow, warning("topology.consumers", SUBSCRIPTION, "nobody consumes", "start downstream")).await?;
    flow.system.stop(Which::Callback).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_broker_is_named_with_its_remedy() -> anyhow::Result<()> {
    let flow = Flow::new("doctor_broker", SETUP).await?;
    let dir = flow.ground.dir();
    expect(
        &flow,
        dir,
        &[],
        &[],
        error("topology.queue", "queue countersign.receipts", "does not exist", "topology apply --file"),
    )
    .await?;
    apply_topology(&flow).await?;
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.queue_delete(format!("{SUBSCRIPTION}.retry.250").into(), QueueDeleteOptions::default()).await?;
    expect(&flow, dir, &[], &[], error("topology.queue", "queue inventory.orders.retry.250", "does not exist", "topology apply"))
        .await?;
    apply_topology(&flow).await?;

    let broker = "COUNTERSIGN_BROKER__URL";
    let wrong = flow.ground.amqp_url().replace("guest:guest", "guest:hush");
    expect(
        &flow,
        dir,
        &[],
        &[(broker, &wrong)],
        error("connections.broker", "callback", "user guest was refused", "change_password guest"),
    )
    .await?;
    let nowhere = format!("{}_not_there", flow.ground.amqp_url());
    expect(&flow, dir, &[], &[(broker, &nowhere)], error("connections.broker", "upstream", "does not exist", "add_vhost"))
        .await?;

    let reader = format!("{}_reader", flow.ground.name());
    let may = Permissions { configure: "^$", write: "^$", read: "^inventory", tags: "management" };
    flow.ground.broker().create_user(&reader, "hush", flow.ground.vhost(), may).await?;
    let url = flow.ground.amqp_url().replace("guest:guest", &format!("{reader}:hush"));
    let denied = [(broker, url.as_str())];
    let grant = "rabbitmqctl set_permissions";
    expect(&flow, dir, &[], &denied, error("permissions.broker", "upstream", "write to exchange orders", grant)).await?;
    expect(&flow, dir, &[], &denied, error("permissions.broker", "downstream", "write to the default exchange", grant)).await?;
    expect(&flow, dir, &[], &denied, error("permissions.broker", "callback", "read queue countersign.receipts", grant)).await?;
    expect(&flow, dir, &[], &denied, error("permissions.broker", "callback", "apply is on", "apply = false")).await?;
    let not_compared = Row { severity: "skipped", ..warning("topology.queue", "arguments", "may not configure", "management") };
    expect(&flow, dir, &[], &denied, not_compared).await?;

    let closed = Row { severity: "skipped", ..warning("topology.management", "", "does not answer", "rabbitmq_management") };
    expect(&flow, dir, &["--management-url", "http://127.0.0.1:1"], &[], closed).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_configuration_is_named_with_its_remedy() -> anyhow::Result<()> {
    let flow = Flow::new("doctor_config", SETUP).await?;
    let dir = flow.ground.dir();
    apply_topology(&flow).await?;
    let short = [("COUNTERSIGN_DOWNSTREAM__DEDUP_RETENTION_MS", "1000")];
    expect(&flow, dir, &[], &short, error("retention.horizon", SUBSCRIPTION, "is 1000", "dedup_retention_ms to at least"))
        .await?;
    expect(&flow, dir, &[], &short, error("retention.figure", "", "1000", "callback.dedup_retention_ms")).await?;

    let patient = changed(&flow, "patient", |service, text| {
        Some(if service == "callback" { text.replace("[policy]", "[policy]\nmax_resends = 9") } else { text })
    })?;
    expect(&flow, &patient, &[], &[], error("retention.policy", "", "max_resends (3 ≠ 9)", "copy [policy]")).await?;
    let without = changed(&flow, "without", |service, text| (service != "callback").then_some(text))?;
    expect(&flow, &without, &[], &[], warning("configuration.file", "callback", "built-in defaults assumed", "COUNTERSIGN_"))
        .await?;
    let broken = changed(&flow, "broken", |service, text| Some(if service == "downstream" { format!("[{text}") } else { text }))?;
    expect(&flow, &broken, &[], &[], error("configuration.file", "downstream", "not TOML", "--check-config")).await?;

    let nowhere = flow.ground.path("nowhere.toml").display().to_string();
    expect(&flow, dir, &["--topology", &nowhere], &[], error("configuration.topology", "", "cannot be read", "--topology FILE"))
        .await?;
    std::fs::write(&nowhere, "version = 1\n[[subscription]]\nname = \"a\"\nbind = []\n")?;
    expect(&flow, dir, &["--topology", &nowhere], &[], error("configuration.topology", "", "is refused", "mend the file"))
        .await?;

    let missing = flow.ground.path("no-folder").display().to_string();
    for (arguments, word) in [
        (["--config", missing.as_str()], "not a folder"),
        (["--downstream-http", "nonsense"], "--downstream-http"),
        (["--management-url", "nonsense"], "--management-url"),
    ] {
        let said = run(&flow, &arguments, &[]).await?;
        ensure!(said.code == Some(2) && said.text.contains(word), "{arguments:?}: {:?} {}", said.code, said.text);
    }
    Ok(())
}

/// On a Redis of its own: its settings are changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_is_named_with_its_remedy() -> anyhow::Result<()> {
    let flow = Flow::new("doctor_redis", SETUP).await?;
    let redis = Redis::start(flow.ground.dir()).await?;
    let (dir, url) = (flow.ground.dir(), redis.url());
    let own = [("COUNTERSIGN_REDIS__URL", url.as_str())];
    expect(&flow, dir, &[], &own, warning("redis.persistence", "redis", "persistence is off", "appendonly yes")).await?;
    redis.command("CONFIG SET maxmemory 100mb").await?;
    redis.command("CONFIG SET maxmemory-policy allkeys-lru").await?;
    expect(&flow, dir, &[], &own, error("redis.eviction", "redis", "allkeys-lru", "maxmemory-policy noeviction")).await?;
    redis.command("CONFIG SET maxmemory-policy noeviction").await?;
    redis.command("CONFIG SET maxmemory 1").await?;
    expect(&flow, dir, &[], &own, warning("redis.memory", "redis", "takes no claims", "raise maxmemory")).await?;
    redis.command("CONFIG SET maxmemory 0").await?;
    redis.command("REPLICAOF 127.0.0.1 1").await?;
    expect(&flow, dir, &[], &own, error("redis.role", "redis", "takes no writes", "REPLICAOF NO ONE")).await?;
    redis.command("REPLICAOF NO ONE").await?;
    redis.command("CONFIG SET requirepass hush").await?;
    expect(&flow, dir, &[], &own, error("connections.redis", "redis", "", "user and password of [redis] url")).await?;
    redis.kill9();
    expect(&flow, dir, &[], &own, error("connections.redis", "redis", "does not answer", "start Redis")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternate_exchange_is_applied_compared_and_what_passes_it_by_is_named() -> anyhow::Result<()> {
    let flow = Flow::new("doctor_alternate", SETUP).await?;
    let (dir, file, plain) = (flow.ground.dir(), flow.ground.path("rest.toml"), flow.ground.path("plain.toml"));
    let text = std::fs::read_to_string(flow.system.topology_file())?;
    let (orders, rest) = ("name = \"orders\"", "[[exchange]]\nname = \"rest\"\nkind = \"fanout\"\n");
    ensure!(text.contains(orders), "{text}");
    std::fs::write(&file, text.replace(orders, "name = \"orders\"\nalternate = \"rest\""))?;
    let unknown = topology(&flow, "apply", &file).await?;
    ensure!(unknown.code == Some(2) && unknown.text.contains("unknown alternate \"rest\": declare it"), "{}", unknown.text);
    std::fs::write(&file, text.replace(orders, "name = \"orders\"\nalternate = \"rest\"") + rest)?;
    std::fs::write(&plain, text + rest)?;

    let applied = topology(&flow, "apply", &file).await?;
    ensure!(applied.code == Some(0) && applied.text.contains("3 exchanges"), "{}", applied.text);
    let same = topology(&flow, "verify", &file).await?;
    ensure!(same.code == Some(0) && same.text.contains("as the file says"), "{}", same.text);
    let other = topology(&flow, "verify", &plain).await?;
    ensure!(other.code == Some(1) && other.text.contains("alternate-exchange"), "{:?} {}", other.code, other.text);

    let named = ["--topology", &file.display().to_string()];
    let healthy = Row { severity: "ok", ..warning("topology.alternate", "", "nothing keeps messages from any of 1", "") };
    expect(&flow, dir, &named, &[], healthy).await?;
    let plain = ["--topology", &plain.display().to_string()];
    let differs = error("topology.queue", "exchange orders", "inequivalent arg 'alternate-exchange'", "correct the file");
    expect(&flow, dir, &plain, &[], differs).await?;
    let reader = format!("{}_reader", flow.ground.name());
    let may = Permissions { configure: "^$", write: ".*", read: ".*", tags: "management" };
    flow.ground.broker().create_user(&reader, "hush", flow.ground.vhost(), may).await?;
    let url = flow.ground.amqp_url().replace("guest:guest", &format!("{reader}:hush"));
    let seen =
        error("topology.queue", "exchange orders", "its alternate-exchange is \"rest\" instead of none", "correct the file");
    expect(&flow, dir, &plain, &[("COUNTERSIGN_BROKER__URL", &url)], seen).await?;

    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.queue_declare("beside".into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    channel.queue_bind("beside".into(), "orders".into(), "#".into(), QueueBindOptions::default(), FieldTable::default()).await?;
    expect(&flow, dir, &named, &[], warning("topology.alternate", "exchange orders", "queue beside by \"#\"", "take it away"))
        .await
}
