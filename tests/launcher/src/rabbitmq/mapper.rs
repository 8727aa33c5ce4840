//! Erlang's port mapper, which tells nodes where each other listen.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use tokio::net::TcpStream;

use super::{START, files};
use crate::port::free_port;
use crate::program::{Program, Running};
use crate::wait::wait_until;

/// A private one on a free port. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Mapper {
    program: Program,
    running: Mutex<Running>,
    port: u16,
}

impl Mapper {
    /// Starts one whose log goes below `dir`.
    pub(super) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let program = Program::new(files::port_mapper()?)
            .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
            .log_to(dir.join("log/epmd.log"));
        let running = spawn(&program, port).await?;
        Ok(Self { program, running: Mutex::new(running), port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.running().pid()
    }

    pub(super) fn kill9(&self) {
        self.running().kill9();
    }

    /// Starts it again if it has ended.
    pub(super) async fn revive(&self) -> anyhow::Result<()> {
        let is_alive = self.running().is_alive();
        if !is_alive {
            let running = spawn(&self.program, self.port).await?;
            *self.running() = running;
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn spawn(program: &Program, port: u16) -> anyhow::Result<Running> {
    let running = program.spawn()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_until("Erlang's port mapper to listen", START, async || {
        !running.is_alive() || TcpStream::connect(address).await.is_ok()
    })
    .await?;
    if !running.is_alive() {
        bail!("Erlang's port mapper ended at once{}", running.log_tail());
    }
    Ok(running)
}
