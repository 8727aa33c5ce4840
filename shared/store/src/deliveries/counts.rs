//! How many deliveries stand where. The index of what is not done answers it; nothing is counted further than the bound.

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Counts, UNSIGNED};
use countersign_delivery::time::Timestamp;
use sea_orm::Value;

use crate::deliveries::row::STATE_WORDS;
use crate::sql::{Sql, take, unsigned};

const WHAT: &str = "counting deliveries";

/// Adds those of one database.
pub(super) async fn add(sql: &Sql, most: u32, sum: &mut Counts) -> Result<(), PortError> {
    let limit: Vec<Value> = vec![i64::from(most).into()];
    let states: Vec<String> = STATE_WORDS.iter().filter(|word| **word != "done").map(|word| count_of(word)).collect();
    for row in sql.read(WHAT, &states.join(" UNION ALL "), limit.clone()).await? {
        let (word, count): (String, u64) = (take(&row, "word")?, unsigned(take(&row, "figure")?));
        if count > 0 {
            let figure = sum.states.entry(word).or_default();
            *figure = (*figure + count).min(most.into());
        }
    }
    let parked = of("parked", "d.command_reason AS word");
    let parked = format!("SELECT w.word, count(*) AS figure FROM ({parked} LIMIT $1) AS w GROUP BY w.word");
    for row in sql.read(WHAT, &parked, limit).await? {
        let word: Option<String> = take(&row, "word")?;
        let figure = sum.parked.entry(word.unwrap_or_default()).or_default();
        *figure = (*figure + unsigned(take(&row, "figure")?)).min(most.into());
    }
    // Ids ascend with time, so the lowest one is of the oldest message.
    let first = |word| format!("SELECT ({} ORDER BY d.message_id LIMIT 1) AS sent_at", of(word, "d.sent_at"));
    let firsts = UNSIGNED.map(first).join(" UNION ALL ");
    let oldest = format!("SELECT min(o.sent_at) AS oldest FROM ({firsts}) AS o");
    for row in sql.read(WHAT, &oldest, Vec::new()).await? {
        let oldest = take::<Option<i64>>(&row, "oldest")?.map(Timestamp::from_millis);
        sum.oldest_unsigned = sum.oldest_unsigned.into_iter().chain(oldest).min();
    }
    Ok(())
}

fn count_of(word: &str) -> String {
    format!("SELECT '{word}' AS word, (SELECT count(*) FROM ({} LIMIT $1) AS w) AS figure", of(word, "1"))
}

/// The second condition says to SQLite that the index has them all.
fn of(word: &str, columns: &str) -> String {
    format!("SELECT {columns} FROM countersign_delivery AS d WHERE d.state = '{word}' AND d.state <> 'done'")
}
