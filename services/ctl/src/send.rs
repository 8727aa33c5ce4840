//! `countersign send`: one message, or every line of a file.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use countersign_wire::proto::{NewMessage, SendMessageRequest};
use serde_json::json;

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output, send_file};

#[derive(Args)]
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
    /// A file of JSON objects, one a line; each line is the body of one message.
    #[arg(long, requires = "id_field")]
    pub file: Option<PathBuf>,
    /// The field of each object that is its idempotency key.
    #[arg(long, requires = "file")]
    pub id_field: Option<String>,
    /// How long to go on trying to send a batch while upstream does not take it, milliseconds.
    #[arg(long, default_value_t = 60_000)]
    pub patience_ms: u64,
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
            fingerprint: Vec::new().into(),
            trace: None,
        }
    }
}

pub async fn run(target: &Target, args: SendArgs) -> anyhow::Result<Done> {
    if let (Some(file), Some(id_field)) = (&args.file, &args.id_field) {
        return send_file::run(target, &args, file, id_field).await;
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
            std::io::read_to_string(std::io::stdin()).map(String::into_bytes).context("standard input cannot be read")
        }
        (None, Some(path)) => std::fs::read(path).with_context(|| format!("{} cannot be read", path.display())),
        (None, None) => bail!("no body: give --body TEXT, --body-file PATH, or --file LINES.jsonl with --id-field"),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
