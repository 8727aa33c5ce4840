//! Dead letters in MSG DB: one row a copy, joined with its delivery to know which are settled.

mod query;

use async_trait::async_trait;
use bytes::Bytes;
use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::id::{MessageId, SubscriptionName};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::dead_letters::{Closing, DeadLetters, Filter, Letter, NewLetter, State};
use countersign_delivery::time::Timestamp;
use sea_orm::QueryResult;
use uuid::Uuid;

use crate::database::Database;
use crate::dead_letters::query::{DISCARDED, Query, REDRIVEN, SETTLED, WAITING};
use crate::inbox::least_id;
use crate::rows::{Rows, place};
use crate::sql::{Sql, signed, take, unreadable, unsigned};

const LISTING: &str = "listing dead letters";
/// Columns of an insert.
const WIDTH: usize = 14;

/// MSG DB's dead letters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlDeadLetters {
    database: Database,
}

impl SqlDeadLetters {
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
impl DeadLetters for SqlDeadLetters {
    async fn take_in(&self, letters: &[NewLetter]) -> Result<u64, PortError> {
        let (sql, now) = (self.sql(), self.now().await?);
        let mut new = 0;
        for part in letters.chunks(Rows::limit(sql.backend, WIDTH)) {
            let rows = rows(part, now);
            let names = rows.names();
            let (source, values) = rows.source(sql.backend);
            let text = format!(
                "INSERT INTO countersign_dead_letter ({names}) SELECT {names} FROM {source} WHERE true \
                 ON CONFLICT (identity) DO NOTHING"
            );
            new += sql.write("taking in dead letters", &text, values).await?.rows_affected();
        }
        Ok(new)
    }

    async fn waiting(&self, most: u64) -> Result<u64, PortError> {
        let query = format!(
            "SELECT count(*) AS letters FROM (SELECT 1 FROM countersign_dead_letter AS l WHERE l.state = {WAITING} LIMIT $1) AS w"
        );
        let rows = self.sql().read("counting dead letters", &query, vec![signed(most).into()]).await?;
        rows.first().map_or(Ok(0), |row| Ok(unsigned(take(row, "letters")?)))
    }

    async fn latest(&self) -> Result<u64, PortError> {
        let query = "SELECT max(l.number) AS latest FROM countersign_dead_letter AS l";
        let rows = self.sql().read(LISTING, query, Vec::new()).await?;
        rows.first().map_or(Ok(0), |row| Ok(unsigned(take::<Option<i64>>(row, "latest")?.unwrap_or_default())))
    }

    async fn list(&self, filter: &Filter, after: u64, limit: u32) -> Result<Vec<Letter>, PortError> {
        let (text, values) = Query::of(filter).page(after, limit);
        self.sql().read(LISTING, &text, values).await?.iter().map(letter).collect()
    }

    async fn bodies(&self, numbers: &[u64]) -> Result<Vec<Option<Bytes>>, PortError> {
        let sql = self.sql();
        let mut found = vec![None; numbers.len()];
        let wanted: Vec<(usize, u64)> = numbers.iter().copied().enumerate().collect();
        for part in wanted.chunks(Rows::limit(sql.backend, 2)) {
            let rows = Rows::default()
                .ints("place", part.iter().map(|(at, _)| signed(*at as u64)))
                .ints("of_number", part.iter().map(|(_, number)| signed(*number)));
            let (source, values) = rows.source(sql.backend);
            let query =
                format!("SELECT v.place, l.body FROM {source} JOIN countersign_dead_letter AS l ON l.number = v.of_number");
            for row in sql.read("reading bodies of dead letters", &query, values).await? {
                let at = usize::try_from(take::<i64>(&row, "place")?).map_err(unreadable)?;
                let body = Bytes::from(take::<Vec<u8>>(&row, "body")?);
                *found.get_mut(at).ok_or_else(|| unreadable("a place that was not asked for"))? = Some(body);
            }
        }
        Ok(found)
    }

    async fn close(&self, closed: &[(u64, Closing)]) -> Result<(), PortError> {
        let (sql, now) = (self.sql(), self.now().await?);
        for part in closed.chunks(Rows::limit(sql.backend, 5)) {
            let all = || part.iter().map(|(_, closing)| closing);
            let state = |closing: &Closing| i64::from(if closing.epoch.is_some() { REDRIVEN } else { DISCARDED });
            let rows = Rows::default()
                .ints("of_number", part.iter().map(|(number, _)| signed(*number)))
                .ints("to_state", all().map(state))
                .ints("to_epoch", all().map(|closing| closing.epoch.map(i64::from)))
                .texts("to_by", all().map(|closing| tidy(&closing.by)))
                .texts("to_reason", all().map(|closing| tidy(&closing.reason)));
            let (source, mut values) = rows.source(sql.backend);
            let now = place(&mut values, now.as_millis());
            let text = format!(
                "UPDATE countersign_dead_letter AS l SET state = v.to_state, epoch = v.to_epoch, closed_by = v.to_by, \
                 closed_reason = v.to_reason, closed_at = {now} FROM {source} WHERE l.number = v.of_number AND l.state <> {DISCARDED}"
            );
            sql.write("closing dead letters", &text, values).await?;
        }
        Ok(())
    }

