//! Three sets of migrations, one per side, each with its own record; either may live in a database of its own.

mod deliveries;
mod inbox;
mod messages;

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::sea_orm::sea_query::{Alias, DynIden, IntoIden};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager};

use crate::error::{Error, Phase};
use crate::open::Tables;
use crate::sql::{Sql, take};

/// Serialises replicas that migrate at the same time on PostgreSQL; any constant that others are unlikely to use.
const ADVISORY_LOCK: i64 = 0x0063_6f75_6e74_6572;

/// How long a replica waits for another one's migration.
const WAIT: &str = "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '300000', true)";

/// One step: its name, and its statements in the dialect of SQLite or PostgreSQL.
struct Step {
    name: &'static str,
    statements: &'static [&'static str],
}

impl MigrationName for Step {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let backend = connection.get_database_backend();
        for statement in self.statements.iter().filter_map(|statement| meant_for(backend, statement)) {
            connection.execute_unprepared(&in_dialect(backend, statement)).await?;
        }
        Ok(())
    }
}

/// A statement that begins with `[sqlite]` or `[postgres]` is for that database alone.
fn meant_for(backend: DbBackend, statement: &'static str) -> Option<&'static str> {
    let (this, other) = if backend == DbBackend::Sqlite { ("[sqlite]", "[postgres]") } else { ("[postgres]", "[sqlite]") };
    if statement.starts_with(other) { None } else { Some(statement.strip_prefix(this).unwrap_or(statement)) }
}

/// The statements are written once, with `{…}` where the dialects differ.
fn in_dialect(backend: DbBackend, statement: &str) -> String {
    let words = match backend {
        DbBackend::Sqlite => [
            ("{uuid}", "BLOB"),
            ("{bytes}", "BLOB"),
            ("{bigint}", "INTEGER"),
            ("{smallint}", "INTEGER"),
            ("{name}", "TEXT"),
            ("{serial}", "INTEGER PRIMARY KEY AUTOINCREMENT"),
            ("{clustered}", "WITHOUT ROWID"),
        ],
        _ => [
            ("{uuid}", "uuid"),
            ("{bytes}", "bytea"),
            ("{bigint}", "bigint"),
            ("{smallint}", "smallint"),
            ("{name}", "text COLLATE \"C\""),
            ("{serial}", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
            ("{clustered}", ""),
        ],
    };
    words.iter().fold(statement.to_owned(), |text, (word, meaning)| text.replace(word, meaning))
}

struct Messages;

#[async_trait::async_trait]
impl MigratorTrait for Messages {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        boxed(messages::STEPS)
    }

    fn migration_table_name() -> DynIden {
        Alias::new(Tables::Messages.side().record).into_iden()
    }
}

struct Deliveries;

#[async_trait::async_trait]
impl MigratorTrait for Deliveries {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        boxed(deliveries::STEPS)
    }

    fn migration_table_name() -> DynIden {
        Alias::new(Tables::Deliveries.side().record).into_iden()
    }
}

struct Inbox;

#[async_trait::async_trait]
impl MigratorTrait for Inbox {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        boxed(inbox::STEPS)
    }

    fn migration_table_name() -> DynIden {
        Alias::new(Tables::Inbox.side().record).into_iden()
    }
}

fn boxed(steps: &'static [Step]) -> Vec<Box<dyn MigrationTrait>> {
    steps.iter().map(|step| Box::new(Step { ..*step }) as Box<dyn MigrationTrait>).collect()
}

/// One side's tables: what they are called in messages, their record of migrations, and the steps that make them.
struct Side {
    called: &'static str,
    record: &'static str,
    steps: &'static [Step],
}

impl Tables {
    fn side(self) -> Side {
        match self {
            Self::Messages => {
                Side { called: "upstream's tables", record: "countersign_migrations_messages", steps: messages::STEPS }
            }
            Self::Deliveries => {
                Side { called: "MSG DB's tables", record: "countersign_migrations_deliveries", steps: deliveries::STEPS }
            }
            Self::Inbox => Side { called: "downstream's tables", record: "countersign_migrations_inbox", steps: inbox::STEPS },
        }
    }
}

/// Brings tables up to date. Where nothing is pending nothing is written, so a user without the right to create tables gets by.
pub(crate) async fn up(sql: &Sql, tables: Tables) -> Result<(), Error> {
    if pending(sql, tables).await?.is_none() {
        return Ok(());
    }
    match tables {
        Tables::Messages => run::<Messages>(sql, "migrating upstream's tables").await,
        Tables::Deliveries => run::<Deliveries>(sql, "migrating MSG DB's tables").await,
        Tables::Inbox => run::<Inbox>(sql, "migrating downstream's tables").await,
    }
}

/// Holds tables against this program, and changes nothing. Those of a newer program pass: its migrations keep what
/// this one needs to write; what the newer one has written it may not be able to read.
pub(crate) async fn verify(sql: &Sql, tables: Tables) -> Result<(), Error> {
    match pending(sql, tables).await? {
        Some(pending) => Err(Error::Outdated { tables: tables.side().called, pending }),
        None => Ok(()),
    }
}

/// The first step that the record does not have.
async fn pending(sql: &Sql, tables: Tables) -> Result<Option<&'static str>, Error> {
    const READING: &str = "reading the record of migrations";
    let Side { record, steps, .. } = tables.side();
    let there = sql.either(
        "SELECT to_regclass($1) IS NOT NULL AS there",
        "SELECT count(*) > 0 AS there FROM sqlite_master WHERE type = 'table' AND name = $1",
    );
    let there = sql.read(READING, there, vec![record.into()]).await?;
    let mut applied = Vec::new();
    if there.first().map_or(Ok(false), |row| take::<bool>(row, "there"))? {
        let rows = sql.read(READING, &format!("SELECT version FROM {record}"), Vec::new()).await?;
        applied = rows.iter().map(|row| take::<String>(row, "version")).collect::<Result<_, _>>()?;
    }
    Ok(steps.iter().map(|step| step.name).find(|name| !applied.iter().any(|version| version == name)))
}

/// All pending steps in one transaction: half a migration is never seen.
async fn run<M: MigratorTrait>(sql: &Sql, what: &'static str) -> Result<(), Error> {
    let tx = sql.begin(what).await?;
    if sql.backend == DbBackend::Postgres {
        tx.rows(WAIT, Vec::new()).await?;
        tx.rows("SELECT pg_advisory_xact_lock($1)", vec![ADVISORY_LOCK.into()]).await?;
    }
    M::up(tx.inner(), None).await.map_err(|error| crate::error::sort(what, Phase::Open, error))?;
    tx.commit().await?;
    Ok(())
}
