//! `countersign get`: one message and its deliveries.

use clap::Args;
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::{Delivery, GetDeliveryRequest, GetMessageRequest, GetMessageResponse};
use serde_json::{Value, json};
use tonic::Code;

use crate::exit::Done;
use crate::operate::Operator;
use crate::target::Target;
use crate::why::outbox::outbox_words;
use crate::{client, output};

#[derive(Args)]
pub struct GetArgs {
    /// The message's id.
    #[arg(required_unless_present = "key")]
    id: Option<String>,
    /// Find it by the caller's idempotency key instead.
    #[arg(long, conflicts_with = "id")]
    key: Option<String>,
    /// Print the body as well; that you asked for it goes into the audit.
    #[arg(long)]
    body: bool,
    #[command(flatten)]
    operator: Operator,
}

pub async fn run(target: &Target, args: GetArgs) -> anyhow::Result<Done> {
    let by = match (args.id, args.key) {
        (_, Some(key)) => By::IdempotencyKey(key),
        (id, None) => By::Id(id.unwrap_or_default()),
    };
    let request = GetMessageRequest { by: Some(by), with_body: args.body, operator: args.operator.name() };
    let message = client::upstream(target).await?.get_message(request).await?.into_inner();
    let request = GetDeliveryRequest { message_id: message.id.clone() };
    let deliveries = match client::callback(target).await?.get_delivery(request).await {
        Ok(answer) => answer.into_inner().deliveries,
        Err(status) if status.code() == Code::NotFound => Vec::new(),
        Err(status) => return Err(status.into()),
    };
    output::print(target.output, &as_json(&message, &deliveries), || as_text(&message, &deliveries));
    Ok(Done::All)
}

fn as_json(message: &GetMessageResponse, deliveries: &[Delivery]) -> Value {
    let sent = message.message.clone().unwrap_or_default();
    json!({
        "id": message.id,
        "state": output::send_state(message.state()),
        "mode": if message.outbox.is_some() { "outbox" } else { "verified" },
        "outbox": message.outbox.as_ref().map(output::outbox),
        "exchange": sent.exchange,
        "routing_key": sent.routing_key,
        "type": sent.r#type,
        "content_type": sent.content_type,
        "idempotency_key": sent.idempotency_key,
        "fingerprint": output::hex(&sent.fingerprint),
        "headers": sent.headers,
        "required": message.required,
        "sent_at": output::time(message.sent_at_ms),
        "body_bytes": message.body_bytes,
        "body": (!sent.body.is_empty()).then(|| String::from_utf8_lossy(&sent.body).into_owned()),
        "deliveries": deliveries.iter().map(output::delivery).collect::<Vec<_>>(),
    })
}

fn as_text(message: &GetMessageResponse, deliveries: &[Delivery]) -> String {
    let sent = message.message.clone().unwrap_or_default();
    let mut lines = vec![
        format!(
            "{} {} to {}/{}, {} bytes of {}, accepted {}, {}",
            message.id,
            sent.r#type,
            sent.exchange,
            sent.routing_key,
            message.body_bytes,
            sent.content_type,
            output::time(message.sent_at_ms),
            output::send_state(message.state()),
        ),
        format!("required: {}", message.required.join(", ")),
    ];
    if let Some(entry) = &message.outbox {
        lines.push(format!("mode outbox: {}", outbox_words(entry, message.outbox_check)));
    }
    if deliveries.is_empty() {
        lines.push("nobody has signed for it yet".to_owned());
    } else {
        lines.push(output::deliveries(deliveries));
    }
    lines.extend(deliveries.iter().filter(|delivery| delivery.effect_epoch > 0).map(|delivery| {
        let (who, epoch) = (&delivery.subscription, delivery.effect_epoch);
        format!("{who}: an operator has allowed that its effect happens a second time, in epoch {epoch}")
    }));
    lines.extend(output::history(deliveries));
    if !sent.body.is_empty() {
        lines.push(String::from_utf8_lossy(&sent.body).into_owned());
    }
    lines.join("\n")
}