    async fn delete_settled(&self, before: Timestamp, limit: u32) -> Result<u64, PortError> {
        const DELETING: &str = "deleting dead letters";
        let mut deleted = 0;
        let closed = "SELECT l.number FROM countersign_dead_letter AS l WHERE l.closed_at < $1 ORDER BY l.closed_at LIMIT $2";
        let settled = format!("SELECT l.number FROM {SETTLED} AND l.message_uuid < $1 ORDER BY l.number LIMIT $2");
        for (page, oldest) in [(closed, before.as_millis().into()), (&settled, least_id(before).into())] {
            let left = u64::from(limit).saturating_sub(deleted);
            let text = format!("DELETE FROM countersign_dead_letter WHERE number IN ({page})");
            let values = vec![oldest, signed(left).into()];
            deleted += self.sql().write(DELETING, &text, values).await?.rows_affected();
        }
        Ok(deleted)
    }
}

/// New letters as rows.
fn rows(letters: &[NewLetter], now: Timestamp) -> Rows {
    let labels = || letters.iter().map(|letter| &letter.label);
    Rows::default()
        .uuids("message_uuid", labels().map(|label| uuid_of(&label.message_id)))
        .ints("taken_in_at", letters.iter().map(|_| now.as_millis()))
        .ints("died_at", labels().map(|label| label.died_at.map(Timestamp::as_millis)))
        .ints("body_bytes", letters.iter().map(|letter| signed(letter.body.len() as u64)))
        .ints("state", letters.iter().map(|_| i64::from(WAITING)))
        .bytes("identity", letters.iter().map(|letter| letter.identity.as_bytes().to_vec()))
        .texts(
            "subscription",
            letters.iter().map(|letter| letter.subscription.as_ref().map_or("", |name| name.as_str()).to_owned()),
        )
        .texts("message_id", labels().map(|label| tidy(&label.message_id)))
        .texts("upstream", labels().map(|label| tidy(&label.upstream)))
        .texts("kind", labels().map(|label| tidy(&label.kind)))
        .bytes("fingerprint", labels().map(|label| fingerprint_of(&label.fingerprint)))
        .texts("reason", labels().map(|label| tidy(&label.reason)))
        .texts("packed", letters.iter().map(|letter| letter.packed.clone()))
        .bytes("body", letters.iter().map(|letter| letter.body.to_vec()))
}

/// A text as it is found and shown: databases refuse some control characters, and people cannot read them.
fn tidy(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Of what names no message: all zeros, which no delivery has.
fn uuid_of(message_id: &str) -> Uuid {
    MessageId::parse(message_id).map_or(Uuid::nil(), MessageId::uuid)
}

/// Of what has none: nothing, which no delivery has.
fn fingerprint_of(hex: &str) -> Vec<u8> {
    Fingerprint::from_hex(hex).map(|fingerprint| fingerprint.as_bytes().to_vec()).unwrap_or_default()
}

fn letter(row: &QueryResult) -> Result<Letter, PortError> {
    let subscription: String = take(row, "subscription")?;
    let subscription =
        (!subscription.is_empty()).then(|| SubscriptionName::new(&subscription)).transpose().map_err(unreadable)?;
    Ok(Letter {
        number: unsigned(take(row, "number")?),
        subscription,
        packed: take(row, "packed")?,
        body_bytes: unsigned(take(row, "body_bytes")?),
        taken_in_at: Timestamp::from_millis(take(row, "taken_in_at")?),
        state: state(row)?,
    })
}

fn state(row: &QueryResult) -> Result<State, PortError> {
    let code: i16 = take(row, "state")?;
    if code == WAITING {
        return Ok(if take::<i32>(row, "settled")? == 1 { State::Settled } else { State::Open });
    }
    let text = |column| Ok::<_, PortError>(take::<Option<String>>(row, column)?.unwrap_or_default());
    let epoch = take::<Option<i64>>(row, "epoch")?.map(u32::try_from).transpose().map_err(unreadable)?;
    let at = Timestamp::from_millis(take::<Option<i64>>(row, "closed_at")?.unwrap_or_default());
    Ok(State::Closed { closing: Closing { by: text("closed_by")?, reason: text("closed_reason")?, epoch }, at })
}
