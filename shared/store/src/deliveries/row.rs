//! A delivery as a row, and back.

use std::collections::HashMap;

use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::id::{MessageId, SubscriptionName, UpstreamName};
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{DeliveryKey, state_word};
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::{Command, Delivery, Facts, ParkReason, Signed};
use countersign_delivery::time::Timestamp;
use sea_orm::{DbBackend, QueryResult, Value};
use uuid::Uuid;

use crate::rows::Rows;
use crate::sql::{Sql, signed, take, unreadable, unsigned};

/// What [`delivery`] reads.
pub(super) const COLUMNS: &str = "d.message_id, d.subscription, d.upstream, d.fingerprint, d.sent_at, d.signed, \
     d.signed_attempt, d.signed_delay_ms, d.signed_reason, d.signed_detail, d.command, d.command_attempt, \
     d.command_lease_until, d.command_unknown, d.command_reason, d.live_until, d.due_at, d.effect_epoch";

/// How many columns [`rows`] makes.
pub(super) const WIDTH: usize = 19;

/// Every word of [`state_word`]. Only these are ever put into a statement's text.
pub(super) const STATE_WORDS: [&str; 8] =
    ["done", "parked", "discarded", "failed", "resending", "processing", "retrying", "resent"];

const NOTHING: i16 = 0;
const PROCESSING: i16 = 1;
const RETRYING: i16 = 2;
const FAILED: i16 = 3;
pub(super) const DONE: i16 = 4;

const NONE: i16 = 0;
const RESENDING: i16 = 1;
const RESENT: i16 = 2;
const PARKED: i16 = 3;
const DISCARDED: i16 = 4;

/// An attempt as one number: the epoch above, the attempt within it below. Any pair comes back as it was.
pub(super) fn packed(attempt: Attempt) -> i64 {
    ((u64::from(attempt.epoch) << 32) | u64::from(attempt.number)).cast_signed()
}

/// The reverse of [`packed`].
pub(super) fn unpacked(number: i64) -> Attempt {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    let bits = number.cast_unsigned();
    Attempt { epoch: half(bits >> 32), number: half(bits) }
}

/// PostgreSQL keeps no NUL in a text; a receipt from anybody's consumer may have one.
pub(crate) fn printable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The subscription's part of a row.
#[derive(Default)]
struct SignedPart {
    code: i16,
    attempt: Option<i64>,
    delay_ms: Option<i64>,
    reason: Option<String>,
    detail: Option<String>,
}

impl SignedPart {
    /// The first attempt's `DONE`, which nearly every row says, is written without its attempt.
    fn written_attempt(&self) -> Option<i64> {
        self.attempt.filter(|attempt| self.code != DONE || *attempt != packed(Attempt::FIRST))
    }
}

impl From<&Signed> for SignedPart {
    fn from(signed_as: &Signed) -> Self {
        let attempt = signed_as.attempt().map(packed);
        match signed_as {
            Signed::Nothing => Self { code: NOTHING, ..Self::default() },
            Signed::Processing { .. } => Self { code: PROCESSING, attempt, ..Self::default() },
            Signed::Retrying { delay_ms, detail, .. } => Self {
                code: RETRYING,
                attempt,
                delay_ms: Some(signed(*delay_ms)),
                detail: (!detail.is_empty()).then(|| printable(detail)),
                ..Self::default()
            },
            Signed::Failed { reason, detail, .. } => Self {
                code: FAILED,
                attempt,
                reason: Some(reason.as_str().to_owned()),
                detail: Some(printable(detail)),
                ..Self::default()
            },
            Signed::Done { .. } => Self { code: DONE, attempt, ..Self::default() },
        }
    }
}

/// Callback's part of a row.
#[derive(Default)]
struct CommandPart {
    code: i16,
    attempt: Option<i64>,
    lease_until: Option<i64>,
    unknown: Option<i64>,
    reason: Option<String>,
}

impl From<&Command> for CommandPart {
    fn from(command: &Command) -> Self {
        let attempt = command.attempt().map(packed);
        match command {
            Command::None => Self { code: NONE, ..Self::default() },
            Command::Resending { lease_until, unknown_answers, .. } => Self {
                code: RESENDING,
                attempt,
                lease_until: Some(lease_until.as_millis()),
                unknown: Some(i64::from(*unknown_answers)),
                ..Self::default()
            },
            Command::Resent { .. } => Self { code: RESENT, attempt, ..Self::default() },
            Command::Parked { reason, .. } => {
                Self { code: PARKED, attempt, reason: Some(reason.as_str().to_owned()), ..Self::default() }
            }
            Command::Discarded { reason, .. } => {
                Self { code: DISCARDED, attempt, reason: Some(reason.as_str().to_owned()), ..Self::default() }
            }
        }
    }
}

