//! What became of the records: counted, the first rejected ones listed, all of them written down if asked for.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::output;
use crate::send_file::batch::{Batch, Fate};
use crate::target::Format;

/// At most so many rejected records are printed one by one; `--rejected FILE` has all of them.
const LISTED: usize = 100;

/// Counts and lists.
#[derive(Debug)]
pub struct Tally {
    /// Stored now.
    pub accepted: u64,
    /// Known before, with the same content; or stored by a call whose answer was lost.
    pub duplicate: u64,
    /// Not taken.
    pub rejected: u64,
    listed: Vec<Value>,
    ids: Option<Journal>,
    rejects: Option<Journal>,
}

impl Tally {
    /// Opens the two files anew.
    ///
    /// # Errors
    /// When one cannot be written, or is the file that is read, or both are one.
    pub fn new(input: &Path, ids: Option<&Path>, rejects: Option<&Path>) -> anyhow::Result<Self> {
        let is_input = |path: &Path| {
            std::fs::canonicalize(path).is_ok_and(|path| std::fs::canonicalize(input).is_ok_and(|input| path == input))
        };
        for path in [ids, rejects].into_iter().flatten() {
            ensure!(!is_input(path), "{} is the file that is sent: write to another one", path.display());
        }
        ensure!(ids.is_none() || ids != rejects, "--ids and --rejected name one file: give each its own");
        let open = |path: Option<&Path>| path.map(Journal::create).transpose();
        let (ids, rejects) = (open(ids)?, open(rejects)?);
        Ok(Self { accepted: 0, duplicate: 0, rejected: 0, listed: Vec::new(), ids, rejects })
    }

    /// Counts and writes down a batch; rows without a fate are left out.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn take(&mut self, batch: &Batch) -> anyhow::Result<()> {
        for row in &batch.rows {
            match &row.fate {
                Some(Fate::Accepted { id, duplicate }) => {
                    let count = if *duplicate { &mut self.duplicate } else { &mut self.accepted };
                    *count += 1;
                    if let Some(ids) = &mut self.ids {
                        ids.write(&json!({"line": row.line, "key": row.key.as_deref(), "id": id, "duplicate": duplicate}))?;
                    }
                }
                Some(Fate::Rejected { why, .. }) => {
                    self.rejected += 1;
                    self.reject(json!({"line": row.line, "key": row.key.as_deref(), "why": why}))?;
                }
                None => {}
            }
        }
        // Before the next batch: whoever kills the run finds every answer.
        for journal in [&mut self.ids, &mut self.rejects].into_iter().flatten() {
            journal.flush()?;
        }
        Ok(())
    }

    fn reject(&mut self, entry: Value) -> anyhow::Result<()> {
        if let Some(rejects) = &mut self.rejects {
            rejects.write(&entry)?;
        }
        if self.listed.len() < LISTED {
            self.listed.push(entry);
        }
        Ok(())
    }

    /// How many records were answered.
    pub const fn answered(&self) -> u64 {
        self.accepted + self.duplicate + self.rejected
    }

    /// The counts in one line.
    pub fn sum(&self) -> String {
        format!("{} accepted, {} duplicate, {} rejected", self.accepted, self.duplicate, self.rejected)
    }

    /// Prints counts and list.
    pub fn print(&self, format: Format) {
        let Self { accepted, duplicate, rejected, listed, .. } = self;
        let json = json!({"accepted": accepted, "duplicate": duplicate, "rejected": rejected, "rejected_lines": listed});
        output::print(format, &json, || {
            let mut lines = vec![self.sum()];
            lines.extend(
                listed.iter().map(|entry| format!("line {}: {}", entry["line"], entry["why"].as_str().unwrap_or_default())),
            );
            let more = rejected - listed.len() as u64;
            if more > 0 {
                lines.push(format!("and {more} more: --rejected FILE writes down all of them"));
            }
            lines.join("\n")
        });
    }
}

/// A file of JSON objects, one a line.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Journal {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    fn write(&mut self, entry: &Value) -> anyhow::Result<()> {
        writeln!(self.file, "{entry}").with_context(|| self.words())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| self.words())
    }

    fn words(&self) -> String {
        format!("{} cannot be written. Make room and run the same command again: nothing is sent twice", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use countersign_wire::proto::NewMessage;

    use super::*;
    use crate::send_file::batch::Row;

    #[test]
    fn every_rejected_record_is_counted_and_the_first_ones_are_listed() {
        let row = |line| {
            let fate = Some(Fate::Rejected { why: "no".into(), is_conflict: false });
            Row { line, key: None, message: NewMessage::default(), fate }
        };
        let mut batch = Batch::default();
        batch.rows = (1..=150).map(row).collect();
        let mut tally = Tally::new(Path::new("-"), None, None).unwrap();
        tally.take(&batch).unwrap();
        assert_eq!((tally.rejected, tally.answered(), tally.listed.len()), (150, 150, LISTED));
        assert_eq!(tally.listed[0], json!({"line": 1, "key": null, "why": "no"}));
    }
}
