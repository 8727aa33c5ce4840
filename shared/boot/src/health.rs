//! What this process depends on, and whether it may be sent work.
//!
//! Liveness never looks at dependencies: restarting a process does not bring its broker back. Readiness is the truth
//! about all of them, with a reason that a human can act on.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_telemetry::names;
use serde::Serialize;
use tokio::sync::watch;

/// What a dependency says before it is first heard of.
const NOT_YET: &str = "not connected yet";

/// Where a process stands in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `run` has not finished setting up.
    #[default]
    Starting,
    /// Set up; ready when all dependencies are.
    Running,
    /// Told to stop; never ready again.
    Stopping,
}

/// One dependency as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Whether it works.
    pub ready: bool,
    /// Why not, or what a human has to do all the same; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of `/health/ready`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether this process may be sent work: running, and every dependency ready.
    pub ready: bool,
    /// Where it stands in its life.
    pub phase: Phase,
    /// Every dependency by name.
    pub dependencies: BTreeMap<String, State>,
}

/// The health of one process. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<watch::Sender<Readiness>>);

impl Health {
    /// Registers the dependency `name`, not ready at first. The same name twice is the same dependency.
    #[must_use]
    pub fn dependency(&self, name: impl Into<String>) -> Dependency {
        let dependency = Dependency { name: name.into(), health: self.clone() };
        let known = self.0.borrow().dependencies.contains_key(&dependency.name);
        if !known {
            dependency.unready(NOT_YET);
        }
        dependency
    }

    /// What readiness says now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.0.borrow().clone()
    }

    /// Follows readiness as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Readiness> {
        self.0.subscribe()
    }

    /// Setting up is done. `launch` calls it when `run` returns.
    pub fn running(&self) {
        self.change(|r| {
            if r.phase == Phase::Starting {
                r.phase = Phase::Running;
            }
        });
    }

    /// Never ready again. `launch` calls it when a stop is requested.
    pub fn stopping(&self) {
        self.change(|r| r.phase = Phase::Stopping);
    }

    fn change(&self, change: impl FnOnce(&mut Readiness)) {
        self.0.send_if_modified(|readiness| {
            let before = readiness.clone();
            change(readiness);
            readiness.ready = readiness.phase == Phase::Running && readiness.dependencies.values().all(|d| d.ready);
            *readiness != before
        });
    }
}

/// One thing that this process needs in order to work. Whoever holds the connection keeps this up to date.
#[derive(Debug, Clone)]
pub struct Dependency {
    name: String,
    health: Health,
}

impl Dependency {
    /// It works.
    pub fn ready(&self) {
        self.set(State { ready: true, reason: None });
    }

    /// It works, but a human has something to do: readiness shows `reason`, and stays ready.
    pub fn ready_but(&self, reason: impl Into<String>) {
        self.set(State { ready: true, reason: Some(reason.into()) });
    }

    /// It does not work; `reason` is for a human, such as `no connection to 127.0.0.1:5672: refused`.
    pub fn unready(&self, reason: impl Into<String>) {
        self.set(State { ready: false, reason: Some(reason.into()) });
    }

    fn set(&self, state: State) {
        let ready = if state.ready { 1.0 } else { 0.0 };
        metrics::gauge!(names::DEPENDENCY_READY, "dependency" => self.name.clone()).set(ready);
        let before = self.health.0.borrow().dependencies.get(&self.name).cloned();
        let was_ready = before.as_ref().is_some_and(|s| s.ready);
        match &state.reason {
            Some(reason) if was_ready && !state.ready => {
                tracing::warn!(dependency = %self.name, %reason, "no longer ready");
            }
            Some(reason) if state.ready && before.as_ref() != Some(&state) => {
                tracing::warn!(dependency = %self.name, %reason, "ready, but");
            }
            None if !was_ready => tracing::info!(dependency = %self.name, "ready"),
            _ => {}
        }
        self.health.change(|r| {
            r.dependencies.insert(self.name.clone(), state);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_running_with_every_dependency_ready() {
        let health = Health::default();
        let (broker, database) = (health.dependency("broker"), health.dependency("database"));
        broker.ready();
        database.ready();
        assert!(!health.readiness().ready, "still starting");
        health.running();
        assert!(health.readiness().ready);
        broker.unready("connection refused");
        assert!(!health.readiness().ready);
        broker.ready();
        health.stopping();
        health.running();
        assert!(!health.readiness().ready, "a stopping process stays unready");
    }

    #[test]
    fn readiness_names_each_dependency_and_its_reason() {
        let health = Health::default();
        health.dependency("broker").unready("connection refused");
        health.dependency("database").ready();
        health.running();
        let shown = serde_json::to_value(health.readiness()).unwrap();
        let expected = serde_json::json!({
            "ready": false,
            "phase": "running",
            "dependencies": {
                "broker": { "ready": false, "reason": "connection refused" },
                "database": { "ready": true },
            },
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn registering_a_known_dependency_does_not_reset_it() {
        let health = Health::default();
        health.dependency("broker").ready();
        let _again = health.dependency("broker");
        assert!(health.readiness().dependencies["broker"].ready);
    }
}
