//! Labels: what many messages have in common, stored once. A row names its label by a number instead of writing about 90 bytes again and again.
//!
//! The number is a hash of what the label says, so it can never come to mean something else, whatever is restored, and replicas need not agree on
//! it. A label is committed before any row names it, and a row is only written if its label is there. One that is met only once, such as a routing key with a number in it, is not written, and
//! neither is one beyond [`MAX_LABELS`]: such rows say theirs themselves.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_delivery::Message;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::Numbered;
use sea_orm::QueryResult;

use crate::messages::row::join;
use crate::rows::Rows;
use crate::sql::{Sql, take, unreadable};

/// Labels in one database, about: replicas that write at the same time may add a few.
const MAX_LABELS: i64 = 1_000;
/// Labels of which it is remembered that they were met once.
const MAX_MET: usize = 1_000;
const COLUMNS: &str = "l.number, l.required, l.exchange, l.routing_key, l.type, l.content_type";

/// What a message is about, as far as others share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// As a row has it; see `messages/row.rs`.
    pub required: String,
    pub exchange: String,
    pub routing_key: String,
    pub kind: String,
    pub content_type: String,
}

impl Label {
    pub(super) fn of(message: &Message) -> Self {
        Self {
            required: join(&message.required),
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            kind: message.kind.clone(),
            content_type: message.content_type.clone(),
        }
    }

    fn parts(&self) -> [&str; 5] {
        [&self.required, &self.exchange, &self.routing_key, &self.kind, &self.content_type]
    }

    /// The first 64 bits of BLAKE3 over its parts, each led by its length.
    fn number(&self) -> i64 {
        let mut hasher = blake3::Hasher::new();
        for part in self.parts() {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        i64::from_be_bytes(first)
    }

    /// A row that says its label itself, or a row of the table of labels.
    pub(super) fn read(row: &QueryResult) -> Result<Self, PortError> {
        Ok(Self {
            required: take(row, "required")?,
            exchange: take(row, "exchange")?,
            routing_key: take(row, "routing_key")?,
            kind: take(row, "type")?,
            content_type: take(row, "content_type")?,
        })
    }
}

/// The labels that are known to be written. Cheap to clone.
///
/// **Invariant:** a number is given out only after its label has been read from the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    written: HashMap<i64, Arc<Label>>,
    /// Met once.
    met: HashSet<i64>,
    /// Met again, and to be written.
    wanted: HashMap<i64, Label>,
    /// There is no room for more.
    full: bool,
}

impl Labels {
    /// The number of a label that may be named; one that may not is taken note of.
    pub(super) fn number(&self, label: &Label) -> Option<i64> {
        let number = label.number();
        let mut known = self.lock();
        if let Some(written) = known.written.get(&number) {
            return (**written == *label).then_some(number);
        }
        known.note(number, label);
        None
    }

