//! What the processes of a peer have handled, as they write it down: see `tests/bench/peers/seen.py` for the file.

use std::path::Path;

use anyhow::{Context as _, ensure};

/// Of all processes together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// When the last message was handled, microseconds since the Unix epoch.
    pub last_us: u64,
    /// How often each message was.
    times: Vec<u32>,
}

impl Seen {
    /// Adds up what is in the files `seen.*` of a directory, with so many messages each.
    pub(super) fn read(dir: &Path, messages: u32) -> anyhow::Result<Self> {
        let mut seen = Self { last_us: 0, times: vec![0; messages as usize] };
        for entry in std::fs::read_dir(dir)? {
            let file = entry?.path();
            if file.file_stem().is_some_and(|stem| stem == "seen") {
                let bytes = std::fs::read(&file)?;
                seen.add(&bytes).with_context(|| format!("reading {}", file.display()))?;
            }
        }
        Ok(seen)
    }

    fn add(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let (head, times) = bytes.split_first_chunk().context("it has no head yet")?;
        ensure!(times.len() == self.times.len(), "it has {} messages, not {}", times.len(), self.times.len());
        self.last_us = self.last_us.max(u64::from_le_bytes(*head));
        for (sum, more) in self.times.iter_mut().zip(times) {
            *sum += u32::from(*more);
        }
        Ok(())
    }

    /// How many were handled at all.
    pub(super) fn handled(&self) -> usize {
        self.times.iter().filter(|times| **times > 0).count()
    }

    /// Whether each was handled, and none again.
    ///
    /// # Errors
    /// Says how many were not, or more than once.
    pub(super) fn each_once(&self) -> anyhow::Result<()> {
        let (all, handled) = (self.times.len(), self.handled());
        let again = self.times.iter().filter(|times| **times > 1).count();
        ensure!(handled == all && again == 0, "of {all} messages {handled} were handled, {again} of them more than once");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, &[u8])]) -> anyhow::Result<Seen> {
        let dir = tempfile::tempdir()?;
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes)?;
        }
        Seen::read(dir.path(), 3)
    }

    #[test]
    fn the_files_of_all_processes_are_added_up() -> anyhow::Result<()> {
        let seen =
            seen(&[("seen.1", &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), ("seen.2", &[7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]), ("go", b"")])?;
        assert_eq!((seen.last_us, seen.handled()), (9, 3));
        seen.each_once()
    }

    #[test]
    fn what_is_missing_or_came_again_is_said() -> anyhow::Result<()> {
        let seen = seen(&[("seen.1", &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2])])?;
        let said = seen.each_once().err().map(|error| error.to_string());
        assert_eq!(said.as_deref(), Some("of 3 messages 2 were handled, 1 of them more than once"));
        Ok(())
    }

    #[test]
    fn a_file_that_is_not_whole_is_not_counted() {
        assert!(seen(&[("seen.1", &[1, 2, 3])]).is_err());
        assert!(seen(&[("seen.1", &[0, 0, 0, 0, 0, 0, 0, 0, 1])]).is_err());
    }
}
