//! How the connections stand, in words an operator can act on.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use lapin::ErrorKind;
use tokio::sync::watch;

/// How a connection, or the whole [`Broker`](crate::Broker), stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Connected.
    Up,
    /// Not connected, and why. Connecting goes on by itself.
    Down(DownReason),
    /// Connected, but the broker takes no publishes (memory or disk alarm); its words.
    Blocked(String),
}

impl State {
    /// Whether messages flow.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Blocked(_) => 1,
            Self::Down(_) => 2,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("connected to the broker"),
            Self::Down(reason) => write!(f, "not connected to the broker: {reason}"),
            Self::Blocked(reason) => write!(f, "the broker takes no publishes: {reason}"),
        }
    }
}

/// Returns when the connection has gone and come back: the broker may have lost what it had. Never, once the broker is not watched any more.
pub async fn reconnected(state: &mut watch::Receiver<State>) {
    let gone = state.wait_for(|state| !state.is_up()).await.is_ok();
    if !gone || state.wait_for(State::is_up).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The first attempt has not ended yet.
    #[error("still connecting")]
    Starting,
    /// Nothing answers there, or not in time.
    #[error("cannot reach {place}: {detail}")]
    Unreachable {
        /// Address without password.
        place: String,
        /// The system's words.
        detail: String,
    },
    /// User or password is wrong.
    #[error("user {user} was refused: correct name and password in broker.url")]
    WrongPassword {
        /// Who tried.
        user: String,
    },
    /// There is no such virtual host.
    #[error("virtual host {vhost:?} does not exist: create it, or correct the path of broker.url")]
    NoSuchVhost {
        /// Its name.
        vhost: String,
    },
    /// The user may not enter this virtual host.
    #[error("user {user} has no permission for virtual host {vhost:?}: grant it")]
    VhostForbidden {
        /// Who tried.
        user: String,
        /// Its name.
        vhost: String,
    },
    /// The broker lacks at-least-once dead-lettering.
    #[error(
        "RabbitMQ {version} is too old: use 3.10 or later, the first with at-least-once dead-lettering, which the delayed checks need"
    )]
    TooOld {
        /// What it says it is.
        version: String,
    },
    /// The connection was there, and went.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// It was stopped on purpose.
    #[error("stopped")]
    Stopped,
}

impl DownReason {
    /// Whether it may heal without a change of configuration. Connecting goes on in any case, since an administrator may mend it.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Starting | Self::Unreachable { .. } | Self::Lost(_))
    }

    /// What an attempt to connect failed of.
    pub(crate) fn of_connect(error: &lapin::Error, place: &str, user: &str, vhost: &str) -> Self {
        let (user, vhost) = (user.to_owned(), vhost.to_owned());
        if let ErrorKind::ProtocolError(error) = error.kind() {
            let words = error.get_message().as_str();
            if words.contains("Login was refused") || words.contains("login refused") {
                return Self::WrongPassword { user };
            }
            if words.contains("vhost") && words.contains("not found") {
                return Self::NoSuchVhost { vhost };
            }
            if words.contains("access to vhost") {
                return Self::VhostForbidden { user, vhost };
            }
        }
        let detail = match error.kind() {
            ErrorKind::IOError(error) => error.to_string(),
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            _ => error.to_string(),
        };
        Self::Unreachable { place: place.to_owned(), detail }
    }
}

/// Puts the states of both connections together: the worst one counts.
#[derive(Debug)]
pub(crate) struct Board {
    lines: Mutex<[Option<State>; 2]>,
    whole: watch::Sender<State>,
}

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Publish,
    Consume,
}

impl Purpose {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

impl Board {
    pub(crate) fn new() -> Self {
        Self { lines: Mutex::new([None, None]), whole: watch::Sender::new(State::Down(DownReason::Starting)) }
    }

    pub(crate) fn set(&self, purpose: Purpose, state: State) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines[purpose as usize] = Some(state);
        let worst = lines.iter().flatten().max_by_key(|state| state.rank()).cloned().unwrap_or(State::Up);
        self.whole.send_if_modified(|whole| {
            let changed = *whole != worst;
            *whole = worst;
            changed
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.whole.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_come_back_only_after_it_has_gone() {
        let (told, mut state) = watch::channel(State::Up);
        let mut back = std::pin::pin!(reconnected(&mut state));
        assert!(futures::poll!(&mut back).is_pending());
        told.send_replace(State::Down(DownReason::Starting));
        assert!(futures::poll!(&mut back).is_pending());
        told.send_replace(State::Up);
        assert!(futures::poll!(&mut back).is_ready());
    }

    #[test]
    fn the_worst_connection_counts() {
        let board = Board::new();
        let whole = board.watch();
        board.set(Purpose::Publish, State::Up);
        assert_eq!(*whole.borrow(), State::Up);
        board.set(Purpose::Consume, State::Down(DownReason::Starting));
        board.set(Purpose::Publish, State::Blocked("low on memory".into()));
        assert_eq!(*whole.borrow(), State::Down(DownReason::Starting));
        board.set(Purpose::Consume, State::Up);
        assert_eq!(*whole.borrow(), State::Blocked("low on memory".into()));
    }
}
