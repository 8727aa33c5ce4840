//! Sends one batch until every record of it has an answer, patience ends, or the run is stopped.
//!
//! What was not taken for now, or whose answer was lost, is sent again; its key makes that harmless.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use countersign_boot::client::Authorized;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{NewMessage, Refused, SendMessagesRequest, SendResult};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::exit::{is_transient, may_pass};
use crate::send_file::batch::{Batch, Fate};

/// The pause before a batch is sent again; doubles up to ten times this.
const PAUSE: Duration = Duration::from_millis(200);

/// A batch after its last call.
pub struct Delivered {
    /// The batch; after a failure or a stop some of its rows have no fate.
    pub batch: Batch,
    /// Why upstream did not answer the rest.
    pub failure: Option<anyhow::Error>,
}

/// Sends a batch. `patience` counts from the last answer that brought it further.
pub async fn deliver(
    mut upstream: UpstreamServiceClient<Authorized>,
    mut batch: Batch,
    patience: Duration,
    stop: CancellationToken,
) -> Delivered {
    let mut give_up = Instant::now() + patience;
    let mut pause = PAUSE;
    loop {
        let due = batch.due();
        if due.is_empty() || stop.is_cancelled() {
            return Delivered { batch, failure: None };
        }
        let why = match call(&mut upstream, &mut batch, &due).await {
            Ok(None) => {
                (give_up, pause) = (Instant::now() + patience, PAUSE);
                continue;
            }
            Ok(Some(why)) => why,
            Err(failure) => return Delivered { batch, failure: Some(failure) },
        };
        if Instant::now() >= give_up {
            let line = batch.rows[due[0]].line;
            let status = tonic::Status::unavailable(format!(
                "upstream has not taken line {line} and later ones for {} ms: {why}. Run the same command again: nothing is sent twice",
                patience.as_millis()
            ));
            return Delivered { batch, failure: Some(status.into()) };
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Delivered { batch, failure: None };
        }
        pause = (pause * 2).min(PAUSE * 10);
    }
}

/// One call with these rows. None when each of them was answered for good; else why one was not.
async fn call(
    upstream: &mut UpstreamServiceClient<Authorized>,
    batch: &mut Batch,
    due: &[usize],
) -> anyhow::Result<Option<String>> {
    let messages = due.iter().map(|index| batch.rows[*index].message.clone()).collect();
    let results = match upstream.send_messages(SendMessagesRequest { messages }).await {
        Ok(answer) => answer.into_inner().results,
        Err(status) if may_pass(&status) => return Ok(Some(status.message().to_owned())),
        Err(status) => return Err(status.into()),
    };
    if results.len() != due.len() {
        return Err(anyhow!("upstream answered {} results for {} messages", results.len(), due.len()));
    }
    let mut not_now = None;
    for (index, result) in due.iter().zip(results) {
        match fate(result) {
            Ok(fate) => {
                let row = &mut batch.rows[*index];
                (row.message, row.fate) = (NewMessage::default(), Some(fate));
            }
            Err(why) => not_now = not_now.or(Some(why)),
        }
    }
    Ok(not_now)
}

/// The fate that an answer means, or why there is none yet.
fn fate(result: SendResult) -> Result<Fate, String> {
    match result.result {
        Some(Sent::Accepted(accepted)) => Ok(Fate::Accepted { id: accepted.id, duplicate: accepted.duplicate }),
        Some(Sent::Refused(Refused { code, message })) => match Code::from_i32(code) {
            code if is_transient(code) => Err(message),
            code => Ok(Fate::Rejected { why: message, is_conflict: code == Code::AlreadyExists }),
        },
        None => Err("upstream gave no result".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use countersign_wire::proto::Accepted;

    use super::*;

    #[test]
    fn an_answer_is_a_fate_unless_it_may_pass() {
        let refused =
            |code: Code| SendResult { result: Some(Sent::Refused(Refused { code: code.into(), message: "why".into() })) };
        let rejected = |is_conflict| Ok(Fate::Rejected { why: "why".into(), is_conflict });
        assert_eq!(fate(refused(Code::AlreadyExists)), rejected(true));
        assert_eq!(fate(refused(Code::InvalidArgument)), rejected(false));
        assert_eq!(fate(refused(Code::ResourceExhausted)), Err("why".into()));
        assert!(fate(SendResult { result: None }).is_err());
        let accepted = Accepted { id: "7".into(), duplicate: true, ..Accepted::default() };
        let accepted = SendResult { result: Some(Sent::Accepted(accepted)) };
        assert_eq!(fate(accepted), Ok(Fate::Accepted { id: "7".into(), duplicate: true }));
    }
}
