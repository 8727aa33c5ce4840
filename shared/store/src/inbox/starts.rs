//! Starts of what comes again: counted, closed, forgotten.
//!
//! The rules are those of the record in Redis, without its leases: a start is open until it is given back, or the message is done. A
//! message's first start is not written down, so that one that never comes again costs no write; poison comes again, and is counted from then on.
//!
//! Each effect of a message has its own starts. What another effect knows of the id matters only if its fingerprint is another one.

use std::collections::{HashMap, HashSet};

use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Held};
use sea_orm::QueryResult;
use uuid::Uuid;

use crate::clock::now_within;
use crate::inbox::row::{self, Placed, fingerprint, of_row, rows, slot};
use crate::rows::Rows;
use crate::sql::{Sql, take, unsigned};

/// How many columns a batch of claims has at most.
const WIDTH: usize = row::WIDTH + 2;

/// The look-up around its keys. PostgreSQL: a plain join over a table that is still small would be planned as a look at all of it for
/// each key, and so kept while the table grows; this one goes by key however small it is.
const ON_POSTGRES: (&str, &str) = (
    "SELECT v.place, i.fingerprint AS done, s.fingerprint AS started, s.epoch, s.starts, s.open_starts, s.unfinished_before, \
     s.last_token FROM ",
    " LEFT JOIN LATERAL (SELECT * FROM countersign_inbox AS i \
     WHERE i.subscription = v.of_subscription AND i.message_id = v.of_message_id \
     AND (i.effect_epoch = v.of_effect_epoch OR i.fingerprint <> v.of_fingerprint) LIMIT 1) AS i ON true \
     LEFT JOIN LATERAL (SELECT * FROM countersign_inbox_start AS s \
     WHERE s.subscription = v.of_subscription AND s.message_id = v.of_message_id \
     AND (s.effect_epoch = v.of_effect_epoch OR s.fingerprint <> v.of_fingerprint AND (s.open_starts > 0 OR s.unfinished_before <> 0)) \
     LIMIT 1) AS s ON true \
     WHERE i.done_at IS NOT NULL OR s.started_at IS NOT NULL",
);
const ON_SQLITE: (&str, &str) = (
    ON_POSTGRES.0,
    " LEFT JOIN countersign_inbox AS i ON i.subscription = v.of_subscription AND i.message_id = v.of_message_id \
     AND (i.effect_epoch = v.of_effect_epoch OR i.fingerprint <> v.of_fingerprint) \
     LEFT JOIN countersign_inbox_start AS s ON s.subscription = v.of_subscription AND s.message_id = v.of_message_id \
     AND (s.effect_epoch = v.of_effect_epoch OR s.fingerprint <> v.of_fingerprint AND (s.open_starts > 0 OR s.unfinished_before <> 0)) \
     WHERE i.done_at IS NOT NULL OR s.started_at IS NOT NULL",
);

/// On PostgreSQL, and for the same reason, what changes the batch's own rows of starts names their keys once more; see [`rows`] for the places.
const THESE: &str = "s.subscription = ANY($2::text[]) AND s.message_id = ANY($3::uuid[]) AND";

/// The effect of a row, as a number of eight bytes on either database.
const OF_EFFECT: &str = "CAST(effect_epoch AS bigint) AS of_effect";

/// What is on record of one effect of a message, or, if there is such, of another one under another fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// As what it is done.
    done: Option<Fingerprint>,
    start: Option<Start>,
}

/// The starts of one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    fingerprint: Fingerprint,
    epoch: u32,
    starts: u32,
    open: u32,
    /// A start of an earlier epoch was left unfinished.
    before: bool,
    last_token: Option<String>,
}

/// The answer to a claim as the record stands; a start that this claim makes is counted in, but not written down.
fn answer(known: &Known, claim: &Claim) -> Claimed {
    let Claim { key: ClaimKey { fingerprint, .. }, token, epoch, .. } = claim;
    if let Some(done) = &known.done {
        return if done == fingerprint { Claimed::Done } else { Claimed::Conflict };
    }
    let Some(start) = &known.start else { return Claimed::Fresh { starts: 1 } };
    if start.fingerprint != *fingerprint {
        let unexplained = start.open > 0 || start.before;
        return if unexplained { Claimed::Conflict } else { Claimed::Fresh { starts: 1 } };
    }
    if *epoch > start.epoch {
        return owned(1, 1, start.before || start.open > 0);
    }
    let own = u32::from(start.last_token.as_ref() != Some(token));
    owned(start.starts.saturating_add(own), start.open.saturating_add(own), start.before)
}

