//! `countersign audit`: who did what, at callback, upstream and downstream, or was refused.

use clap::Args;
use countersign_wire::proto::{AuditEntry, ListAuditRequest};
use serde_json::{Value, json};

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

/// Largest page callback gives.
const PAGE: u32 = 1_000;

#[derive(Args)]
pub struct AuditArgs {
    /// Only about this message.
    #[arg(default_value = "")]
    id: String,
    /// Only this act: `redrive`, `park`, `discard`, `restore`, `redrive_dead_letters`, `discard_dead_letters`,
    /// `reveal_dead_letters` (their bodies were asked for), `pause`, `resume`, `release`, `reveal_message` (the body of a stored message was).
    #[arg(long, default_value = "")]
    act: String,
    /// Only this operator's.
    #[arg(long, default_value = "")]
    by: String,
    /// Only at this service: `callback`, `upstream`, `downstream`.
    #[arg(long, default_value = "")]
    service: String,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub async fn audit(target: &Target, args: AuditArgs) -> anyhow::Result<Done> {
    let mut callback = client::callback(target).await?;
    let mut found: Vec<AuditEntry> = Vec::new();
    let mut page_token = String::new();
    while found.len() < args.limit {
        let page_size = u32::try_from(args.limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let (act, by, message_id, service) = (args.act.clone(), args.by.clone(), args.id.clone(), args.service.clone());
        let request = ListAuditRequest { page_size, page_token, act, by, message_id, service };
        let page = callback.list_audit(request).await?.into_inner();
        found.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let more = !page_token.is_empty();
    output::print(target.output, &json!({"acts": found.iter().map(as_json).collect::<Vec<_>>(), "more": more}), || {
        let rows = found.iter().map(|entry| {
            let AuditEntry { by, act, target, subscription, reason, result, detail, .. } = entry.clone();
            [output::time(entry.at_ms), place(entry), by, act, target, subscription, result, reason, detail]
        });
        let more = if more { "\nthere are more: raise --limit" } else { "" };
        format!(
            "{}{more}",
            output::table(["at", "service", "by", "act", "about", "subscription", "result", "reason", "detail"], rows)
        )
    });
    Ok(Done::All)
}

fn as_json(entry: &AuditEntry) -> Value {
    json!({
        "number": entry.number,
        "at": output::time(entry.at_ms),
        "ended_at": output::time(entry.ended_at_ms),
        "by": entry.by,
        "act": entry.act,
        "about": entry.target,
        "subscription": entry.subscription,
        "reason": entry.reason,
        "result": entry.result,
        "detail": entry.detail,
        "service": entry.service,
        "service_name": entry.service_name,
    })
}

/// Where it was done: the service, and its name if it has one.
fn place(entry: &AuditEntry) -> String {
    [entry.service.as_str(), &entry.service_name].join(" ").trim_end().to_owned()
}
