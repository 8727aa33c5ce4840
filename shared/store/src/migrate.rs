//! Three sets of migrations, one per side, each with its own record; either may live in a database of its own.

mod deliveries;
mod inbox;
mod messages;

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::sea_orm::sea_query::{Alias, DynIden, IntoIden};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager};

use crate::error::{Error, Phase};
use crate::sql::Sql;

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
        Alias::new("countersign_migrations_messages").into_iden()
    }
}

struct Deliveries;

#[async_trait::async_trait]
impl MigratorTrait for Deliveries {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        boxed(deliveries::STEPS)
    }

    fn migration_table_name() -> DynIden {
        Alias::new("countersign_migrations_deliveries").into_iden()
    }
}

struct Inbox;

#[async_trait::async_trait]
impl MigratorTrait for Inbox {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        boxed(inbox::STEPS)
    }

    fn migration_table_name() -> DynIden {
        Alias::new("countersign_migrations_inbox").into_iden()
    }
}

fn boxed(steps: &'static [Step]) -> Vec<Box<dyn MigrationTrait>> {
    steps.iter().map(|step| Box::new(Step { ..*step }) as Box<dyn MigrationTrait>).collect()
}

/// Brings upstream's tables up to date.
pub(crate) async fn messages(sql: &Sql) -> Result<(), Error> {
    up::<Messages>(sql, "migrating upstream's tables").await
}

/// Brings MSG DB's tables up to date.
pub(crate) async fn deliveries(sql: &Sql) -> Result<(), Error> {
    up::<Deliveries>(sql, "migrating MSG DB's tables").await
}

/// Brings downstream's tables up to date.
pub(crate) async fn inbox(sql: &Sql) -> Result<(), Error> {
    up::<Inbox>(sql, "migrating downstream's tables").await
}

/// All pending steps in one transaction: half a migration is never seen.
async fn up<M: MigratorTrait>(sql: &Sql, what: &'static str) -> Result<(), Error> {
    let tx = sql.begin(what).await?;
    if sql.backend == DbBackend::Postgres {
        tx.rows(WAIT, Vec::new()).await?;
        tx.rows("SELECT pg_advisory_xact_lock($1)", vec![ADVISORY_LOCK.into()]).await?;
    }
    M::up(tx.inner(), None).await.map_err(|error| crate::error::sort(what, Phase::Open, error))?;
    tx.commit().await?;
    Ok(())
}
