//! A free port that stays ours.

use std::fs::{File, create_dir_all};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail};

/// Below the ports that the kernel hands to outgoing connections: between a kill and a restart of a server no client's
/// own port can take its place.
const PORTS: Range<u16> = 18_000..32_000;

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
        let Ok(lock) = File::create(locks.join(port.to_string())) else {
            continue;
        };
        if lock.try_lock().is_err() || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(lock);
        return Ok(port);
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

/// One directory per user: the files of another user could not be locked.
fn lock_directory() -> anyhow::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let locks = std::env::temp_dir().join(format!("countersign-ports-{user}"));
    create_dir_all(&locks).with_context(|| format!("creating {}", locks.display()))?;
    Ok(locks)
}
