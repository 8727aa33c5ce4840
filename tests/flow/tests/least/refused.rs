//! What nobody needs, in the words of the server that refuses it.

use anyhow::{bail, ensure};
use countersign_launcher::Postgres;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

use super::users::{PASSWORD, Users};

/// Something that a user of the broker may want.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Declare(&'static str),
    DeclareExchange(&'static str),
    Delete(&'static str),
    Get(&'static str),
    Purge(&'static str),
    Bind(&'static str, &'static str),
    Publish(&'static str),
}

impl Wish {
    async fn carried_out(self, channel: &Channel) -> lapin::Result<()> {
        let (none, durable) = (FieldTable::default, QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() });
        match self {
            Self::Declare(queue) => channel.queue_declare(queue.into(), durable, none()).await.map(drop),
            Self::DeclareExchange(exchange) => {
                channel.exchange_declare(exchange.into(), ExchangeKind::Topic, ExchangeDeclareOptions::default(), none()).await
            }
            Self::Delete(queue) => channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop),
            Self::Get(queue) => channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop),
            Self::Purge(queue) => channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map(drop),
            Self::Bind(queue, exchange) => {
                channel.queue_bind(queue.into(), exchange.into(), "#".into(), QueueBindOptions::default(), none()).await
            }
            Self::Publish(exchange) => {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
                channel.basic_publish(exchange.into(), "nowhere".into(), options, b"{}", properties).await?.await.map(drop)
            }
        }
    }
}

const WORK: &str = "inventory.orders";

pub async fn by_the_broker(users: &Users) -> anyhow::Result<()> {
    use Wish::{Bind, Declare, DeclareExchange, Delete, Get, Publish, Purge};
    let nobody_may = [Declare("rogue"), DeclareExchange("rogue"), Bind("inventory.orders.dead", "orders")];
    let no_service_may = [Delete(WORK), Delete("countersign.receipts"), Declare(WORK), Bind(WORK, "orders")];
    let rows = [
        (
            "upstream",
            vec![Get(WORK), Get("countersign.receipts"), Purge(WORK), Publish("countersign.events"), Publish("amq.topic")],
        ),
        ("downstream", vec![Get("countersign.receipts"), Get("inventory.orders.dead"), Get("audit"), Publish("orders")]),
        ("callback", vec![Get(WORK), Purge(WORK), Get("audit"), Publish("orders")]),
        (
            "audit",
            vec![Get(WORK), Get("audit.dead"), Get("countersign.checks"), Publish("orders"), Publish("countersign.events")],
        ),
        ("topology", vec![Get("inventory.orders.dead"), Get("countersign.quarantine"), Publish("orders")]),
        ("doctor", vec![Get(WORK), Get("audit"), Publish("orders"), Publish("")]),
    ];
    for (user, wishes) in rows {
        let connection = Connection::connect(&users.amqp_as(user), ConnectionProperties::default()).await?;
        let of_services = no_service_may.iter().filter(|_| user != "topology");
        for wish in nobody_may.iter().chain(of_services).chain(&wishes) {
            let channel = connection.create_channel().await?;
            let Err(error) = wish.carried_out(&channel).await else { bail!("{user} may {wish:?}") };
            ensure!(error.to_string().contains("ACCESS_REFUSED"), "{user} {wish:?}: {error}");
        }
        // The same question, about what it may do.
        if user == "audit" {
            let channel = connection.create_channel().await?;
            Get("audit").carried_out(&channel).await?;
        }
    }
    Ok(())
}

pub async fn by_redis(users: &Users) -> anyhow::Result<()> {
    let redis = &users.redis;
    let rows = [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "GET other:key",
        "SET countersignature 1",
        "CONFIG GET requirepass",
        "ACL LIST",
        "SCAN 0",
        "SHUTDOWN",
    ];
    for line in rows {
        let Err(error) = redis.command_as("downstream", PASSWORD, line).await else { bail!("downstream may {line}") };
        ensure!(format!("{error:#}").contains("NOPERM"), "{line}: {error:#}");
    }
    let nobody = redis.command("PING").await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(nobody.contains("NOAUTH"), "without a name: {nobody}");
    let wrong = redis.command_as("downstream", "guess", "INFO").await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(wrong.contains("WRONGPASS"), "with a wrong password: {wrong}");
    Ok(())
}

pub async fn by_postgres(users: &Users) -> anyhow::Result<()> {
    let rows = [
        ("upstream", "shop", "CREATE TABLE rogue (a int)", "permission denied for schema public"),
        ("upstream", "shop", "CREATE SCHEMA rogue", "permission denied for database"),
        ("upstream", "shop", "DROP TABLE countersign_message", "must be owner of table countersign_message"),
        ("upstream", "shop", "ALTER TABLE countersign_message ADD COLUMN a int", "must be owner of table countersign_message"),
        ("upstream", "shop", "TRUNCATE countersign_message", "permission denied for table countersign_message"),
        ("upstream", "shop", "DELETE FROM countersign_migrations_messages", "permission denied for table"),
        ("upstream", "shop", "SET ROLE upstream_owner", "permission denied to set role"),
        ("upstream", "msg", "SELECT 1", "permission denied for database \"msg\""),
        ("upstream_owner", "msg", "SELECT 1", "permission denied for database \"msg\""),
        ("callback", "shop", "SELECT 1", "permission denied for database \"shop\""),
        ("callback", "msg", "CREATE TABLE rogue (a int)", "permission denied for schema public"),
        ("callback", "msg", "DROP TABLE countersign_audit", "must be owner of table countersign_audit"),
        ("downstream", "stock", "CREATE TABLE rogue (a int)", "permission denied for schema public"),
        ("downstream", "stock", "TRUNCATE countersign_inbox", "permission denied for table countersign_inbox"),
        ("downstream", "shop", "SELECT 1", "permission denied for database \"shop\""),
    ];
    for (user, database, statement, words) in rows {
        let (succeeded, said) = Postgres::psql(&users.postgres.url_as(user, database), &["-c", statement]).await?;
        ensure!(!succeeded && said.contains(words), "{user} in {database}: {statement}: {said}");
    }
    Ok(())
}
