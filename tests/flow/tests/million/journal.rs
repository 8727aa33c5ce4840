//! The handler's own book: a file with one line for each effect.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;

/// A line: an id in its usual form, a blank, a try of one digit, the end of the line; bytes.
const LINE: u64 = 39;

/// Where it is.
#[derive(Clone, Debug)]
pub(super) struct Journal(pub(super) PathBuf);

impl Journal {
    /// How many effects there have been.
    pub(super) fn effects(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(&self.0).with_context(|| self.0.display().to_string())?.len() / LINE)
    }

    /// The tries that brought each message's effects.
    pub(super) fn read(&self) -> anyhow::Result<BTreeMap<MessageId, Vec<u32>>> {
        let text = std::fs::read_to_string(&self.0)?;
        ensure!(u64::try_from(text.len())? == self.effects()? * LINE, "the journal has lines of another form");
        let mut effects = BTreeMap::<_, Vec<u32>>::new();
        for line in text.lines() {
            let (id, attempt) = line.split_once(' ').with_context(|| format!("the journal has the line {line:?}"))?;
            effects.entry(MessageId::parse(id)?).or_default().push(attempt.parse()?);
        }
        Ok(effects)
    }
}
