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