/// The keys alone.
pub(super) fn keys<'a>(keys: impl Iterator<Item = &'a DeliveryKey> + Clone) -> Rows {
    Rows::default()
        .uuids("message_id", keys.clone().map(|key| key.message_id.uuid()))
        .texts("subscription", keys.map(|key| key.subscription.as_str().to_owned()))
}

/// Whole deliveries.
pub(super) fn rows(deliveries: &[(&DeliveryKey, &Delivery)]) -> Rows {
    let all = || deliveries.iter().map(|(_, delivery)| *delivery);
    let signed_part: Vec<SignedPart> = all().map(|delivery| (&delivery.signed).into()).collect();
    let command_part: Vec<CommandPart> = all().map(|delivery| (&delivery.command).into()).collect();
    keys(deliveries.iter().map(|(key, _)| *key))
        .texts("upstream", all().map(|delivery| delivery.facts.upstream.as_str().to_owned()))
        .bytes("fingerprint", all().map(|delivery| delivery.facts.fingerprint.as_bytes().to_vec()))
        .ints("sent_at", all().map(|delivery| delivery.facts.sent_at.as_millis()))
        .texts("state", all().map(|delivery| state_word(delivery).to_owned()))
        .ints("signed", signed_part.iter().map(|part| i64::from(part.code)))
        .ints("signed_attempt", signed_part.iter().map(SignedPart::written_attempt))
        .ints("signed_delay_ms", signed_part.iter().map(|part| part.delay_ms))
        .texts("signed_reason", signed_part.iter().map(|part| part.reason.clone()))
        .texts("signed_detail", signed_part.iter().map(|part| part.detail.clone()))
        .ints("command", command_part.iter().map(|part| i64::from(part.code)))
        .ints("command_attempt", command_part.iter().map(|part| part.attempt))
        .ints("command_lease_until", command_part.iter().map(|part| part.lease_until))
        .ints("command_unknown", command_part.iter().map(|part| part.unknown))
        .texts("command_reason", command_part.iter().map(|part| part.reason.clone()))
        .ints("live_until", all().map(|delivery| delivery.live_until.map(Timestamp::as_millis)))
        .ints("due_at", all().map(|delivery| delivery.due_at.map(Timestamp::as_millis)))
        .ints("effect_epoch", all().map(|delivery| (delivery.effect_epoch > 0).then(|| i64::from(delivery.effect_epoch))))
}

/// A row as a delivery, with its key.
pub(super) fn delivery(row: &QueryResult) -> Result<(DeliveryKey, Delivery), PortError> {
    let facts = Facts {
        upstream: UpstreamName::new(&take::<String>(row, "upstream")?).map_err(unreadable)?,
        fingerprint: Fingerprint::new(take(row, "fingerprint")?).map_err(unreadable)?,
        sent_at: Timestamp::from_millis(take(row, "sent_at")?),
    };
    let time = |column| Ok::<_, PortError>(take::<Option<i64>>(row, column)?.map(Timestamp::from_millis));
    let delivery = Delivery {
        facts,
        signed: signed_of(row)?,
        command: command_of(row)?,
        live_until: time("live_until")?,
        due_at: time("due_at")?,
        effect_epoch: u32::try_from(take::<Option<i64>>(row, "effect_epoch")?.unwrap_or_default()).map_err(unreadable)?,
    };
    Ok((key(row)?, delivery))
}

/// Which delivery a row is about.
pub(super) fn key(row: &QueryResult) -> Result<DeliveryKey, PortError> {
    Ok(DeliveryKey {
        message_id: MessageId::new(take::<Uuid>(row, "message_id")?).map_err(unreadable)?,
        subscription: SubscriptionName::new(&take::<String>(row, "subscription")?).map_err(unreadable)?,
    })
}

fn attempt_of(row: &QueryResult, column: &str) -> Result<Attempt, PortError> {
    let number = take::<Option<i64>>(row, column)?;
    number.map(unpacked).ok_or_else(|| unreadable(format!("{column} is missing")))
}

