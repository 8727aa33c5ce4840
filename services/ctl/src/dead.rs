//! `countersign dead`: the dead letters that callback has taken in, and what an operator does about them.

mod act;
pub mod select;
mod show;

use clap::{Args, Subcommand};
use countersign_wire::proto::{DeadLetter, ListDeadLettersRequest};
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
    /// Show every letter of one message, with its history.
    Show(show::ShowArgs),
    /// Send letters to their work queue again, in a new epoch; the guard decides as for any message.
    #[command(after_help = ACTS)]
    Redrive(act::RedriveArgs),
    /// Put letters away for good; their deliveries stay parked.
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
    /// Go on where the list before ended: its `next_page_token`.
    #[arg(long, default_value = "")]
    page_token: String,
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
    let request = ListDeadLettersRequest { filter: Some(filter), page_size: args.limit.max(1), page_token: args.page_token };
    let answer = client::dead_letters(target).await?.list_dead_letters(request).await?.into_inner();
    let (letters, next) = (answer.letters, answer.next_page_token);
    let rows = letters.iter().map(letter_as_json).collect::<Vec<_>>();
    output::print(target.output, &json!({"letters": rows, "next_page_token": next}), || {
        let rows = letters.iter().map(|letter| {
            [
                letter.message_id.clone(),
                letter.r#type.clone(),
                letter.reason.clone(),
                shortened(&letter.detail),
                output::attempt(letter.attempt),
                letter.state.clone(),
                output::time(letter.died_at_ms),
            ]
        });
        let table = output::table(["message", "type", "reason", "detail", "attempt", "state", "died at"], rows);
        if next.is_empty() { table } else { format!("{table}\nthere may be more: --page-token {next}") }
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
        "subscription": letter.subscription,
        "state": letter.state,
        "taken_in_at": output::time(letter.taken_in_at_ms),
        "closed_at": output::time(letter.closed_at_ms),
        "closed_by": letter.closed_by,
        "closed_reason": letter.closed_reason,
        "redriven_epoch": letter.redriven_epoch,
    })
}
