//! Files that may change while a process runs: secrets are rotated by whoever mounts them.
//!
//! What can fail: a file that is half written, away or wrong. What was read last stays in force, and the log says so.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What some files say, read anew when they change. Cheap to clone; all clones are one.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    now: Arc<RwLock<Arc<T>>>,
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self { now: self.now.clone() }
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files now, and whenever one of them has changed, until the servers stop. `parse` gets their content in order.
    ///
    /// # Errors
    /// What `parse` says, or that a file cannot be read.
    pub(crate) fn open(
        context: &Context,
        what: &'static str,
        files: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let mut last = read(&files)?;
        let watched = Self { now: Arc::new(RwLock::new(Arc::new(parse(&last)?))) };
        let (this, stop): (_, CancellationToken) = (watched.clone(), context.frame.servers_stop.clone());
        context.frame.servers.spawn(stop.run_until_cancelled_owned(async move {
            let mut told = String::new();
            loop {
                tokio::time::sleep(LOOK).await;
                let fresh = match read(&files) {
                    Ok(fresh) if fresh == last => continue,
                    Ok(fresh) => parse(&fresh).map(|value| (value, fresh)),
                    Err(problem) => Err(problem),
                };
                match fresh {
                    Ok((value, fresh)) => {
                        *this.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                        (last, told) = (fresh, String::new());
                        tracing::info!(what, "read anew");
                    }
                    Err(problem) if problem == told => {}
                    Err(problem) => {
                        tracing::warn!(what, problem, "changed, and cannot be used: what was read before stays in force");
                        told = problem;
                    }
                }
            }
        }));
        Ok(watched)
    }

    /// What they say.
    pub(crate) fn now(&self) -> Arc<T> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let one = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()));
    files.iter().map(one).collect()
}
