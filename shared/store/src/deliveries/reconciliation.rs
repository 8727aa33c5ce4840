//! MSG DB as reconciliation reads it: deliveries in the order of time, and one row an upstream.
//!
//! Ids begin with the time at which they were minted, so a window is a range of the primary key, and a page of it a short statement.

use async_trait::async_trait;
use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::id::UpstreamName;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::ports::reconciliation::{KnownUpstream, Reconciliation, Signature, Turn};
use countersign_delivery::reconcile::{Certificate, Window};
use countersign_delivery::time::Timestamp;
use sea_orm::{QueryResult, Value};

use crate::database::Database;
use crate::deliveries::row::{DONE, key};
use crate::inbox::least_id;
use crate::rows::Rows;
use crate::sql::{Sql, take, unreadable};

/// Callback's own database, for reconciliation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlReconciliation {
    database: Database,
}

impl SqlReconciliation {
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
impl Reconciliation for SqlReconciliation {
    async fn signatures(&self, minted: Window, after: Option<&DeliveryKey>, limit: u32) -> Result<Vec<Signature>, PortError> {
        let mut values: Vec<Value> = vec![least_id(minted.until).into(), i64::from(limit).into()];
        let from = if let Some(after) = after {
            values.extend([after.message_id.uuid().into(), after.subscription.as_str().into()]);
            "(d.message_id, d.subscription) > ($3, $4)"
        } else {
            values.push(least_id(minted.since).into());
            "d.message_id >= $3"
        };
        let query = format!(
            "SELECT d.message_id, d.subscription, d.upstream, d.fingerprint, d.signed FROM countersign_delivery AS d \
             WHERE {from} AND d.message_id < $1 ORDER BY d.message_id, d.subscription LIMIT $2"
        );
        self.sql().read("reading what was signed for", &query, values).await?.iter().map(signature).collect()
    }

    async fn note_upstreams(&self, upstreams: &[UpstreamName]) -> Result<(), PortError> {
        let mut names: Vec<String> = upstreams.iter().map(|upstream| upstream.as_str().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        let sql = self.sql();
        for part in names.chunks(Rows::limit(sql.backend, 1)) {
            let (source, values) = Rows::default().texts("upstream", part.iter().cloned()).source(sql.backend);
            let insert = format!(
                "INSERT INTO countersign_upstream (upstream, due_at) SELECT v.upstream, 0 FROM {source} WHERE true \
                 ON CONFLICT (upstream) DO NOTHING"
            );
            sql.write("noting upstreams", &insert, values).await?;
        }
        Ok(())
    }

    async fn known_upstreams(&self) -> Result<Vec<KnownUpstream>, PortError> {
        let query = "SELECT u.upstream, u.certified_until, u.certificate FROM countersign_upstream AS u ORDER BY u.upstream";
        self.sql().read("reading the known upstreams", query, Vec::new()).await?.iter().map(known).collect()
    }

    async fn take_turn(&self, upstream: &UpstreamName, lease_ms: u64) -> Result<Option<Turn>, PortError> {
        let now = self.now().await?;
        let lease_until = now.plus_millis(lease_ms);
        let update = "UPDATE countersign_upstream SET due_at = $1 WHERE upstream = $2 AND due_at <= $3 RETURNING certified_until";
        let values = vec![lease_until.as_millis().into(), upstream.as_str().into(), now.as_millis().into()];
        let rows = self.sql().write_returning("taking a turn to reconcile", update, values).await?;
        let turn = |row: &QueryResult| Ok(Turn { upstream: upstream.clone(), lease_until, certified_until: certified(row)? });
        rows.first().map(turn).transpose()
    }

    async fn renew_turn(&self, turn: &Turn, lease_ms: u64) -> Result<Option<Turn>, PortError> {
        let lease_until = self.now().await?.plus_millis(lease_ms);
        let update = "UPDATE countersign_upstream SET due_at = $1 WHERE upstream = $2 AND due_at = $3";
        let (new, old) = (lease_until.as_millis(), turn.lease_until.as_millis());
        let values = vec![new.into(), turn.upstream.as_str().into(), old.into()];
        let renewed = self.sql().write("renewing a turn to reconcile", update, values).await?.rows_affected() == 1;
        Ok(renewed.then(|| Turn { lease_until, ..turn.clone() }))
    }

    async fn end_turn(&self, turn: &Turn, certified_until: Option<Timestamp>, pause_ms: u64) -> Result<bool, PortError> {
        let due_at = self.now().await?.plus_millis(pause_ms);
        let update = "UPDATE countersign_upstream SET due_at = $1, certified_until = $2 WHERE upstream = $3 AND due_at = $4";
        let values = vec![
            due_at.as_millis().into(),
            certified_until.map(Timestamp::as_millis).into(),
            turn.upstream.as_str().into(),
            turn.lease_until.as_millis().into(),
        ];
        Ok(self.sql().write("ending a turn to reconcile", update, values).await?.rows_affected() == 1)
    }

    async fn keep_certificate(&self, upstream: &UpstreamName, certificate: &Certificate) -> Result<(), PortError> {
        let text = serde_json::to_string(certificate).map_err(unreadable)?;
        let upsert = "INSERT INTO countersign_upstream (upstream, due_at, certificate) VALUES ($1, 0, $2) \
                      ON CONFLICT (upstream) DO UPDATE SET certificate = excluded.certificate";
        self.sql().write("keeping a certificate", upsert, vec![upstream.as_str().into(), text.into()]).await?;
        Ok(())
    }
}

fn signature(row: &QueryResult) -> Result<Signature, PortError> {
    Ok(Signature {
        key: key(row)?,
        upstream: UpstreamName::new(&take::<String>(row, "upstream")?).map_err(unreadable)?,
        fingerprint: Fingerprint::new(take(row, "fingerprint")?).map_err(unreadable)?,
        done: take::<i16>(row, "signed")? == DONE,
    })
}

fn known(row: &QueryResult) -> Result<KnownUpstream, PortError> {
    let text = take::<Option<String>>(row, "certificate")?;
    Ok(KnownUpstream {
        upstream: UpstreamName::new(&take::<String>(row, "upstream")?).map_err(unreadable)?,
        certified_until: certified(row)?,
        // One that an older or newer version has written is no certificate to this one.
        certificate: text.and_then(|text| serde_json::from_str(&text).ok()),
    })
}

fn certified(row: &QueryResult) -> Result<Option<Timestamp>, PortError> {
    Ok(take::<Option<i64>>(row, "certified_until")?.map(Timestamp::from_millis))
}
