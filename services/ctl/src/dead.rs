//! `countersign dead`: what lies in the dead-letter queue of a subscription, and what an operator does about it.

mod act;
pub mod select;
mod show;

use clap::{Args, Subcommand};
use countersign_wire::proto::{DeadLetter, DeadLetterScan, ListDeadLettersRequest};
use serde_json::{Value, json};

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

use select::{Place, Selection};

/// Longest detail in a table, characters; JSON has all of it.
const DETAIL_SHOWN: usize = 60;

/// What the help of an act ends with.
const ACTS: &str = "\
Without ids or a filter nothing is selected: say --all. --dry-run shows what would be done.
An act that is stopped or cut off has done what it printed; the same command goes on from there.
Exit codes: see countersign --help";

#[derive(Subcommand)]
pub enum DeadVerb {
    /// List dead letters, without their bodies.
    List(ListArgs),
    /// Show every copy of one message, with its history.
    Show(show::ShowArgs),
    /// Send letters to their work queue again, in a new epoch; the guard decides as for any message.
    #[command(after_help = ACTS)]
    Redrive(act::RedriveArgs),
    /// Remove letters from the queue for good; their deliveries stay parked.
    #[command(after_help = ACTS)]
    Discard(act::DiscardArgs),
}

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    selection: Selection,
    /// At most so many, up to 1000.
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

pub async fn run(target: &Target, verb: DeadVerb) -> anyhow::Result<Done> {
    match verb {
        DeadVerb::List(args) => list(target, args).await,
        DeadVerb::Show(args) => show::run(target, args).await,
        DeadVerb::Redrive(args) => act::redrive(target, args).await,
        DeadVerb::Discard(args) => act::discard(target, args).await,
    }
}

async fn list(target: &Target, args: ListArgs) -> anyhow::Result<Done> {
    let (filter, _) = args.selection.filter(args.place, select::now())?;
    let request = ListDeadLettersRequest { filter: Some(filter), limit: args.limit.max(1) };
    let answer = client::dead_letters(target).await?.list_dead_letters(request).await?.into_inner();
    let (letters, scan) = (answer.letters, answer.scan.unwrap_or_default());
    let rows = letters.iter().map(letter_as_json).collect::<Vec<_>>();
    output::print(target.output, &json!({"letters": rows, "scan": scan_as_json(&scan)}), || {
        let rows = letters.iter().map(|letter| {
            [
                letter.message_id.clone(),
                letter.r#type.clone(),
                letter.reason.clone(),
                shortened(&letter.detail),
                output::attempt(letter.attempt),
                letter.history.len().to_string(),
                output::time(letter.died_at_ms),
            ]
        });
        let table = output::table(["message", "type", "reason", "detail", "attempt", "history", "died at"], rows);
        format!("{table}\n{}", scan_in_words(&scan, letters.len()))
    });
    Ok(Done::All)
}

fn shortened(detail: &str) -> String {
    match detail.char_indices().nth(DETAIL_SHOWN) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail.to_owned(),
    }
}

fn letter_as_json(letter: &DeadLetter) -> Value {
    let attempt = letter.attempt.unwrap_or_default();
    let history = letter.history.iter().map(|line| {
        let attempt = line.attempt.unwrap_or_default();
        json!({
            "at": output::time(line.at_ms), "epoch": attempt.epoch, "attempt": attempt.number, "what": line.what,
            "delay_ms": line.delay_ms, "reason": line.reason, "by": line.by, "detail": line.detail,
        })
    });
    json!({
        "message_id": letter.message_id,
        "upstream": letter.upstream,
        "type": letter.r#type,
        "content_type": letter.content_type,
        "fingerprint": letter.fingerprint,
        "epoch": attempt.epoch,
        "attempt": attempt.number,
        "retries": letter.retries,
        "sent_at": output::time(letter.sent_at_ms),
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "headers": letter.headers,
        "reason": letter.reason,
        "detail": letter.detail,
        "died_at": output::time(letter.died_at_ms),
        "died_by": letter.died_by,
        "history": history.collect::<Vec<_>>(),
        "history_left_out": letter.history_left_out,
        "body_bytes": letter.body_bytes,
    })
}

fn scan_as_json(scan: &DeadLetterScan) -> Value {
    json!({"ready": scan.ready, "seen": scan.seen, "matched": scan.matched, "partial": scan.partial})
}

/// How far a call has seen; `shown` of what it selected is in the answer.
fn scan_in_words(scan: &DeadLetterScan, shown: usize) -> String {
    let seen = format!("{} of {} letters were looked at, {} selected", scan.seen, scan.ready, scan.matched);
    let all_shown = usize::try_from(scan.matched).is_ok_and(|matched| matched <= shown);
    let shown = if all_shown { String::new() } else { format!(", {shown} shown: raise --limit") };
    let partial = if scan.partial.is_empty() { String::new() } else { format!("\nthis is not all: {}", scan.partial) };
    format!("{seen}{shown}{partial}")
}
