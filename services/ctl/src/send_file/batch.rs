//! Records that go into one call, and which of them may go now.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_wire::proto::NewMessage;

use crate::send::SendArgs;
use crate::send_file::records::{MAX_RECORD_BYTES, Record};

/// Upstream takes at most this many messages a call.
const BATCH_MESSAGES: usize = 500;
/// Stays below upstream's limit of 4 MiB a call, headers included.
const BATCH_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Upstream has it under this id.
    Accepted {
        /// Its id.
        id: String,
        /// Its key was known.
        duplicate: bool,
    },
    /// It was not taken, and will not be as it is.
    Rejected {
        /// Why.
        why: String,
        /// A stored message of other content has its key.
        is_conflict: bool,
    },
}

/// One record of a batch.
#[derive(Debug)]
pub struct Row {
    /// The line on which it begins.
    pub line: u64,
    /// Its key; none when it has none that could be read.
    pub key: Option<Arc<str>>,
    /// Its message; empty when it has a fate.
    pub message: NewMessage,
    /// None as long as upstream has not answered.
    pub fate: Option<Fate>,
}

/// Records in the order of the file.
#[derive(Debug, Default)]
pub struct Batch {
    /// The records, rejected ones included.
    pub rows: Vec<Row>,
    /// What they took in the file.
    pub read_bytes: u64,
    bytes: usize,
}

impl Batch {
    /// The keys that it sends.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rows.iter().filter_map(|row| row.key.as_ref())
    }

    /// The rows that may be sent now, by index: of each key the first one without an answer, and all of them once a stored message
    /// has the key. Empty when all are answered.
    pub fn due(&self) -> Vec<usize> {
        let is_held = |fate: &Fate| matches!(fate, Fate::Accepted { .. } | Fate::Rejected { is_conflict: true, .. });
        let held = self.rows.iter().filter(|row| row.fate.as_ref().is_some_and(is_held));
        let held: HashSet<_> = held.map(|row| &row.key).collect();
        let mut open = HashSet::new();
        let due = self.rows.iter().enumerate().filter(|(_, row)| row.fate.is_none());
        due.filter(|(_, row)| held.contains(&row.key) || open.insert(&row.key)).map(|(index, _)| index).collect()
    }
}

/// Makes batches of records.
pub struct Filler<'a> {
    args: &'a SendArgs,
    batch: Batch,
}

impl<'a> Filler<'a> {
    pub fn new(args: &'a SendArgs) -> Self {
        Self { args, batch: Batch::default() }
    }

    /// Adds a record; gives back the batch that was full before it.
    pub fn add(&mut self, record: Record) -> Option<Batch> {
        let read_bytes = record.read_bytes;
        let row = self.row(record);
        let bytes = size(&row);
        let batch = &self.batch;
        let is_full = batch.rows.len() == BATCH_MESSAGES || (!batch.rows.is_empty() && batch.bytes + bytes > BATCH_BYTES);
        let full = is_full.then(|| std::mem::take(&mut self.batch));
        self.batch.rows.push(row);
        self.batch.bytes += bytes;
        self.batch.read_bytes += read_bytes;
        full
    }

    /// What was left over.
    pub fn rest(self) -> Option<Batch> {
        (!self.batch.rows.is_empty()).then_some(self.batch)
    }

    fn row(&self, record: Record) -> Row {
        let Record { line, key, body, .. } = record;
        let rejected = |key: Option<String>, why| {
            let fate = Some(Fate::Rejected { why, is_conflict: false });
            Row { line, key: key.map(Arc::from), message: NewMessage::default(), fate }
        };
        match (body, key) {
            (Err(why), key) => rejected(key, why),
            (Ok(_), None) => rejected(None, "it has no key".to_owned()),
            (Ok(body), key) if body.len() > MAX_RECORD_BYTES => {
                let words = format!(
                    "its body has {} bytes; at most {MAX_RECORD_BYTES} are sent from a file: send a reference to it",
                    body.len()
                );
                rejected(key, words)
            }
            (Ok(body), Some(key)) => {
                let message = self.args.message(body, key.clone());
                Row { line, key: Some(key.into()), message, fate: None }
            }
        }
    }
}

/// What a row counts in a call, as upstream counts it.
fn size(row: &Row) -> usize {
    let NewMessage { exchange, routing_key, r#type, content_type, body, headers, idempotency_key, .. } = &row.message;
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let names = exchange.len() + routing_key.len() + r#type.len() + content_type.len() + idempotency_key.len();
    body.len() + headers + names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(keys: &[&str]) -> Batch {
        let row = |(index, key): (usize, &&str)| Row {
            line: index as u64 + 1,
            key: Some(Arc::from(*key)),
            message: NewMessage::default(),
            fate: None,
        };
        Batch { rows: keys.iter().enumerate().map(row).collect(), ..Batch::default() }
    }

    fn accepted() -> Fate {
        Fate::Accepted { id: "1".into(), duplicate: false }
    }

    fn rejected(is_conflict: bool) -> Fate {
        Fate::Rejected { why: "no".into(), is_conflict }
    }

    #[test]
    fn of_each_key_the_first_goes_alone_until_the_key_is_held() {
        let mut batch = batch(&["a", "b", "a", "a"]);
        assert_eq!(batch.due(), [0, 1]);
        batch.rows[1].fate = Some(accepted());
        assert_eq!(batch.due(), [0], "not taken for now: the later ones wait");
        batch.rows[0].fate = Some(rejected(false));
        assert_eq!(batch.due(), [2], "the first one is out, so the second one is the first");
        batch.rows[0].fate = Some(rejected(true));
        assert_eq!(batch.due(), [2, 3]);
        batch.rows[0].fate = Some(accepted());
        assert_eq!(batch.due(), [2, 3]);
        batch.rows[2].fate = Some(rejected(true));
        batch.rows[3].fate = Some(accepted());
        assert!(batch.due().is_empty());
    }
}
