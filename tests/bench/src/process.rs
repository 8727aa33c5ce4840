//! What a process has used of the machine, as the kernel counts it.

use std::time::Duration;

use anyhow::Context as _;

/// A tick of `/proc/<pid>/stat`, milliseconds: Linux tells user space hundredths of a second, whatever it counts in itself.
const TICK_MS: u64 = 10;

/// Time on processors, of all its threads, since its start.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let file = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    // The name, field 2, may have blanks and ends with the last bracket.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut ticks = 0;
    for field in [14, 15] {
        ticks += fields.split_whitespace().nth(field - 3).context("stat is short")?.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * TICK_MS))
}

/// Memory that a process has in the machine, millions of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Now.
    pub resident: f64,
    /// At most since its start.
    pub peak: f64,
}

/// What the kernel says of a process's memory.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let file = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let named = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {file}"))?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
        anyhow::Ok(kib * 1_024.0 / 1e6)
    };
    Ok(Memory { resident: named("VmRSS:")?, peak: named("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_some_memory_and_never_more_than_its_peak() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident > 0.1 && memory.resident <= memory.peak, "{memory:?}");
    }
}
