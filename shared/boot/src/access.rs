//! Who calls, and whether they may: on every gRPC method and every HTTP route.
//!
//! A caller shows a bearer token ([`tokens`], [`jwt`]) or a client certificate, and has roles ([`Role`]). What is called needs a role: a
//! gRPC method the one of its option `needs` ([`methods`]), a route the one with which it was added. [`gate`] compares them. Handlers find the
//! [`Caller`] in the request's extensions, and write down acts under its name.
//!
//! Where section `[access]` names nobody, nobody is asked; then nothing but loopback is listened on.
//!
//! **Invariant:** what nobody has given a role to needs the highest one; and a token is in no log, span, metric or error.

mod caller;
mod config;
pub(crate) mod gate;
mod jwt;
mod methods;
mod role;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, header};

use crate::context::Context;
use crate::error::Error;
use crate::tls::Peer;
use crate::watched::Watched;
use jwt::Jwt;
use tokens::Tokens;

pub use caller::{Caller, Means, only, signed};
pub use config::{AccessSection, JwtClaim, Tls};
pub(crate) use config::{problems, warnings};
pub(crate) use methods::Methods;
pub use role::Role;

/// Why a call is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It shows nothing.
    Nothing,
    /// What it shows is worth nothing; why.
    Unknown(&'static str),
    /// It cannot be told now; why.
    Later(&'static str),
}

/// How callers are known. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Access(Option<Arc<Known>>);

struct Known {
    tokens: Option<Watched<Tokens>>,
    jwt: Option<Jwt>,
    certificates: BTreeMap<String, Vec<Role>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Access(on)" } else { "Access(off)" })
    }
}

impl Access {
    /// By the section: its files are read, and read anew when they change.
    pub(crate) fn open(context: &Context, section: &AccessSection) -> Result<Self, Error> {
        if !section.is_on() {
            tracing::info!("no caller is asked who it is ([access] names nobody): only the loopback address is listened on");
            return Ok(Self(None));
        }
        let wrong = |problem| Error::Config(vec![problem]);
        let file = &section.tokens_file;
        let tokens = (!file.as_os_str().is_empty())
            .then(|| Watched::open(context, "access.tokens_file", vec![file.clone()], |bytes| Tokens::parse(&bytes[0])));
        let jwt = Jwt::open(context, section).map_err(wrong)?;
        let known = Known { tokens: tokens.transpose().map_err(wrong)?, jwt, certificates: section.certificates.clone() };
        Ok(Self(Some(Arc::new(known))))
    }

    /// Whether callers are asked who they are.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Who calls: by the token if there is one, else by the certificate.
    async fn caller(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, Denied> {
        let Some(known) = &self.0 else { return Ok(Caller::unasked()) };
        let Some(shown) = headers.get(header::AUTHORIZATION) else {
            return peer.and_then(|peer| known.by_certificate(&peer.names)).ok_or(Denied::Nothing);
        };
        let scheme = "authorization is not \"Bearer TOKEN\"";
        let shown = shown.to_str().map_err(|_| Denied::Unknown(scheme))?;
        let (word, token) = shown.split_once(' ').ok_or(Denied::Unknown(scheme))?;
        if !word.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Unknown(scheme));
        }
        let token = token.trim();
        if let Some(caller) = known.tokens.as_ref().and_then(|tokens| tokens.now().caller(token)) {
            return Ok(caller);
        }
        match &known.jwt {
            Some(jwt) => jwt.caller(token).await,
            None => Err(Denied::Unknown("the token is none of the tokens file")),
        }
    }
}

impl Known {
    fn by_certificate(&self, names: &[String]) -> Option<Caller> {
        let (name, roles) = names.iter().find_map(|name| self.certificates.get_key_value(name))?;
        Some(Caller::known(name, Means::Certificate, roles))
    }
}