/// Ours, with so many starts, so many of them open.
const fn owned(starts: u32, open: u32, before: bool) -> Claimed {
    if open <= 1 && !before {
        Claimed::Fresh { starts }
    } else {
        Claimed::Interrupted { starts, crashes: open.saturating_sub(1) }
    }
}

/// See [`countersign_delivery::ports::claims::Claims::claim`].
pub(super) async fn claim(sql: &Sql, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
    let known = look_up(sql, claims).await?;
    let mut answers: Vec<Claimed> = known.iter().zip(claims).map(|(known, claim)| answer(known, claim)).collect();
    let counted = |place: usize| claims[place].again && !matches!(answers[place], Claimed::Done | Claimed::Conflict);
    let counted: Vec<usize> = (0..claims.len()).filter(|place| counted(*place)).collect();
    for round in rounds(claims, counted) {
        for part in round.chunks(Rows::limit(sql.backend, WIDTH)) {
            count(sql, claims, part, &mut answers).await?;
        }
    }
    Ok(answers)
}

/// What is on record of each, by one query.
async fn look_up(sql: &Sql, claims: &[Claim]) -> Result<Vec<Known>, PortError> {
    let mut known = vec![Known::default(); claims.len()];
    let keys: Vec<Placed<'_>> = claims.iter().map(|claim| &claim.key).enumerate().collect();
    for part in keys.chunks(Rows::limit(sql.backend, row::WIDTH)) {
        let (source, values) = rows(part).source(sql.backend);
        let query = format!("{}{source}{}", sql.either(ON_POSTGRES.0, ON_SQLITE.0), sql.either(ON_POSTGRES.1, ON_SQLITE.1));
        for row in sql.read("looking claims up", &query, values).await? {
            let start = match fingerprint(&row, "started")? {
                None => None,
                Some(fingerprint) => Some(Start {
                    fingerprint,
                    epoch: number(take(&row, "epoch")?),
                    starts: number(take(&row, "starts")?),
                    open: number(take(&row, "open_starts")?),
                    before: take::<i64>(&row, "unfinished_before")? != 0,
                    last_token: take(&row, "last_token")?,
                }),
            };
            *slot(&row, &mut known)? = Known { done: fingerprint(&row, "done")?, start };
        }
    }
    Ok(known)
}

fn number(value: i64) -> u32 {
    u32::try_from(unsigned(value)).unwrap_or(u32::MAX)
}

/// Places of a batch, in rounds that name no effect twice: one statement changes a row once.
fn rounds(claims: &[Claim], mut left: Vec<usize>) -> Vec<Vec<usize>> {
    let mut rounds = Vec::new();
    while !left.is_empty() {
        let mut named = HashSet::with_capacity(left.len());
        let mut fits = |place: &usize| named.insert(of_row(&claims[*place].key));
        let (mut round, later): (Vec<_>, Vec<_>) = left.into_iter().partition(&mut fits);
        // The order of the primary key, in which every statement locks.
        round.sort_unstable_by_key(|place| of_row(&claims[*place].key));
        rounds.push(round);
        left = later;
    }
    rounds
}

/// The primary key of a row.
fn key(row: &QueryResult) -> Result<(String, Uuid, u32), PortError> {
    Ok((take(row, "subscription")?, take(row, "message_id")?, number(take(row, "of_effect")?)))
}

/// The primary key of a claim's row.
fn key_of(claim: &Claim) -> (String, Uuid, u32) {
    (claim.key.subscription.as_str().to_owned(), claim.key.message_id.uuid(), claim.key.effect_epoch)
}

/// These claims as rows; their tokens too.
fn claimed(claims: &[Claim], places: &[usize]) -> Rows {
    let keys: Vec<Placed<'_>> = places.iter().map(|place| (*place, &claims[*place].key)).collect();
    rows(&keys).texts("token", places.iter().map(|place| claims[*place].token.clone()))
}

