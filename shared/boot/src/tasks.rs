//! Tasks that are named, watched and waited for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_telemetry::names;
use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::stop::Stop;

/// A task's name, for logs.
pub type TaskName = Cow<'static, str>;

/// The tasks of one process. Cheap to clone; all clones are one.
///
/// **Invariant:** the process waits for each of them at its stop, up to the grace; nothing is detached.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    running: Arc<Mutex<BTreeMap<TaskName, usize>>>,
    stop: Stop,
}

impl Tasks {
    /// No tasks yet; failures are reported to `stop`.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self { tracker: TaskTracker::new(), running: Arc::default(), stop }
    }

    /// Runs `future` without which the process is useless: an error or a panic stops the process with exit code 1.
    ///
    /// `Ok` only ends the task. The task should watch [`Stop::soft`] and return.
    pub fn critical<E>(&self, name: impl Into<TaskName>, future: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<anyhow::Error> + Send + 'static,
    {
        let (name, stop) = (name.into(), self.stop.clone());
        let running = self.enter(name.clone());
        let watched = async move {
            let _running = running;
            let reason = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("task {name} failed: {:#}", error.into()),
                Err(panic) => note_panic(&name, panic.as_ref()),
            };
            tracing::error!(task = %name, "{reason}");
            stop.fail(reason);
        };
        self.tracker.spawn(watched.in_current_span());
    }

    /// Runs `future` to its end even when nobody holds the handle. A panic is logged and counted, and told to whoever
    /// awaits the handle; the process goes on.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: impl Into<TaskName>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let name = name.into();
        let running = self.enter(name.clone());
        let watched = async move {
            let _running = running;
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(value) => value,
                Err(panic) => {
                    tracing::error!(task = %name, "{}", note_panic(&name, panic.as_ref()));
                    std::panic::resume_unwind(panic)
                }
            }
        };
        self.tracker.spawn(watched.in_current_span())
    }

    /// The names of the tasks that run, each with how many of them.
    #[must_use]
    pub fn running(&self) -> Vec<(TaskName, usize)> {
        let running = lock(&self.running);
        running.iter().map(|(n, c)| (n.clone(), *c)).collect()
    }

    /// Waits until no task runs, at most `limit`. Returns whether all have ended.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }

    fn enter(&self, name: TaskName) -> Running {
        *lock(&self.running).entry(name.clone()).or_default() += 1;
        Running { name, all: self.running.clone() }
    }
}

/// Keeps a task in the list of running ones until it is dropped, by whatever way the task ends.
struct Running {
    name: TaskName,
    all: Arc<Mutex<BTreeMap<TaskName, usize>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        if let Some(count) = all.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.name);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note_panic(name: &TaskName, panic: &(dyn std::any::Any + Send)) -> String {
    metrics::counter!(names::TASK_PANICS_TOTAL, "task" => name.to_string()).increment(1);
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("task {name} panicked: {}", words.unwrap_or("without words"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_failed_critical_task_stops_the_process_with_its_reason() {
        let stop = Stop::default();
        let tasks = Tasks::new(stop.clone());
        tasks.critical("publisher", async { Err(anyhow::anyhow!("no channel").context("cannot publish")) });
        stop.requested().await;
        assert_eq!(stop.failure(), Some("task publisher failed: cannot publish: no channel"));
        assert!(tasks.drained(LIMIT).await);
    }

    #[tokio::test]
    async fn a_panic_in_a_critical_task_stops_the_process() {
        let stop = Stop::default();
        let tasks = Tasks::new(stop.clone());
        tasks.critical("consumer", async { panic!("{} is odd", 3) as Result<(), anyhow::Error> });
        stop.requested().await;
        assert_eq!(stop.failure(), Some("task consumer panicked: 3 is odd"));
    }

    #[tokio::test]
    async fn a_panic_in_another_task_reaches_who_waits_and_nobody_else() {
        let stop = Stop::default();
        let tasks = Tasks::new(stop.clone());
        let handle = tasks.spawn("one message", async { panic!("poison") });
        assert!(handle.await.unwrap_err().is_panic());
        assert!(tasks.drained(LIMIT).await);
        assert_eq!(stop.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_tasks_whose_handle_is_gone_and_names_the_slow_ones() {
        let stop = Stop::default();
        let tasks = Tasks::new(stop.clone());
        let hard = stop.clone();
        drop(tasks.spawn("commit", async move { hard.hard().await }));
        assert!(!tasks.drained(LIMIT).await);
        assert_eq!(tasks.running(), [("commit".into(), 1)]);
        stop.begin_hard();
        assert!(tasks.drained(LIMIT).await);
        assert!(tasks.running().is_empty());
    }
}
