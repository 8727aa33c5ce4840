//! Which database a message's rows are in. The one place that asks [`shard_of`].
//!
//! **Invariant:** whatever is addressed by a message's id goes through [`Shards::of`] or [`Shards::split`]; probes and the clock are of the
//! whole, and live in the first shard.

use std::sync::Arc;

use countersign_delivery::id::{MessageId, shard_of};
use countersign_delivery::ports::PortError;
use countersign_delivery::time::Timestamp;

use crate::database::Database;
use crate::sql::{Sql, Tx};

/// The databases that MSG DB is made of; never none. Configuration knows one.
#[derive(Clone, Debug)]
pub(super) struct Shards(Arc<[Database]>);

/// One of them, with the clock of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard<'a> {
    /// Its connections.
    pub sql: &'a Sql,
    home: &'a Database,
    is_home: bool,
}

impl Shard<'_> {
    /// MSG DB's clock.
    pub(super) async fn now(self) -> Result<Timestamp, PortError> {
        self.home.inner.clock.now(self.home.sql()).await
    }

    /// The same for who is in a transaction of this shard: at home over its own connection, since a further one may not be to be had.
    pub(super) async fn now_in(self, tx: &Tx) -> Result<Timestamp, PortError> {
        if self.is_home { self.home.inner.clock.now_in(tx).await } else { self.now().await }
    }
}

/// What of a batch belongs to one shard.
pub(super) struct Part<'a, T> {
    /// Which.
    pub shard: Shard<'a>,
    /// Where its items stand in the batch.
    pub places: Vec<usize>,
    /// They themselves, in order.
    pub items: Vec<&'a T>,
}

impl Shards {
    /// Of these; the order is theirs for ever.
    pub(super) fn new(first: Database, others: impl IntoIterator<Item = Database>) -> Self {
        Self(std::iter::once(first).chain(others).collect())
    }

    /// The database of what belongs to no message.
    pub(super) fn home(&self) -> Shard<'_> {
        self.at(0)
    }

    /// The database of a message.
    pub(super) fn of(&self, id: MessageId) -> Shard<'_> {
        self.at(self.number_of(id))
    }

    /// All of them, in turn.
    pub(super) fn all(&self) -> impl Iterator<Item = Shard<'_>> {
        (0..self.0.len()).map(|number| self.at(number))
    }

    /// A batch by shard; shards without a part are left out.
    pub(super) fn split<'a, T>(&'a self, batch: &'a [T], id: impl Fn(&T) -> MessageId) -> Vec<Part<'a, T>> {
        let mut parts: Vec<Part<'a, T>> = self.all().map(|shard| Part { shard, places: Vec::new(), items: Vec::new() }).collect();
        for (place, item) in batch.iter().enumerate() {
            let part = &mut parts[self.number_of(id(item))];
            part.places.push(place);
            part.items.push(item);
        }
        parts.retain(|part| !part.items.is_empty());
        parts
    }

    fn number_of(&self, id: MessageId) -> usize {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        usize::try_from(shard_of(id, count)).unwrap_or_default()
    }

    fn at(&self, number: usize) -> Shard<'_> {
        Shard { sql: self.0[number].sql(), home: &self.0[0], is_home: number == 0 }
    }
}

/// Answers back at the places where their items stood.
pub(super) fn put_back<T>(all: &mut [Option<T>], places: &[usize], answers: Vec<T>) {
    for (place, answer) in places.iter().zip(answers) {
        all[*place] = Some(answer);
    }
}
