//! `countersign outbox`: rows of mode `outbox` that the broker refused too often, and their release.

use clap::{Args, Subcommand};
use countersign_wire::proto::{ListOutboxRequest, OutboxRow, ReleaseMessagesRequest, ReleaseResult, ReleaseState};
use serde_json::{Value, json};

use crate::exit::Done;
use crate::operate::Operator;
use crate::target::Target;
use crate::{client, output};

/// Largest page that upstream gives, and most ids of one release.
const PAGE: usize = 500;

#[derive(Subcommand)]
pub enum OutboxVerb {
    /// List the messages that wait for a human: the broker refused them too often.
    List(ListArgs),
    /// Have them published again, as if they were new; exit code 1 when one was not released.
    Release(ReleaseArgs),
}

#[derive(Args)]
pub struct ListArgs {
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Args)]
pub struct ReleaseArgs {
    /// The messages' ids.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every message that waits.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    operator: Operator,
}

pub async fn run(target: &Target, verb: OutboxVerb) -> anyhow::Result<Done> {
    match verb {
        OutboxVerb::List(args) => list(target, &args).await,
        OutboxVerb::Release(args) => release(target, args).await,
    }
}

async fn list(target: &Target, args: &ListArgs) -> anyhow::Result<Done> {
    let mut upstream = client::upstream(target).await?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    while found.len() < args.limit {
        let page_size = size(PAGE.min(args.limit - found.len()));
        let page = upstream.list_outbox(ListOutboxRequest { page_size, page_token }).await?.into_inner();
        found.extend(page.rows);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let more = !page_token.is_empty();
    output::print(target.output, &json!({"messages": found.iter().map(row).collect::<Vec<_>>(), "more": more}), || {
        let rows = found.iter().map(|row| {
            let entry = row.outbox.clone().unwrap_or_default();
            let route = format!("{}/{}", row.exchange, row.routing_key);
            [row.id.clone(), row.r#type.clone(), route, entry.tries.to_string(), entry.reason, output::time(row.sent_at_ms)]
        });
        let more = if more { "\nthere are more: raise --limit" } else { "" };
        format!("{}{more}", output::table(["message", "type", "route", "tries", "reason", "sent at"], rows))
    });
    Ok(Done::All)
}

async fn release(target: &Target, args: ReleaseArgs) -> anyhow::Result<Done> {
    let mut upstream = client::upstream(target).await?;
    let (mut results, mut page_token) = (Vec::new(), String::new());
    let by = args.operator.name();
    let mut given = args.ids.chunks(PAGE);
    loop {
        let ids = if args.all {
            let page = upstream.list_outbox(ListOutboxRequest { page_size: size(PAGE), page_token }).await?.into_inner();
            page_token = page.next_page_token;
            page.rows.into_iter().map(|row| row.id).collect()
        } else {
            page_token = String::new();
            given.next().map(<[_]>::to_vec).unwrap_or_default()
        };
        if !ids.is_empty() {
            results.extend(upstream.release_messages(ReleaseMessagesRequest { ids, by: by.clone() }).await?.into_inner().results);
        }
        if page_token.is_empty() && given.len() == 0 {
            break;
        }
    }
    let released = results.iter().filter(|result| result.state() == ReleaseState::Released).count();
    let rows = results.iter().map(|result| json!({"id": result.id, "result": word(result), "detail": result.detail}));
    output::print(target.output, &json!({"released": released, "results": rows.collect::<Vec<_>>()}), || {
        let rows = results.iter().map(|result| [result.id.clone(), word(result).to_owned(), result.detail.clone()]);
        format!("{}\n{released} released", output::table(["message", "result", "detail"], rows))
    });
    Ok(if released == results.len() { Done::All } else { Done::Partly })
}

fn size(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

fn row(row: &OutboxRow) -> Value {
    json!({
        "id": row.id,
        "exchange": row.exchange,
        "routing_key": row.routing_key,
        "type": row.r#type,
        "sent_at": output::time(row.sent_at_ms),
        "outbox": row.outbox.as_ref().map(output::outbox),
    })
}

fn word(result: &ReleaseResult) -> &'static str {
    match result.state() {
        ReleaseState::Released => "released",
        ReleaseState::NotFailed => "not failed",
        ReleaseState::UnknownId => "unknown",
        ReleaseState::Unspecified => "unspecified",
    }
}
