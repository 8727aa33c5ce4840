//! What a process has used of the machine, as the kernel counts it.

use std::time::Duration;

use anyhow::Context as _;

/// A tick of `/proc/<pid>/stat`, milliseconds: Linux tells user space hundredths of a second, whatever it counts in itself.
const TICK_MS: u64 = 10;
/// Fields of that file, counted from 1: time in user mode and in the kernel, of a process and of its children that have ended.
const OWN: [usize; 2] = [14, 15];
const ENDED_CHILDREN: [usize; 2] = [16, 17];
const PARENT: usize = 4;

/// Time on processors, of all its threads, since its start.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    time(&stat(pid)?, &OWN)
}

/// The same with its children, those that have ended included: a server with a process for each session.
pub(crate) fn cpu_with_children(pid: u32) -> anyhow::Result<Duration> {
    let own = stat(pid)?;
    let mut all = time(&own, &OWN)? + time(&own, &ENDED_CHILDREN)?;
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let Some(other) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that ends meanwhile is counted with its parent the next time.
        let Ok(fields) = stat(other) else { continue };
        if fields.get(PARENT - FIRST).is_some_and(|parent| *parent == pid.to_string()) {
            all += time(&fields, &OWN)? + time(&fields, &ENDED_CHILDREN)?;
        }
    }
    Ok(all)
}

/// The number of the first field of [`stat`].
const FIRST: usize = 3;

/// The fields from the third on.
fn stat(pid: u32) -> anyhow::Result<Vec<String>> {
    let file = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    // The name, field 2, may have blanks and ends with the last bracket.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn time(fields: &[String], numbers: &[usize]) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for number in numbers {
        ticks += fields.get(number - FIRST).context("stat is short")?.parse::<u64>()?;
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

    #[test]
    fn a_child_counts_with_its_parent_while_it_lives_and_after() {
        let this = std::process::id();
        let before = cpu_with_children(this).unwrap();
        let burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read line";
        let mut child = std::process::Command::new("sh").args(["-c", burn]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let least = Duration::from_millis(2 * TICK_MS);
        while cpu(child.id()).unwrap() < least {
            std::thread::yield_now();
        }
        assert!(cpu_with_children(this).unwrap() >= before + least, "alive");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(cpu_with_children(this).unwrap() >= before + least, "ended");
    }
}
