//! `countersign send --file`: every line a message, in batches, repeatable without sending anything twice.

use std::io::BufRead as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{NewMessage, Refused, SendMessagesRequest, SendResult};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::exit::{Done, is_transient};
use crate::send::SendArgs;
use crate::target::Target;
use crate::{client, output};

/// Upstream takes at most this many messages a call.
const BATCH_MESSAGES: usize = 500;
/// Stays below upstream's limit of 4 MiB a call, headers included.
const BATCH_BYTES: usize = 3 * 1024 * 1024;
/// The pause before a refused batch is sent again; doubles up to ten times this.
const PAUSE: Duration = Duration::from_millis(200);
/// At most so many refused lines are listed one by one.
const LISTED: usize = 1_000;

/// What became of the file's lines.
#[derive(Default)]
struct Tally {
    accepted: u64,
    duplicate: u64,
    refused: u64,
    listed: Vec<(u64, String)>,
}

impl Tally {
    fn refuse(&mut self, line: u64, why: String) {
        self.refused += 1;
        if self.listed.len() < LISTED {
            self.listed.push((line, why));
        }
    }
}

/// Lines that go into one call.
#[derive(Default)]
struct Batch {
    lines: Vec<u64>,
    messages: Vec<NewMessage>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self, next_bytes: usize) -> bool {
        self.messages.len() == BATCH_MESSAGES || (!self.messages.is_empty() && self.bytes + next_bytes > BATCH_BYTES)
    }
}

pub async fn run(target: &Target, args: &SendArgs, file: &Path, id_field: &str) -> anyhow::Result<Done> {
    let size = std::fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    let reader =
        std::io::BufReader::new(std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?);
    let mut upstream = client::upstream(target).await?;
    let bar = ProgressBar::new(size);
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent:>3} % {msg} {elapsed} left {eta}")?);
    let (mut tally, mut batch) = (Tally::default(), Batch::default());
    for (number, line) in (1..).zip(reader.split(b'\n')) {
        let line = line.with_context(|| format!("{} line {number} cannot be read", file.display()))?;
        bar.inc(line.len() as u64 + 1);
        match read_line(&line, id_field) {
            Ok(None) => {}
            Ok(Some(key)) => {
                if batch.is_full(line.len()) {
                    flush(&mut upstream, args, &mut batch, &mut tally).await?;
                    bar.set_message(format!("{} accepted, {} known, {} refused", tally.accepted, tally.duplicate, tally.refused));
                }
                batch.bytes += line.len();
                batch.lines.push(number);
                batch.messages.push(args.message(line, key));
            }
            Err(why) => tally.refuse(number, why),
        }
    }
    flush(&mut upstream, args, &mut batch, &mut tally).await?;
    bar.finish_and_clear();
    report(target, &tally);
    Ok(if tally.refused == 0 { Done::All } else { Done::Partly })
}

/// The idempotency key of a line; none for an empty line.
fn read_line(line: &[u8], id_field: &str) -> Result<Option<String>, String> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    match value.get(id_field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(format!("field {id_field:?} is {other}: it must be a text that is not empty, or a number")),
        None => Err(format!("field {id_field:?} is missing: name the field that identifies a line with --id-field")),
    }
}

/// Sends a batch until every line of it has an answer, or patience ends. Lines that were not taken for now are sent again; their keys
/// make that harmless.
async fn flush(
    upstream: &mut UpstreamServiceClient<Channel>,
    args: &SendArgs,
    batch: &mut Batch,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let Batch { mut lines, mut messages, .. } = std::mem::take(batch);
    let give_up = Instant::now() + Duration::from_millis(args.patience_ms);
    let mut pause = PAUSE;
    while !messages.is_empty() {
        let why = match upstream.send_messages(SendMessagesRequest { messages: messages.clone() }).await {
            Ok(answer) => {
                let results = answer.into_inner().results;
                if results.len() != messages.len() {
                    bail!("upstream answered {} results for {} messages", results.len(), messages.len());
                }
                let later = settle(&lines, results, tally);
                let Some((_, why)) = later.first().cloned() else { return Ok(()) };
                lines = later.iter().map(|(index, _)| lines[*index]).collect();
                messages = later.iter().map(|(index, _)| messages[*index].clone()).collect();
                why
            }
            Err(status) if is_transient(status.code()) => status.message().to_owned(),
            Err(status) => return Err(status.into()),
        };
        if Instant::now() >= give_up {
            let line = lines.first().copied().unwrap_or_default();
            let status = tonic::Status::unavailable(format!(
                "upstream has not taken line {line} and later ones for {} ms: {why}. Run the same command again: nothing is sent twice",
                args.patience_ms
            ));
            return Err(status.into());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE * 10);
    }
    Ok(())
}

/// Counts what was answered; gives back index and reason of what must be sent again.
fn settle(lines: &[u64], results: Vec<SendResult>, tally: &mut Tally) -> Vec<(usize, String)> {
    let mut later = Vec::new();
    for (index, result) in results.into_iter().enumerate() {
        match result.result {
            Some(Sent::Accepted(accepted)) if accepted.duplicate => tally.duplicate += 1,
            Some(Sent::Accepted(_)) => tally.accepted += 1,
            Some(Sent::Refused(Refused { code, message })) if is_transient(Code::from_i32(code)) => later.push((index, message)),
            Some(Sent::Refused(refused)) => tally.refuse(lines[index], refused.message),
            None => later.push((index, "upstream gave no result".to_owned())),
        }
    }
    later
}

fn report(target: &Target, tally: &Tally) {
    let refused: Vec<_> = tally.listed.iter().map(|(line, why)| json!({"line": line, "why": why})).collect();
    let json =
        json!({"accepted": tally.accepted, "duplicate": tally.duplicate, "refused": tally.refused, "refused_lines": refused});
    output::print(target.output, &json, || {
        let sum = format!("{} accepted, {} known before, {} refused", tally.accepted, tally.duplicate, tally.refused);
        let lines = tally.listed.iter().map(|(line, why)| format!("line {line}: {why}"));
        std::iter::once(sum).chain(lines).collect::<Vec<_>>().join("\n")
    });
}

#[cfg(test)]
mod tests {
    use super::read_line;

    #[test]
    fn the_key_of_a_line_is_its_id_field() {
        assert_eq!(read_line(br#"{"order_id":"A-1"}"#, "order_id"), Ok(Some("A-1".into())));
        assert_eq!(read_line(br#"{"order_id":17}"#, "order_id"), Ok(Some("17".into())));
        assert_eq!(read_line(b"  \r", "order_id"), Ok(None));
        for (line, word) in
            [(&br#"{"order_id":""}"#[..], "not empty"), (b"{\"a\":1}", "missing"), (b"order", "not a JSON object")]
        {
            let why = read_line(line, "order_id").expect_err("refused");
            assert!(why.contains(word), "{why}");
        }
    }
}