fn signed_of(row: &QueryResult) -> Result<Signed, PortError> {
    let attempt = || attempt_of(row, "signed_attempt");
    Ok(match take::<i16>(row, "signed")? {
        NOTHING => Signed::Nothing,
        PROCESSING => Signed::Processing { attempt: attempt()? },
        RETRYING => {
            let delay_ms = unsigned(take::<Option<i64>>(row, "signed_delay_ms")?.unwrap_or_default());
            let detail = take::<Option<String>>(row, "signed_detail")?.unwrap_or_default();
            Signed::Retrying { attempt: attempt()?, delay_ms, detail }
        }
        FAILED => {
            let word = take::<Option<String>>(row, "signed_reason")?.unwrap_or_default();
            let reason = FailReason::parse(&word).ok_or_else(|| unreadable(format!("{word:?} is no reason to fail")))?;
            let detail = take::<Option<String>>(row, "signed_detail")?.unwrap_or_default();
            Signed::Failed { attempt: attempt()?, reason, detail }
        }
        DONE => {
            let written = take::<Option<i64>>(row, "signed_attempt")?;
            Signed::Done { attempt: written.map_or(Attempt::FIRST, unpacked) }
        }
        other => return Err(unreadable(format!("{other} is no code of what a subscription says"))),
    })
}

fn command_of(row: &QueryResult) -> Result<Command, PortError> {
    let attempt = || attempt_of(row, "command_attempt");
    Ok(match take::<i16>(row, "command")? {
        NONE => Command::None,
        RESENDING => {
            let lease_until = Timestamp::from_millis(take::<Option<i64>>(row, "command_lease_until")?.unwrap_or_default());
            let unknown = take::<Option<i64>>(row, "command_unknown")?.unwrap_or_default();
            Command::Resending { attempt: attempt()?, lease_until, unknown_answers: u32::try_from(unknown).unwrap_or_default() }
        }
        RESENT => Command::Resent { attempt: attempt()? },
        code @ (PARKED | DISCARDED) => {
            let word = take::<Option<String>>(row, "command_reason")?.unwrap_or_default();
            let reason = ParkReason::parse(&word).ok_or_else(|| unreadable(format!("{word:?} is no reason to park")))?;
            let attempt = attempt()?;
            if code == PARKED { Command::Parked { attempt, reason } } else { Command::Discarded { attempt, reason } }
        }
        other => return Err(unreadable(format!("{other} is no code of a command"))),
    })
}

/// The rows of these keys, in their order.
pub(super) async fn look_up(sql: &Sql, wanted: &[&DeliveryKey]) -> Result<Vec<Option<Delivery>>, PortError> {
    let mut found = HashMap::with_capacity(wanted.len());
    for part in wanted.chunks(Rows::limit(sql.backend, 2)) {
        let (text, values) = select(sql.backend, part.iter().copied(), "");
        for row in sql.read("looking deliveries up", &text, values).await? {
            let (key, delivery) = delivery(&row)?;
            found.insert(key, delivery);
        }
    }
    Ok(wanted.iter().map(|key| found.get(*key).cloned()).collect())
}

/// A query for the rows of these keys; `rest` goes to its end.
pub(super) fn select<'a>(
    backend: DbBackend,
    wanted: impl Iterator<Item = &'a DeliveryKey> + Clone,
    rest: &str,
) -> (String, Vec<Value>) {
    let (source, values) = keys(wanted).source(backend);
    let text = format!(
        "SELECT {COLUMNS} FROM {source} CROSS JOIN countersign_delivery AS d \
         WHERE d.message_id = v.message_id AND d.subscription = v.subscription {rest}"
    );
    (text, values)
}

/// The words of a filter as a list of literals; none if no row can have any of them.
pub(super) fn state_words(wanted: &[String]) -> Option<String> {
    let known: Vec<_> = STATE_WORDS.iter().filter(|word| wanted.iter().any(|wanted| wanted == *word)).collect();
    (!known.is_empty()).then(|| known.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_survives_its_packing_and_a_first_epoch_reads_as_its_number() {
        for (epoch, number) in [(0, 1), (1, 3), (u32::MAX, u32::MAX), (1 << 31, 0)] {
            let attempt = Attempt { epoch, number };
            assert_eq!(unpacked(packed(attempt)), attempt);
        }
        assert_eq!(packed(Attempt::FIRST), 1);
    }

    #[test]
    fn only_known_words_reach_a_statement() {
        assert_eq!(state_words(&["parked".into(), "x'); --".into()]).as_deref(), Some("'parked'"));
        assert_eq!(state_words(&["x".into()]), None);
    }
}
