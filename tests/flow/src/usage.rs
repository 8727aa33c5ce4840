//! What a service has used of the machine, as the kernel counts it.

use std::time::Duration;

use anyhow::Context as _;
use countersign_launcher::Which;

use crate::Flow;

/// A tick of `/proc/<pid>/stat`, milliseconds: Linux tells user space hundredths of a second, whatever it counts in itself.
const TICK_MS: u64 = 10;

/// Of a process, since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Time on processors, of all its threads.
    pub cpu: Duration,
    /// Memory that it has now, MiB.
    pub resident_mib: u64,
}

impl Flow {
    /// What a running service has used so far.
    ///
    /// # Errors
    /// When it does not run.
    pub fn usage(&self, which: Which) -> anyhow::Result<Usage> {
        let pid = self.system.process(which)?.pid();
        let read =
            |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("{file} of {}", which.name()));
        Ok(Usage { cpu: cpu(&read("stat")?)?, resident_mib: resident_mib(&read("status")?)? })
    }
}

/// The two fields 14 and 15; the name, field 2, may have blanks and ends with the last bracket.
fn cpu(stat: &str) -> anyhow::Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut ticks = 0;
    for field in [14, 15] {
        ticks += fields.split_whitespace().nth(field - 3).context("stat is short")?.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * TICK_MS))
}

fn resident_mib(status: &str) -> anyhow::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_are_read_out_of_the_kernels_words() -> anyhow::Result<()> {
        let stat = "42 (call ) back) S 1 42 42 0 -1 4194560 900 0 7 0 250 31 0 0 20 0 5 0 1000 1 2";
        assert_eq!(cpu(stat)?, Duration::from_millis(2_810));
        assert_eq!(resident_mib("VmHWM:\t  99999 kB\nVmRSS:\t   20480 kB\n")?, 20);
        assert!(cpu("42 (short) S 1").is_err() && resident_mib("Name: callback").is_err());
        Ok(())
    }
}
