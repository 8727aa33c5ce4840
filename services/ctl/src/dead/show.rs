//! `countersign dead show`: every letter of one message.

use clap::Args;
use countersign_wire::proto::{DeadLetter, DeadLetterTry, GetDeadLetterRequest};
use serde_json::{Value, json};

use super::letter_as_json;
use crate::dead::select::Place;
use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

#[derive(Args)]
pub struct ShowArgs {
    /// The message's id.
    id: String,
    #[command(flatten)]
    place: Place,
    /// Print the body as well; callback logs who looked.
    #[arg(long)]
    body: bool,
    /// Who looks.
    #[arg(long, env = "USER", default_value = "")]
    by: String,
}

pub async fn run(target: &Target, args: ShowArgs) -> anyhow::Result<Done> {
    let request = GetDeadLetterRequest {
        subscription: args.place.subscription.unwrap_or_default(),
        quarantine: args.place.quarantine,
        message_id: args.id,
        with_body: args.body,
        by: args.by,
    };
    let answer = client::dead_letters(target).await?.get_dead_letter(request).await?.into_inner();
    let letters = answer.letters.iter().map(|letter| as_json(letter, args.body)).collect::<Vec<_>>();
    output::print(target.output, &json!({"letters": letters}), || {
        answer.letters.iter().map(|letter| as_text(letter, args.body)).collect::<Vec<_>>().join("\n\n")
    });
    Ok(Done::All)
}

/// With the body as text, or as hexadecimal digits when it is none; null: it is too large for an answer.
fn as_json(letter: &DeadLetter, with_body: bool) -> Value {
    let mut value = letter_as_json(letter);
    if with_body && let Some(fields) = value.as_object_mut() {
        let there = !is_left_out(letter);
        let text = std::str::from_utf8(&letter.body).ok().filter(|_| there);
        let hex = (there && text.is_none()).then(|| output::hex(&letter.body));
        fields.insert("body".into(), json!(text));
        fields.insert("body_hex".into(), json!(hex));
    }
    value
}

fn is_left_out(letter: &DeadLetter) -> bool {
    letter.body.is_empty() && letter.body_bytes > 0
}

fn as_text(letter: &DeadLetter, with_body: bool) -> String {
    let mut lines = vec![
        format!(
            "{} {} from {} for {}/{}, {} bytes of {}, accepted {}",
            letter.message_id,
            letter.r#type,
            letter.upstream,
            letter.exchange,
            letter.routing_key,
            letter.body_bytes,
            letter.content_type,
            output::time(letter.sent_at_ms),
        ),
        format!(
            "died {} of {} (attempt {}), says {}: {}",
            output::time(letter.died_at_ms),
            letter.reason,
            output::attempt(letter.attempt),
            if letter.died_by.is_empty() { "the broker" } else { &letter.died_by },
            letter.detail
        ),
        format!("fingerprint {}", letter.fingerprint),
        standing(letter),
    ];
    lines.extend(letter.headers.iter().map(|(name, value)| format!("header {name}: {value}")));
    if letter.history_left_out > 0 {
        lines.push(format!("history: {} older lines were left out", letter.history_left_out));
    }
    lines.extend(letter.history.iter().map(line));
    if with_body {
        lines.push(if is_left_out(letter) {
            "the body is too large for an answer".to_owned()
        } else {
            String::from_utf8_lossy(&letter.body).into_owned()
        });
    }
    lines.join("\n")
}

fn standing(letter: &DeadLetter) -> String {
    let taken_in = format!("taken in {}, {}", output::time(letter.taken_in_at_ms), letter.state);
    if letter.closed_at_ms == 0 {
        return taken_in;
    }
    format!("{taken_in} {} by {}: {}", output::time(letter.closed_at_ms), letter.closed_by, letter.closed_reason)
}

fn line(line: &DeadLetterTry) -> String {
    let words = match line.what.as_str() {
        "retried" => format!("failed, tried again after {} ms", line.delay_ms),
        "died" => format!("died of {}, says {}", line.reason, line.by),
        "redriven" => format!("redriven by {}", line.by),
        other => other.to_owned(),
    };
    format!("{} {words} (attempt {}) {}", output::time(line.at_ms), output::attempt(line.attempt), line.detail)
}
