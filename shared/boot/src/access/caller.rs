//! Who calls.

use std::fmt;
use std::sync::Arc;

use axum::http::Extensions;
use serde::Serialize;
use tonic::{Request, Status};

use super::Role;

/// How a caller has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// It need not: this service asks nobody, and listens on the loopback address only.
    Unasked,
    /// It has not.
    Nothing,
    /// By a token of the tokens file.
    Token,
    /// By a JSON Web Token.
    Jwt,
    /// By a certificate.
    Certificate,
}

/// Who calls, by what means it is known, and what it may do. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    means: Means,
    roles: Arc<[Role]>,
}

impl Caller {
    /// A caller that is known.
    pub(crate) fn known(name: &str, means: Means, roles: &[Role]) -> Self {
        Self { name: name.into(), means, roles: roles.into() }
    }

    /// A caller that has shown nothing: it may nothing.
    pub(crate) fn nobody() -> Self {
        Self::known("", Means::Nothing, &[])
    }

    /// A caller that is not asked who it is: it may everything.
    #[must_use]
    pub fn unasked() -> Self {
        Self::known("", Means::Unasked, &Role::ALL)
    }

    /// Who has made this request. A request that came through no server is one of this process, which nobody asks.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(Self::unasked)
    }

    /// Whether it may do what needs this role.
    #[must_use]
    pub fn may(&self, needed: Role) -> bool {
        self.roles.iter().any(|role| role.covers(needed))
    }

    /// The name under which an act goes down: its own where it is known, else the one it gives.
    #[must_use]
    pub fn signs(&self, given: String) -> String {
        if self.name.is_empty() { given } else { self.name.to_string() }
    }

    /// Its name; empty where it is not known.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is known.
    #[must_use]
    pub const fn means(&self) -> Means {
        self.means
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = self.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" ");
        write!(f, "{:?} by {:?} as {roles:?}", self.name, self.means)
    }
}

/// What is asked, with the name of its caller in the field `by`: a caller that is known signs with its own name, whatever it gives.
#[must_use]
pub fn signed<T>(request: Request<T>, by: impl FnOnce(&mut T) -> &mut String) -> T {
    let caller = Caller::of(request.extensions());
    let mut asked = request.into_inner();
    let by = by(&mut asked);
    *by = caller.signs(std::mem::take(by));
    asked
}

/// Refuses a part of what is asked, such as a payload, to callers who lack the role for it.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn only<T>(request: &Request<T>, needed: Role, what: &str) -> Result<(), Status> {
    if Caller::of(request.extensions()).may(needed) {
        return Ok(());
    }
    Err(Status::permission_denied(format!("{what} needs the role {}", needed.as_str())))
}
