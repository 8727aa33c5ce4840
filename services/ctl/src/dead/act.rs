//! `countersign dead redrive` and `discard`: what becomes of each letter is printed at the end, whatever ends it.

use std::collections::BTreeSet;

use clap::Args;
use countersign_wire::proto::dead_letter_event::Kind;
use countersign_wire::proto::{
    DeadLetterActSummary, DeadLetterEvent, DeadLetterOutcome, DeadLetterResult, DiscardDeadLettersRequest,
    RedriveDeadLettersRequest,
};
use futures::{Stream, StreamExt as _};
use serde_json::json;
use tonic::Status;

use super::select::{self, Place, Selection};
use crate::exit::{Done, Stopped};
use crate::operate::Operator;
use crate::send_file::signals::Signals;
use crate::target::Target;
use crate::{client, output};

#[derive(Args)]
pub struct RedriveArgs {
    /// The subscription whose dead letters these are.
    #[arg(long)]
    subscription: String,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    bounds: Bounds,
    /// Letters a second, 1 to 10000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Why; goes into the audit and the letters' and deliveries' history.
    #[arg(long, value_name = "TEXT", default_value = "")]
    because: String,
}

#[derive(Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    bounds: Bounds,
    /// Why; goes into the audit and to the letters.
    #[arg(long, value_name = "TEXT")]
    because: String,
}

/// What both acts have.
#[derive(Args)]
struct Bounds {
    /// Every open letter of the subscription, or of quarantine.
    #[arg(long)]
    all: bool,
    /// At most so many; 0: as many as one call may, 10000.
    #[arg(long, default_value_t = 0)]
    limit: u32,
    /// Change nothing, and show what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    operator: Operator,
}

/// What an act does, in words.
struct Deed {
    done: &'static str,
    note: &'static str,
}

pub async fn redrive(target: &Target, args: RedriveArgs) -> anyhow::Result<Done> {
    let place = Place { subscription: Some(args.subscription), quarantine: false };
    let (filter, ids) = args.selection.filter(place, select::now())?;
    let Bounds { all, limit, dry_run: validate_only, operator } = args.bounds;
    let (filter, rate, by, reason) = (Some(filter), args.rate, operator.name(), args.because);
    let request = RedriveDeadLettersRequest { filter, all, limit, rate, validate_only, by, reason };
    let signals = Signals::new()?;
    let answers = client::dead_letters(target)
        .await?
        .redrive_dead_letters(request)
        .await?
        .into_inner()
        .map(|answer| answer.map(|answer| answer.event));
    let note = "callback follows them with a check";
    follow(target, answers, signals, ids, validate_only, &Deed { done: "redriven", note }).await
}

pub async fn discard(target: &Target, args: DiscardArgs) -> anyhow::Result<Done> {
    let (filter, ids) = args.selection.filter(args.place, select::now())?;
    let Bounds { all, limit, dry_run: validate_only, operator } = args.bounds;
    let (by, reason) = (operator.name(), args.because);
    let request = DiscardDeadLettersRequest { filter: Some(filter), all, limit, validate_only, by, reason };
    let signals = Signals::new()?;
    let answers = client::dead_letters(target)
        .await?
        .discard_dead_letters(request)
        .await?
        .into_inner()
        .map(|answer| answer.map(|answer| answer.event));
    let note = "their deliveries stay parked at callback";
    follow(target, answers, signals, ids, validate_only, &Deed { done: "discarded", note }).await
}

/// Everything that was told, and how the telling ended.
struct Told {
    results: Vec<DeadLetterResult>,
    ended: Result<DeadLetterActSummary, anyhow::Error>,
}

