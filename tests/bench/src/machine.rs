//! What the figures were taken on.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The machine, as far as it moves figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its processor, as the kernel names it.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The kernel.
    pub kernel: String,
}

impl Machine {
    /// This one. Linux only.
    pub(crate) fn this() -> anyhow::Result<Self> {
        let read = |file: &str| std::fs::read_to_string(file).with_context(|| format!("reading {file}"));
        let named = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = named(&read("/proc/meminfo")?, "MemTotal").context("no MemTotal")?;
        let kib: u64 = memory.trim_end_matches("kB").trim().parse()?;
        Ok(Self {
            processor: named(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| "unknown".into()),
            processors: std::thread::available_parallelism()?.get(),
            memory_mib: kib / 1_024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}
