//! What the books say afterwards: the sender's ids, the handler's own database, what was lost, and callback's tries. Pure, but for reading.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};
use countersign_wire::proto::Delivery;
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DbBackend, Statement};

use super::operator::Redrives;
use super::thief::Loss;

/// What the handler refused for good.
const REJECTED: i64 = 422;
/// So many failures, one more than there are retry tiers, are the end as well.
const FAILURES: usize = 3;

/// Everything that was written down.
pub struct Books {
    /// Ids that the sender was given.
    pub sent: BTreeSet<String>,
    /// Effects by message, of the handler's own database.
    pub effects: BTreeMap<String, u64>,
    /// Answers other than success, of the same.
    pub refusals: BTreeMap<String, Vec<i64>>,
    /// What the thieves took.
    pub losses: BTreeMap<String, Vec<Loss>>,
    /// What the operator asked for.
    pub redrives: Redrives,
    /// How callback's rows stand.
    pub deliveries: Vec<Delivery>,
}

/// What the handler answered when it did not take an order, by message.
///
/// # Errors
/// When its database cannot be read.
pub async fn refusals(file: &Path) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
    let mut options = ConnectOptions::new(format!("sqlite://{}?mode=ro", file.display()));
    options.max_connections(1).sqlx_logging(false);
    let database = Database::connect(options).await.with_context(|| format!("opening {}", file.display()))?;
    let query = "SELECT idempotency_key, status FROM call WHERE status >= 400";
    let mut refusals = BTreeMap::<String, Vec<i64>>::new();
    for row in database.query_all_raw(Statement::from_string(DbBackend::Sqlite, query)).await? {
        refusals.entry(row.try_get("", "idempotency_key")?).or_default().push(row.try_get("", "status")?);
    }
    database.close().await?;
    Ok(refusals)
}

impl Books {
    /// Asserts that each message was handled once and is signed for, and that every try and every epoch has its reason. Tells the figures.
    ///
    /// # Errors
    /// When a book contradicts another.
    pub fn agree(&self) -> anyhow::Result<String> {
        let handled: BTreeSet<&String> = self.effects.keys().collect();
        ensure!(handled == self.sent.iter().collect(), "{} were sent, {} had an effect", self.sent.len(), handled.len());
        let twice: Vec<_> = self.effects.iter().filter(|(_, times)| **times != 1).collect();
        ensure!(twice.is_empty(), "several effects: {twice:?}");
        ensure!(self.deliveries.len() == self.sent.len(), "{} rows for {} messages", self.deliveries.len(), self.sent.len());
        let mut tries = BTreeMap::<(bool, u32), usize>::new();
        for delivery in &self.deliveries {
            ensure!(delivery.state == "done" && self.sent.contains(&delivery.message_id), "{delivery:?}");
            self.is_explained(delivery)?;
            let attempt = delivery.attempt.unwrap_or_default();
            *tries.entry((attempt.epoch > 0, attempt.number)).or_default() += 1;
        }
        let tries = tries.iter().map(|((redriven, number), count)| {
            format!("{count} at try {number}{}", if *redriven { " after a redrive" } else { "" })
        });
        Ok(format!(
            "{} messages, each handled once and signed for: {}; {} redrives asked for",
            self.sent.len(),
            tries.collect::<Vec<_>>().join(", "),
            self.redrives.values().sum::<u32>()
        ))
    }

    /// No try without a loss, no epoch without a death and a redrive, and no real loss without a further try: a kill spends nothing.
    fn is_explained(&self, delivery: &Delivery) -> anyhow::Result<()> {
        let id = &delivery.message_id;
        let attempt = delivery.attempt.unwrap_or_default();
        let losses = self.losses.get(id).map(Vec::as_slice).unwrap_or_default();
        let refusals = self.refusals.get(id).map(Vec::as_slice).unwrap_or_default();
        let known = || format!("{delivery:?}; lost: {losses:?}; refused: {refusals:?}");
        let of_epoch = losses.iter().filter(|loss| loss.attempt.epoch == attempt.epoch).count();
        ensure!(attempt.number as usize <= 1 + of_epoch, "a kill cost a try: {}", known());
        if attempt.epoch == 0 {
            let lost = losses.iter().any(|loss| loss.is_real && loss.attempt.number == 1);
            ensure!(!lost || attempt.number >= 2, "lost, and not sent again: {}", known());
            return Ok(());
        }
        let died = refusals.contains(&REJECTED) || refusals.len() >= FAILURES;
        let asked = self.redrives.get(id).copied().unwrap_or_default();
        ensure!(died && attempt.epoch <= asked, "epoch {} by {asked} redrives: {}", attempt.epoch, known());
        Ok(())
    }
}
