//! The audit: a table of MSG DB.

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::audit::{ActResult, Audit, AuditEntry, AuditFilter, NewAct, ToldAct};
use countersign_delivery::time::Timestamp;
use sea_orm::{QueryResult, Value};

use crate::database::Database;
use crate::deliveries::printable;
use crate::sql::{Sql, signed, take, unreadable, unsigned};

/// What operators did, beside the deliveries they did it to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlAudit {
    database: Database,
}

impl SqlAudit {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }

    fn sql(&self) -> &Sql {
        self.database.sql()
    }

    async fn now(&self) -> Result<Timestamp, PortError> {
        self.database.inner.clock.now(self.sql()).await
    }
}

#[async_trait]
impl Audit for SqlAudit {
    async fn begin(&self, act: &NewAct) -> Result<u64, PortError> {
        const BEGIN: &str = "INSERT INTO countersign_audit (at, by, act, target, subscription, reason, result, detail) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, '') RETURNING number";
        let values = vec![
            self.now().await?.as_millis().into(),
            printable(&act.by).into(),
            act.act.as_str().into(),
            printable(&act.target).into(),
            printable(&act.subscription).into(),
            printable(&act.reason).into(),
            ActResult::Begun.as_str().into(),
        ];
        let rows = self.sql().write_returning("beginning an audit row", BEGIN, values).await?;
        let row = rows.first().ok_or_else(|| unreadable("no number came back"))?;
        Ok(unsigned(take(row, "number")?))
    }

    async fn end(&self, number: u64, result: ActResult, detail: &str) -> Result<bool, PortError> {
        const END: &str =
            "UPDATE countersign_audit SET result = $1, detail = $2, ended_at = $3 WHERE number = $4 AND result = $5";
        let values = vec![
            result.as_str().into(),
            printable(detail).into(),
            self.now().await?.as_millis().into(),
            signed(number).into(),
            ActResult::Begun.as_str().into(),
        ];
        Ok(self.sql().write("ending an audit row", END, values).await?.rows_affected() == 1)
    }

    async fn write_told(&self, acts: &[ToldAct]) -> Result<(), PortError> {
        const WRITE: &str = "INSERT INTO countersign_audit \
             (at, ended_at, by, act, target, subscription, reason, result, detail, act_id, service, service_name) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (act_id) DO UPDATE SET \
             ended_at = excluded.ended_at, target = excluded.target, result = excluded.result, detail = excluded.detail \
             WHERE countersign_audit.result = 'begun' AND excluded.result <> 'begun'";
        let tx = self.sql().begin("writing acts that were told").await?;
        // Replicas take the rows of one act in the same order, whatever they were given together.
        for act in sorted(acts) {
            tx.run(WRITE, values_of(act)).await?;
        }
        tx.commit().await
    }

    async fn entries(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>, PortError> {
        let mut conditions = vec!["true".to_owned()];
        let mut values = Vec::<Value>::new();
        let words = [("act", &filter.act), ("by", &filter.by), ("target", &filter.target), ("service", &filter.service)];
        for (column, word) in words.into_iter().filter_map(|(column, word)| Some((column, word.as_ref()?))) {
            values.push(printable(word).into());
            conditions.push(format!("a.{column} = ${}", values.len()));
        }
        if let Some(before) = filter.before {
            values.push(signed(before).into());
            conditions.push(format!("a.number < ${}", values.len()));
        }
        values.push(i64::from(limit).into());
        let query = format!(
            "SELECT a.number, a.at, a.ended_at, a.by, a.act, a.target, a.subscription, a.reason, a.result, a.detail, a.service, a.service_name \
             FROM countersign_audit AS a WHERE {} ORDER BY a.number DESC LIMIT ${}",
            conditions.join(" AND "),
            values.len()
        );
        self.sql().read("reading the audit", &query, values).await?.iter().map(entry).collect()
    }
}

fn sorted(acts: &[ToldAct]) -> Vec<&ToldAct> {
    let mut sorted: Vec<&ToldAct> = acts.iter().collect();
    sorted.sort_by_key(|act| act.id);
    sorted
}

fn values_of(act: &ToldAct) -> Vec<Value> {
    vec![
        act.at.as_millis().into(),
        act.ended_at.map(Timestamp::as_millis).into(),
        printable(&act.by).into(),
        printable(&act.act).into(),
        printable(&act.target).into(),
        printable(&act.subscription).into(),
        printable(&act.reason).into(),
        act.result.as_str().into(),
        printable(&act.detail).into(),
        act.id.into(),
        printable(&act.service).into(),
        printable(&act.service_name).into(),
    ]
}

fn entry(row: &QueryResult) -> Result<AuditEntry, PortError> {
    let word: String = take(row, "result")?;
    Ok(AuditEntry {
        number: unsigned(take(row, "number")?),
        at: Timestamp::from_millis(take(row, "at")?),
        ended_at: take::<Option<i64>>(row, "ended_at")?.map(Timestamp::from_millis),
        by: take(row, "by")?,
        act: take(row, "act")?,
        target: take(row, "target")?,
        subscription: take(row, "subscription")?,
        reason: take(row, "reason")?,
        result: ActResult::parse(&word).ok_or_else(|| unreadable(format!("{word:?} is no result of an act")))?,
        detail: take(row, "detail")?,
        service: take(row, "service")?,
        service_name: take(row, "service_name")?,
    })
}
