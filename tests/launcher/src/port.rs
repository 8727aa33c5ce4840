//! A free port that stays ours.

use std::fs::{File, create_dir_all};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};

/// Below the ports that the kernel hands to outgoing connections: between a kill and a restart of a server no client's
/// own port can take its place.
const PORTS: Range<u16> = 18_000..32_000;

/// The hundreds above those, which [`free_hundred`] gives out.
const HUNDREDS: Range<u16> = 320..327;

/// Locks of the ports given out, held as long as this process lives and released by the kernel however it ends.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port of 127.0.0.1 on which nothing listens, and which no other process that asks here gets meanwhile.
///
/// # Errors
/// When all ports of the range are taken, or the directory of the locks cannot be written.
pub fn free_port() -> anyhow::Result<u16> {
    let locks = lock_directory()?;
    // Processes start at different places, so that parallel tests rarely look at the same port.
    let offset = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start))?;
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset.wrapping_mul(31));
        let port = PORTS.start + step % (PORTS.end - PORTS.start);
        if take(&locks.join(port.to_string()), &[port]) {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

/// A number of three digits that, with each of these two-digit `ends` behind, is a port as [`free_port`] gives it: for a system whose ports
/// shall look like the usual ones.
///
/// # Errors
/// When all are taken, or the directory of the locks cannot be written.
pub fn free_hundred(ends: &[u16]) -> anyhow::Result<u16> {
    let locks = lock_directory()?;
    for hundred in HUNDREDS {
        let ports: Vec<u16> = ends.iter().map(|end| hundred * 100 + end).collect();
        if take(&locks.join(format!("{hundred}xx")), &ports) {
            return Ok(hundred);
        }
    }
    bail!("no free hundred of ports between {}00 and {}00", HUNDREDS.start, HUNDREDS.end)
}

/// Whether this lock is ours now, and nothing listens on these ports.
fn take(lock: &Path, ports: &[u16]) -> bool {
    let Ok(lock) = File::create(lock) else { return false };
    if lock.try_lock().is_err() || ports.iter().any(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err()) {
        return false;
    }
    HELD.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
    true
}

/// One directory per user: the files of another user could not be locked.
fn lock_directory() -> anyhow::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let locks = std::env::temp_dir().join(format!("countersign-ports-{user}"));
    create_dir_all(&locks).with_context(|| format!("creating {}", locks.display()))?;
    Ok(locks)
}