/// Counts a start for each of `places`. What has become another's meanwhile is a conflict.
async fn count(sql: &Sql, claims: &[Claim], places: &[usize], answers: &mut [Claimed]) -> Result<(), PortError> {
    const IMPOSTOR: &str = "s.fingerprint <> excluded.fingerprint";
    const LATER: &str = "excluded.epoch > s.epoch";
    let epochs = places.iter().map(|place| i64::from(claims[*place].epoch));
    let (source, values) = claimed(claims, places).ints("of_epoch", epochs).source(sql.backend);
    let now = now_within(sql.backend);
    // The same token counts once: its answer was lost.
    let one_more = |counter: &str| {
        format!(
            "CASE WHEN {IMPOSTOR} OR {LATER} THEN 1 WHEN s.last_token = excluded.last_token THEN s.{counter} ELSE s.{counter} + 1 END"
        )
    };
    let (starts, open) = (one_more("starts"), one_more("open_starts"));
    let statement = format!(
        "INSERT INTO countersign_inbox_start AS s \
         (message_id, started_at, epoch, starts, open_starts, unfinished_before, subscription, fingerprint, last_token, effect_epoch) \
         SELECT v.of_message_id, {now}, v.of_epoch, 1, 1, 0, v.of_subscription, v.of_fingerprint, v.token, v.of_effect_epoch \
         FROM {source} WHERE true ON CONFLICT (subscription, message_id, effect_epoch) DO UPDATE SET starts = {starts}, open_starts = {open}, \
         unfinished_before = CASE WHEN {IMPOSTOR} THEN 0 WHEN {LATER} AND s.open_starts > 0 THEN 1 ELSE s.unfinished_before END, \
         epoch = CASE WHEN {IMPOSTOR} OR {LATER} THEN excluded.epoch ELSE s.epoch END, \
         released_token = CASE WHEN NOT ({IMPOSTOR}) AND s.released_token <> excluded.last_token THEN s.released_token END, \
         fingerprint = excluded.fingerprint, last_token = excluded.last_token, started_at = excluded.started_at \
         WHERE NOT ({IMPOSTOR}) OR (s.open_starts = 0 AND s.unfinished_before = 0) \
         RETURNING subscription, message_id, {OF_EFFECT}, starts, open_starts, unfinished_before"
    );
    let mut written = HashMap::with_capacity(places.len());
    for row in sql.write_returning("counting starts", &statement, values).await? {
        let counted = owned(
            number(take(&row, "starts")?),
            number(take(&row, "open_starts")?),
            take::<i64>(&row, "unfinished_before")? != 0,
        );
        written.insert(key(&row)?, counted);
    }
    for place in places {
        answers[*place] = written.remove(&key_of(&claims[*place])).unwrap_or(Claimed::Conflict);
    }
    Ok(())
}

/// Forgets the starts of what is done.
pub(super) async fn complete(sql: &Sql, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
    let counted = (0..claims.len()).filter(|place| claims[*place].again).collect();
    for round in rounds(claims, counted) {
        for part in round.chunks(Rows::limit(sql.backend, WIDTH)) {
            let (these, (source, values)) = (sql.either(THESE, ""), claimed(claims, part).source(sql.backend));
            // Counted, and not asked for by EXISTS, which PostgreSQL may turn into a join over all that is done.
            let statement = format!(
                "DELETE FROM countersign_inbox_start AS s WHERE {these} (s.subscription, s.message_id, s.effect_epoch, s.fingerprint) IN \
                 (SELECT v.of_subscription, v.of_message_id, v.of_effect_epoch, v.of_fingerprint FROM {source}) \
                 AND (SELECT count(*) FROM countersign_inbox AS i WHERE i.subscription = s.subscription \
                      AND i.message_id = s.message_id AND i.effect_epoch = s.effect_epoch AND i.fingerprint = s.fingerprint) > 0"
            );
            sql.write("closing starts of what is done", &statement, values).await?;
        }
    }
    Ok(vec![Held::Ours; claims.len()])
}

/// Closes the starts that have these tokens. A claim without a start on record has nothing to give back.
pub(super) async fn release(sql: &Sql, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
    let mut answers: Vec<Held> = claims.iter().map(|claim| if claim.again { Held::Lost } else { Held::Ours }).collect();
    let counted = (0..claims.len()).filter(|place| claims[*place].again).collect();
    for round in rounds(claims, counted) {
        for part in round.chunks(Rows::limit(sql.backend, WIDTH)) {
            close(sql, claims, part, &mut answers).await?;
        }
    }
    Ok(answers)
}

