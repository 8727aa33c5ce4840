//! A child process: started, watched by its log, paused, killed, reaped.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::{Instant, sleep};

/// How often a child is asked whether it has ended, and its log whether it has grown.
const PROBE: Duration = Duration::from_millis(10);
/// How long a process may take to stand still after SIGSTOP.
const STOPPING: Duration = Duration::from_secs(5);
/// Lines of the log that an error quotes.
const TAIL_LINES: usize = 30;

/// What to start: a program, its arguments, environment and log file. It inherits this process's environment.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    user: Option<(u32, u32)>,
    log: Option<PathBuf>,
}

impl Program {
    /// The program at `path`; nothing is started yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arguments: Vec::new(), environment: Vec::new(), directory: None, user: None, log: None }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), Some(value.into())));
        self
    }

    /// Takes away a variable that would be inherited.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), None));
        self
    }

    /// The working directory; without it, that of this process.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs as another user and group; needs root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Appends standard output and error to this file, whose directory is created; without it both are discarded.
    #[must_use]
    pub fn log_to(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// Starts it. The same description may be spawned again, after a kill for instance.
    ///
    /// # Errors
    /// When the program cannot be executed or the log cannot be opened.
    pub fn spawn(&self) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).stdin(Stdio::null());
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let mut log_from = 0;
        if let Some(log) = &self.log {
            let file = open_log(log)?;
            log_from = file.metadata()?.len();
            command.stdout(file.try_clone()?).stderr(file);
        } else {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = command.spawn().with_context(|| format!("starting {}", self.path.display()))?;
        Ok(Running {
            name: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            pid: child.id(),
            child: Mutex::new(child),
            log: self.log.clone(),
            log_from,
        })
    }
}

fn open_log(log: &Path) -> anyhow::Result<File> {
    if let Some(parent) = log.parent() {
        create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("opening the log {}", log.display()))
}

/// A started [`Program`]. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Running {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: Option<PathBuf>,
    /// Where this run begins in a log that an earlier run may have begun.
    log_from: u64,
}

impl Running {
    /// The process id. Still the same number after the process has ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process has not ended yet; a stopped process counts as alive.
    pub fn is_alive(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Sends SIGKILL and reaps. Nothing happens if the process has ended already.
    pub fn kill9(&self) {
        let mut child = self.child();
        // Both fail only for a child that is gone, which is what is wanted.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends SIGTERM and returns at once; see [`Running::wait`].
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGINT, as Ctrl-C does, and returns at once; see [`Running::wait`].
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        self.signal(Signal::INT)
    }

    /// Sends SIGSTOP and waits until every thread stands still: the process keeps its connections and answers nothing.
    ///
    /// # Errors
    /// When the process has ended already, or does not stop.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let pid = Pid::from_raw(i32::try_from(self.pid)?).ok_or_else(|| anyhow!("pid 0"))?;
        // Only looks: a child that has ended is still there to be reaped.
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let started = std::time::Instant::now();
        while waitid(WaitId::Pid(pid), look)?.is_none() {
            if started.elapsed() >= STOPPING {
                bail!("{} (pid {}) does not stop", self.name, self.pid);
            }
            std::thread::sleep(PROBE);
        }
        Ok(())
    }

    /// Sends SIGCONT: the process goes on and does not know that it was stopped.
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The lock is held over both steps: a child that is not reaped cannot hand its id to another process.
        let mut child = self.child();
        if let Some(status) = child.try_wait()? {
            bail!("{} (pid {}) has ended already: {status}", self.name, self.pid);
        }
        let pid = Pid::from_raw(i32::try_from(self.pid)?).ok_or_else(|| anyhow!("pid 0"))?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When it still runs after `timeout`; the end of its log is quoted.
    pub async fn wait(&self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child().try_wait()? {
                return Ok(status);
            }
            if started.elapsed() >= timeout {
                bail!("{} still runs after {timeout:?}{}", self.name, self.log_tail());
            }
            sleep(PROBE).await;
        }
    }

    /// Waits where nothing can be awaited; gives up silently after `limit`.
    pub(crate) fn wait_blocking(&self, limit: Duration) {
        let started = std::time::Instant::now();
        while self.is_alive() && started.elapsed() < limit {
            std::thread::sleep(PROBE);
        }
    }

    /// What this run has written to its log so far; empty without [`Program::log_to`].
    pub fn log_text(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let mut bytes = Vec::new();
        // A log that cannot be read reads as empty: whoever waits for a line in it then fails with a clear word.
        if let Ok(mut file) = File::open(log)
            && file.seek(SeekFrom::Start(self.log_from)).is_ok()
        {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a whole line of the log that contains `text` and returns the first such line.
    ///
    /// # Errors
    /// When there is none after `timeout`, or the process ends without having written one; the end of its log is quoted.
    pub async fn wait_for_log(&self, text: &str, timeout: Duration) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            // Asked before the log is read: the last words of a process are in the log when it has ended.
            let ended = self.child().try_wait()?;
            let log = self.log_text();
            let line = log.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains(text));
            if let Some(line) = line {
                return Ok(line.trim_end().to_owned());
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}) before it said {text:?}{}", self.name, self.log_tail());
            }
            if started.elapsed() >= timeout {
                bail!("{} did not say {text:?} within {timeout:?}{}", self.name, self.log_tail());
            }
            sleep(PROBE).await;
        }
    }

    /// The end of the log as a paragraph for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if tail.is_empty() {
            return String::from("; its log is empty");
        }
        format!("; the end of its log:\n    {}", tail.join("\n    "))
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill9();
    }
}