    /// About rows that were not written, and no key tells why: an error if they named labels, which may not be there. All labels are forgotten
    /// then, and rows say theirs themselves until these are met again.
    pub(super) fn doubt<'a>(&self, missing: impl Iterator<Item = &'a Numbered>) -> Result<(), PortError> {
        let named = missing.filter(|row| self.number(&Label::of(&row.message)).is_some()).count();
        if named == 0 {
            return Ok(());
        }
        *self.lock() = Known::default();
        Err(PortError::Unavailable("inserting messages", format!("labels of {named} rows are not in countersign_label").into()))
    }

    /// Writes the labels that have been met again. Fails without a word: they are met once more.
    pub(super) async fn write_wanted(&self, sql: &Sql) {
        let wanted = std::mem::take(&mut self.lock().wanted);
        if wanted.is_empty() {
            return;
        }
        if let Err(error) = self.write(sql, wanted).await {
            tracing::debug!(error = %countersign_telemetry::with_sources(&error), "labels are not written now");
        }
    }

    async fn write(&self, sql: &Sql, labels: HashMap<i64, Label>) -> Result<(), PortError> {
        const WRITING: &str = "writing labels";
        let text = |part: usize| labels.values().map(move |label| label.parts()[part].to_owned()).collect::<Vec<_>>();
        let (source, values) = Rows::default()
            .ints("number", labels.keys().copied())
            .texts("required", text(0))
            .texts("exchange", text(1))
            .texts("routing_key", text(2))
            .texts("type", text(3))
            .texts("content_type", text(4))
            .source(sql.backend);
        let statement = format!(
            "INSERT INTO countersign_label (number, required, exchange, routing_key, type, content_type) \
             SELECT v.number, v.required, v.exchange, v.routing_key, v.type, v.content_type FROM {source} \
             WHERE (SELECT COUNT(*) FROM countersign_label) < {MAX_LABELS} ON CONFLICT (number) DO NOTHING"
        );
        sql.write(WRITING, &statement, values).await?;
        // What others have written meanwhile is read along.
        self.read_all(sql).await?;
        let mut known = self.lock();
        known.full = labels.keys().any(|number| !known.written.contains_key(number));
        Ok(())
    }

    async fn read_all(&self, sql: &Sql) -> Result<(), PortError> {
        let query = format!("SELECT {COLUMNS} FROM countersign_label AS l");
        for row in sql.read("reading labels", &query, Vec::new()).await? {
            self.keep(&row)?;
        }
        Ok(())
    }

    fn keep(&self, row: &QueryResult) -> Result<(), PortError> {
        let (number, label) = (take(row, "number")?, Label::read(row)?);
        self.lock().written.entry(number).or_insert_with(|| Arc::new(label));
        Ok(())
    }

    /// Makes sure that the labels of these rows are known.
    pub(super) async fn of_rows(&self, sql: &Sql, rows: &[QueryResult]) -> Result<(), PortError> {
        let mut named = HashSet::new();
        for row in rows {
            named.extend(take::<Option<i64>>(row, "label")?);
        }
        let is_new = {
            let known = self.lock();
            named.iter().any(|number| !known.written.contains_key(number))
        };
        if is_new { self.read_all(sql).await } else { Ok(()) }
    }

    /// The label of a row, named or its own; see [`Self::of_rows`].
    pub(super) fn of_row(&self, row: &QueryResult) -> Result<Arc<Label>, PortError> {
        let Some(number) = take::<Option<i64>>(row, "label")? else { return Ok(Arc::new(Label::read(row)?)) };
        let known = self.lock().written.get(&number).cloned();
        known.ok_or_else(|| unreadable(format!("label {number} is not in countersign_label: was a part of the tables restored?")))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note(&mut self, number: i64, label: &Label) {
        // What no text column takes is not written either.
        if self.full || label.parts().iter().any(|part| part.contains(['\0', '\u{1}'])) {
            return;
        }
        if self.met.contains(&number) {
            if self.wanted.len() < MAX_MET {
                self.wanted.entry(number).or_insert_with(|| label.clone());
            }
            return;
        }
        if self.met.len() >= MAX_MET {
            self.met.clear();
        }
        self.met.insert(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_label(routing_key: &str) -> Label {
        let text = |text: &str| text.to_owned();
        Label {
            required: text("a,b"),
            exchange: text("orders"),
            routing_key: text(routing_key),
            kind: text("created"),
            content_type: text("application/json"),
        }
    }

    /// Another number would be another label to every row that is written.
    #[test]
    fn a_labels_number_never_changes() {
        assert_eq!(a_label("order.created").number(), 7_790_421_368_791_625_982);
    }

    #[test]
    fn parts_that_run_together_to_the_same_text_are_different_labels() {
        let other = Label { routing_key: "created".into(), kind: String::new(), ..a_label("") };
        let one = Label { routing_key: String::new(), kind: "created".into(), ..a_label("") };
        assert_ne!(one.number(), other.number());
    }

    #[test]
    fn a_label_that_is_met_only_once_is_not_wanted_and_not_remembered_without_a_bound() {
        let labels = Labels::default();
        for n in 0..10 * MAX_MET {
            assert_eq!(labels.number(&a_label(&format!("order.{n}"))), None);
        }
        assert!(labels.lock().wanted.is_empty() && labels.lock().met.len() <= MAX_MET);
        for _ in 0..3 {
            assert_eq!(labels.number(&a_label("x")), None, "it is not written yet");
        }
        assert_eq!(labels.lock().wanted.values().collect::<Vec<_>>(), [&a_label("x")]);
    }
}