async fn close(sql: &Sql, claims: &[Claim], places: &[usize], answers: &mut [Held]) -> Result<(), PortError> {
    let (these, (source, values)) = (sql.either(THESE, ""), claimed(claims, places).source(sql.backend));
    // Closed before by the same token: its answer was lost.
    let statement = format!(
        "UPDATE countersign_inbox_start AS s SET released_token = v.token, \
         open_starts = CASE WHEN s.last_token = v.token AND s.open_starts > 0 THEN s.open_starts - 1 ELSE s.open_starts END, \
         last_token = CASE WHEN s.last_token = v.token THEN NULL ELSE s.last_token END FROM {source} \
         WHERE {these} s.subscription = v.of_subscription AND s.message_id = v.of_message_id AND s.fingerprint = v.of_fingerprint \
         AND s.effect_epoch = v.of_effect_epoch AND (s.last_token = v.token OR s.released_token = v.token) \
         RETURNING subscription, message_id, {OF_EFFECT}"
    );
    let mut closed = HashSet::with_capacity(places.len());
    for row in sql.write_returning("giving claims back", &statement, values).await? {
        closed.insert(key(&row)?);
    }
    for place in places.iter().filter(|place| closed.contains(&key_of(&claims[**place]))) {
        answers[*place] = Held::Ours;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_testkit::build::{message_id, subscription};

    use super::*;

    fn fingerprint(body: &str) -> Fingerprint {
        Fingerprint::of("order.created", "text/plain", body.as_bytes())
    }

    fn a_claim(token: &str, epoch: u32) -> Claim {
        let key = ClaimKey {
            subscription: subscription("inventory"),
            message_id: message_id(1),
            fingerprint: fingerprint("genuine"),
            effect_epoch: 0,
        };
        Claim { key, token: token.to_owned(), epoch, again: true }
    }

    /// Epoch 1; the last start is "last"'s.
    fn started(body: &str, starts: u32, open: u32, before: bool) -> Known {
        let last_token = Some("last".to_owned());
        Known { done: None, start: Some(Start { fingerprint: fingerprint(body), epoch: 1, starts, open, before, last_token }) }
    }

    #[test]
    fn the_record_answers_by_what_was_left_unfinished() {
        let done = |body: &str| Known { done: Some(fingerprint(body)), ..started("impostor", 2, 1, false) };
        let fresh = |starts| Claimed::Fresh { starts };
        let interrupted = |starts, crashes| Claimed::Interrupted { starts, crashes };
        let table = [
            (Known::default(), "new", 1, fresh(1)),
            (done("genuine"), "new", 9, Claimed::Done),
            (done("impostor"), "new", 9, Claimed::Conflict),
            (started("impostor", 1, 1, false), "new", 2, Claimed::Conflict),
            (started("impostor", 1, 0, true), "new", 2, Claimed::Conflict),
            (started("impostor", 3, 0, false), "new", 1, fresh(1)),
            (started("genuine", 2, 0, false), "new", 1, fresh(3)),
            (started("genuine", 2, 1, false), "new", 1, interrupted(3, 1)),
            (started("genuine", 2, 1, false), "last", 1, fresh(2)),
            (started("genuine", 2, 2, false), "last", 1, interrupted(2, 1)),
            (started("genuine", 2, 1, false), "new", 0, interrupted(3, 1)),
            (started("genuine", 2, 0, true), "new", 1, interrupted(3, 0)),
            (started("genuine", 2, 0, false), "new", 2, fresh(1)),
            (started("genuine", 2, 1, false), "last", 2, interrupted(1, 0)),
        ];
        for (known, token, epoch, expected) in table {
            assert_eq!(answer(&known, &a_claim(token, epoch)), expected, "{known:?}, claimed by {token} in epoch {epoch}");
        }
    }

    #[test]
    fn a_message_that_is_named_again_goes_into_a_later_round() {
        let claims: Vec<Claim> = ["a", "b", "c"].map(|token| a_claim(token, 0)).into();
        assert_eq!(rounds(&claims, vec![0, 1, 2]), [vec![0], vec![1], vec![2]]);
        assert!(rounds(&claims, Vec::new()).is_empty());
    }
}
