//! `countersign send`: one message, or every record of a file.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use countersign_wire::proto::{NewMessage, SendMessageRequest};
use serde_json::json;

use crate::exit::Done;
use crate::send_file::FileArgs;
use crate::target::Target;
use crate::{client, output, send_file};

/// What the help ends with.
const EXAMPLES: &str = "\
Examples:
  one message; sent twice, it is stored once
    countersign send --exchange orders --type order.created --key A-17 --body '{\"order_id\":\"A-17\"}'
  every line of a file of JSON objects
    countersign send --exchange orders --type order.created --file orders.jsonl --id-field order_id
  every row of a CSV file, with a list of ids and a list of what was rejected
    countersign send --exchange orders --type order.created --file orders.csv --id-field order_id \\
      --ids ids.jsonl --rejected rejected.jsonl
  what another program prints
    export-orders | countersign send --exchange orders --type order.created --id-field order_id \\
      --file - --format csv

A file may be sent as often as you like: what upstream has is counted as duplicate and keeps its id.
A run that was stopped, killed or cut off is continued by the same command.
Exit codes: see countersign --help";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SendArgs {
    /// The exchange; upstream's default when left out.
    #[arg(long, default_value = "")]
    pub exchange: String,
    /// The routing key; the type when left out.
    #[arg(long)]
    pub routing_key: Option<String>,
    /// The business type, such as order.created.
    #[arg(long = "type")]
    pub kind: String,
    /// Media type of the body.
    #[arg(long, default_value = "application/json")]
    pub content_type: String,
    /// A header, NAME=VALUE; may be repeated.
    #[arg(long = "header", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// The caller's own key for this message: sending twice with one key stores one message.
    #[arg(long, conflicts_with = "file")]
    pub key: Option<String>,
    /// The body.
    #[arg(long, conflicts_with_all = ["file", "body_file"])]
    pub body: Option<String>,
    /// A file whose content is the body; `-` for standard input.
    #[arg(long, conflicts_with = "file")]
    pub body_file: Option<PathBuf>,
    #[command(flatten)]
    pub from: FileArgs,
}

impl SendArgs {
    /// The message with this body and key, everything else as the options say.
    pub fn message(&self, body: Vec<u8>, idempotency_key: String) -> NewMessage {
        NewMessage {
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone().unwrap_or_else(|| self.kind.clone()),
            r#type: self.kind.clone(),
            content_type: self.content_type.clone(),
            body: body.into(),
            headers: self.headers.iter().cloned().collect(),
            idempotency_key,
            ..NewMessage::default()
        }
    }
}

pub async fn run(target: &Target, args: SendArgs) -> anyhow::Result<Done> {
    if let (Some(file), Some(id_field)) = (args.from.file.clone(), args.from.id_field.clone()) {
        return send_file::run(target, args, &file, id_field).await;
    }
    let message = args.message(body(&args)?, args.key.clone().unwrap_or_default());
    let request = SendMessageRequest { message: Some(message) };
    let answer = client::upstream(target).await?.send_message(request).await?.into_inner();
    let accepted = answer.accepted.context("upstream answered without a result")?;
    let state = output::send_state(accepted.state());
    let json = json!({"id": accepted.id, "state": state, "duplicate": accepted.duplicate, "fingerprint": output::hex(&accepted.fingerprint)});
    output::print(target.output, &json, || {
        let again = if accepted.duplicate { ", the key was known" } else { "" };
        format!("{} {state}{again}", accepted.id)
    });
    Ok(Done::All)
}

fn body(args: &SendArgs) -> anyhow::Result<Vec<u8>> {
    match (&args.body, &args.body_file) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
            Ok(bytes)
        }
        (None, Some(path)) => std::fs::read(path).with_context(|| format!("{} cannot be read", path.display())),
        (None, None) => bail!("no body: give --body TEXT, --body-file PATH, or --file FILE with --id-field NAME"),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
