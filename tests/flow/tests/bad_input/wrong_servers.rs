//! Servers that are there, but are not what they should be.

use anyhow::Context as _;
use countersign_launcher::{Ground, Postgres, Which, binary};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use sea_orm::{ConnectionTrait as _, Database};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::lone::Lone;

fn broker(url: &str) -> String {
    format!("[broker]\nurl = {url:?}\n")
}

/// All three services, started against this broker; each says `words` and lives on.
async fn all_say(ground: &Ground, amqp: &str, words: &[&str]) -> anyhow::Result<()> {
    for which in Which::ALL {
        let sections = format!("{}[redis]\nurl = {:?}\n", broker(amqp), ground.redis_url());
        let sections = if which == Which::Downstream { sections } else { broker(amqp) };
        let lone = Lone::start(ground.dir(), which, &sections)?;
        // Upstream needs no broker to take sends; that this one will not heal by itself is said of the topology.
        let dependency = if which == Which::Upstream { "topology" } else { "broker" };
        lone.unready(dependency, words).await.with_context(|| which.name())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_broker_password_is_said_by_name() -> anyhow::Result<()> {
    let ground = Ground::new("wrong_password").await?;
    let amqp = ground.amqp_url().replace("guest:guest", "guest:wrong");
    all_say(&ground, &amqp, &["user guest was refused", "broker.url"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_vhost_is_said_by_name() -> anyhow::Result<()> {
    let ground = Ground::new("wrong_vhost").await?;
    let amqp = ground.amqp_url().replace(ground.vhost(), "nowhere");
    all_say(&ground, &amqp, &["\"nowhere\" does not exist", "create it"]).await
}

/// Greets every client as this version of `RabbitMQ` does, and says no more.
async fn greeter(version: &str) -> anyhow::Result<(String, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://{}/%2f", listener.local_addr()?);
    let frame = greeting(version)?;
    let greeting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&frame).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    Ok((url, greeting))
}

/// `connection.start` of AMQP 0-9-1 with product and version.
fn greeting(version: &str) -> anyhow::Result<Vec<u8>> {
    let mut table = Vec::new();
    for (name, value) in [("product", "RabbitMQ"), ("version", version)] {
        table.push(u8::try_from(name.len())?);
        table.extend(name.as_bytes());
        table.push(b'S');
        table.extend(u32::try_from(value.len())?.to_be_bytes());
        table.extend(value.as_bytes());
    }
    let mut payload = vec![0, 10, 0, 10, 0, 9];
    payload.extend(u32::try_from(table.len())?.to_be_bytes());
    payload.extend(table);
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(payload.len())?.to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    Ok(frame)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_broker_is_said_to_be_too_old_and_what_to_use() -> anyhow::Result<()> {
    let ground = Ground::new("old_broker").await?;
    let (amqp, greeting) = greeter("3.8.9").await?;
    all_say(&ground, &amqp, &["RabbitMQ 3.8.9 is too old", "use 3.10 or later"]).await?;
    greeting.abort();
    Ok(())
}

const TOPOLOGY: &str = "version = 1\n[[exchange]]\nname = \"orders\"\nkind = \"topic\"\n\n[[subscription]]\nname = \"stock\"\n\
                        bind = [{ exchange = \"orders\", routing_key = \"#\" }]\n";

fn with_topology(ground: &Ground, which: Which, apply: bool) -> anyhow::Result<String> {
    let file = ground.path("topology.toml");
    std::fs::write(&file, TOPOLOGY)?;
    let file = file.display().to_string();
    let redis = format!("[redis]\nurl = {:?}\n", ground.redis_url());
    let redis = if which == Which::Downstream { redis } else { String::new() };
    Ok(format!("{}{redis}[topology]\nfile = {file:?}\napply = {apply}\n", broker(&ground.amqp_url())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_is_said_and_found_once_it_is_declared() -> anyhow::Result<()> {
    let ground = Ground::new("missing_queue").await?;
    let mut lones = Vec::new();
    for which in Which::ALL {
        let lone = Lone::start(ground.dir(), which, &with_topology(&ground, which, false)?)?;
        lone.unready("topology", &["queue stock does not exist", "countersign topology apply"])
            .await
            .with_context(|| which.name())?;
        lones.push(lone);
    }
    let file = ground.path("topology.toml");
    let applied = Command::new(binary("countersign")?)
        .args(["topology", "apply", "--amqp-url", &ground.amqp_url(), "--file"])
        .arg(file)
        .output()
        .await?;
    anyhow::ensure!(applied.status.success(), "{applied:?}");
    for lone in lones {
        lone.ready().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_left_alone_and_said() -> anyhow::Result<()> {
    let ground = Ground::new("other_queue").await?;
    let connection = Connection::connect(&ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("stock".into(), options, FieldTable::default()).await?;
    for which in Which::ALL {
        let lone = Lone::start(ground.dir(), which, &with_topology(&ground, which, true)?)?;
        let words = ["queue stock", "not as the topology file says", "delete it when it is empty", "inequivalent arg"];
        lone.unready("topology", &words).await.with_context(|| which.name())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwritable_sqlite_file_is_refused_by_path() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    std::fs::write(dir.path().join("file"), "not a directory")?;
    for which in [Which::Upstream, Which::Callback] {
        for path in ["file/own.db", "nowhere/own.db"] {
            let url = format!("sqlite://{}", dir.path().join(path).display());
            let lone = Lone::start(dir.path(), which, &format!("[database]\nurl = {url:?}\n"))?;
            lone.refuses(&[path, "able to write", "[database]"]).await?;
        }
        let url = format!("sqlite://{}", dir.path().join("file").display());
        let lone = Lone::start(dir.path(), which, &format!("[database]\nurl = {url:?}\n"))?;
        lone.refuses(&["not a database", "[database]"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_database_password_is_refused_and_not_told() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let postgres = Postgres::start(dir.path()).await?;
    let admin = Database::connect(postgres.url()).await?;
    // The server reads the rules again: a password for this one user, trust for the administrator.
    for statement in [
        "CREATE ROLE shop LOGIN PASSWORD 'right'",
        "CREATE TABLE rules (line text)",
        "INSERT INTO rules VALUES ('host all shop 127.0.0.1/32 scram-sha-256'), ('host all all 127.0.0.1/32 trust')",
        "DO $$ BEGIN EXECUTE format('COPY rules TO %L', current_setting('hba_file')); END $$",
        "SELECT pg_reload_conf()",
    ] {
        admin.execute_unprepared(statement).await.context(statement)?;
    }
    for which in [Which::Upstream, Which::Callback] {
        let url = postgres.url().replace("countersign@", "shop:hush-hush@");
        let lone = Lone::start(dir.path(), which, &format!("[database]\nurl = {url:?}\n"))?;
        lone.refuses(&["password authentication failed for user \"shop\"", "[database]"]).await?;
        lone.keeps_quiet_about("hush-hush")?;
        let url = postgres.url().replace("/postgres", "/nowhere");
        let lone = Lone::start(dir.path(), which, &format!("[database]\nurl = {url:?}\n"))?;
        lone.refuses(&["database \"nowhere\" does not exist", "[database]"]).await?;
    }
    admin.close().await?;
    Ok(())
}