async fn follow(
    target: &Target,
    answers: impl Stream<Item = Result<Option<DeadLetterEvent>, Status>> + Unpin,
    signals: Signals,
    ids: Vec<String>,
    dry_run: bool,
    deed: &Deed,
) -> anyhow::Result<Done> {
    let Told { results, ended } = listen(answers, signals).await;
    let answered: BTreeSet<&str> = results.iter().map(|result| result.message_id.as_str()).collect();
    let missing: Vec<&String> = ids.iter().filter(|id| !answered.contains(id.as_str())).collect();
    let summary = ended.as_ref().ok().cloned().unwrap_or_default();
    let done = results.iter().filter(|result| is_done(result.outcome())).count();
    let changed =
        results.iter().filter(|result| is_done(result.outcome()) && result.outcome() != DeadLetterOutcome::AlreadyDone).count();
    let json = json!({
        "dry_run": dry_run,
        deed.done: if dry_run { 0 } else { changed },
        "selected": if dry_run { done } else { results.len() },
        "more": summary.more,
        "stopped": summary.stopped,
        "results": results.iter().map(as_json).collect::<Vec<_>>(),
        "not_found": missing,
        "note": deed.note,
    });
    output::print(target.output, &json, || {
        let rows = results.iter().map(|result| [result.message_id.clone(), word(result.outcome()).to_owned(), detail(result)]);
        let mut lines = vec![output::table(["message", "result", "detail"], rows)];
        lines.extend(missing.iter().map(|id| format!("no letter of message {id} was seen")));
        let verb = if dry_run { "would be " } else { "" };
        lines.push(format!("{changed} {verb}{}; {}", deed.done, deed.note));
        if summary.more {
            lines.push("there may be more: the same command goes on from there".to_owned());
        }
        if !summary.stopped.is_empty() {
            lines.push(format!("it ended early: {}", summary.stopped));
        }
        lines.join("\n")
    });
    ended?;
    let all = done == results.len() && missing.is_empty() && summary.stopped.is_empty();
    Ok(if all { Done::All } else { Done::Partly })
}

/// Until the summary, a signal, or the end of the connection.
async fn listen(mut answers: impl Stream<Item = Result<Option<DeadLetterEvent>, Status>> + Unpin, mut signals: Signals) -> Told {
    let mut results = Vec::new();
    let gone = |results: &Vec<DeadLetterResult>| {
        let told = results.len();
        tonic::Status::unavailable(format!(
            "callback went away after it had told of {told} letters; nothing is lost, and the same command goes on from there"
        ))
    };
    let ended = loop {
        let answer = tokio::select! {
            signal = signals.next() => {
                // Dropping the stream tells callback to end.
                let words = format!("stopped after {} letters; the same command goes on from there", results.len());
                break Err(Stopped { signal, words }.into());
            }
            answer = answers.next() => answer,
        };
        match answer.and_then(Result::ok).flatten().and_then(|event| event.kind) {
            Some(Kind::Result(result)) => results.push(result),
            Some(Kind::Summary(summary)) => break Ok(summary),
            None => break Err(gone(&results).into()),
        }
    };
    Told { results, ended }
}

const fn is_done(outcome: DeadLetterOutcome) -> bool {
    matches!(
        outcome,
        DeadLetterOutcome::Redriven | DeadLetterOutcome::Discarded | DeadLetterOutcome::Selected | DeadLetterOutcome::AlreadyDone
    )
}

const fn word(outcome: DeadLetterOutcome) -> &'static str {
    match outcome {
        DeadLetterOutcome::Redriven => "redriven",
        DeadLetterOutcome::Discarded => "discarded",
        DeadLetterOutcome::Refused => "refused",
        DeadLetterOutcome::NotConfirmed => "not confirmed",
        DeadLetterOutcome::Selected => "selected",
        DeadLetterOutcome::AlreadyDone => "already done",
        DeadLetterOutcome::Unspecified => "unspecified",
    }
}

fn detail(result: &DeadLetterResult) -> String {
    match result.epoch {
        0 => result.detail.clone(),
        epoch => format!("epoch {epoch}"),
    }
}

fn as_json(result: &DeadLetterResult) -> serde_json::Value {
    json!({"message_id": result.message_id, "result": word(result.outcome()), "detail": result.detail, "epoch": result.epoch})
}
