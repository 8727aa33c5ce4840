//! The gate before every gRPC method and every HTTP route.
//!
//! | the caller | gRPC | HTTP |
//! |---|---|---|
//! | shows nothing, or what is worth nothing | `UNAUTHENTICATED` | 401 |
//! | is known and lacks the role | `PERMISSION_DENIED` | 403 |
//! | cannot be told now: the issuer's keys are not there | `UNAVAILABLE` | 503 |
//!
//! Health is open to everybody.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Extensions, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use countersign_telemetry::names;
use tonic::Status;
use tonic::service::Routes;

use super::{Access, Caller, Denied, Means, Methods, Role};
use crate::tls::Peer;

/// Open to everybody, whatever they show.
const HEALTH: &str = "/health/";
/// Longest part of a path in a log.
const SHOWN: usize = 100;

/// A call of a known caller who lacks the role for it.
#[derive(Debug, Clone)]
pub struct Forbidden {
    /// Who called.
    pub caller: Caller,
    /// What: `/package.Service/Method`.
    pub path: String,
    /// The role that it needs.
    pub needed: Role,
}

/// Told of every call that is forbidden; must not block.
pub type OnForbidden = Arc<dyn Fn(Forbidden) + Send + Sync>;

/// Why a call is not let in, for its caller.
enum Refusal {
    Denied(Denied),
    Forbidden(Forbidden),
}

/// What stands before the methods of one gRPC server.
pub(crate) struct GrpcGate {
    pub(crate) access: Access,
    pub(crate) methods: Methods,
    pub(crate) on_forbidden: Option<OnForbidden>,
}

impl fmt::Debug for GrpcGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcGate").field("methods", &self.methods).finish_non_exhaustive()
    }
}

impl GrpcGate {
    /// These routes behind the gate; as they are where nobody is asked.
    pub(crate) fn before(self, routes: Routes) -> Routes {
        if !self.access.is_on() {
            return routes;
        }
        Routes::from(routes.into_axum_router().layer(from_fn_with_state(Arc::new(self), call)))
    }
}

/// One call.
async fn call(State(gate): State<Arc<GrpcGate>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let Some(needed) = gate.methods.needed(path) else { return next.run(request).await };
    let refusal = match gate.access.caller(request.headers(), request.extensions().get::<Peer>()).await {
        Ok(caller) if caller.may(needed) => {
            request.extensions_mut().insert(caller);
            return next.run(request).await;
        }
        Ok(caller) => Refusal::Forbidden(Forbidden { caller, path: path.to_owned(), needed }),
        Err(denied) => Refusal::Denied(denied),
    };
    refusal.tell("grpc", path, request.extensions());
    if let (Refusal::Forbidden(forbidden), Some(told)) = (&refusal, &gate.on_forbidden) {
        told(forbidden.clone());
    }
    refusal.status().into_http()
}

/// All routes of the HTTP server: whoever shows something worthless goes no further, and the others are known from here on.
pub(crate) fn identified(router: Router, access: Access) -> Router {
    if access.is_on() { router.layer(from_fn_with_state(access, identify)) } else { router }
}

async fn identify(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let caller = match access.caller(request.headers(), request.extensions().get::<Peer>()).await {
        Err(Denied::Nothing) => Caller::nobody(),
        Ok(caller) => caller,
        // A probe must not fail by what it shows: it would have the process killed.
        Err(_) if request.uri().path().starts_with(HEALTH) => Caller::nobody(),
        Err(denied) => {
            let refusal = Refusal::Denied(denied);
            refusal.tell("http", request.uri().path(), request.extensions());
            return refusal.response();
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// These routes for those who have the role.
pub(crate) fn needing<S: Clone + Send + Sync + 'static>(needed: Role, router: Router<S>) -> Router<S> {
    router.layer(from_fn_with_state(needed, need))
}

async fn need(State(needed): State<Role>, request: Request, next: Next) -> Response {
    let caller = Caller::of(request.extensions());
    if caller.may(needed) {
        return next.run(request).await;
    }
    let refusal = if caller.means() == Means::Nothing {
        Refusal::Denied(Denied::Nothing)
    } else {
        Refusal::Forbidden(Forbidden { caller, path: request.uri().path().to_owned(), needed })
    };
    refusal.tell("http", request.uri().path(), request.extensions());
    refusal.response()
}

impl Refusal {
    fn words(&self) -> String {
        match self {
            Self::Denied(Denied::Nothing) => {
                "say who calls: send \"authorization: Bearer TOKEN\", or show a client certificate".to_owned()
            }
            Self::Denied(Denied::Unknown(words) | Denied::Later(words)) => (*words).to_owned(),
            Self::Forbidden(Forbidden { caller, needed, .. }) => {
                format!("{:?} may not do this: it needs the role {}", caller.name(), needed.as_str())
            }
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Denied(Denied::Later(_)) => Status::unavailable(self.words()),
            Self::Denied(_) => Status::unauthenticated(self.words()),
            Self::Forbidden(_) => Status::permission_denied(self.words()),
        }
    }

    fn response(&self) -> Response {
        let words = self.words() + "\n";
        match self {
            Self::Denied(Denied::Later(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], words).into_response()
            }
            Self::Denied(_) => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], words).into_response(),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, words).into_response(),
        }
    }

    fn tell(&self, surface: &'static str, path: &str, extensions: &Extensions) {
        let from = extensions.get::<Peer>().and_then(|peer| peer.address).map(tracing::field::display);
        let shown: String = path.chars().take(SHOWN).collect();
        let reason = match self {
            Self::Denied(Denied::Nothing) => "nothing",
            Self::Denied(Denied::Unknown(_)) => "unknown",
            Self::Denied(Denied::Later(_)) => "later",
            Self::Forbidden(_) => "forbidden",
        };
        metrics::counter!(names::ACCESS_DENIED_TOTAL, "surface" => surface, "reason" => reason).increment(1);
        match self {
            Self::Denied(_) => tracing::info!(surface, path = shown, from, reason, why = self.words(), "a call was not let in"),
            Self::Forbidden(Forbidden { caller, needed, .. }) => {
                tracing::warn!(surface, path = shown, from, ?caller, needed = needed.as_str(), "a call was not let in");
            }
        }
    }
}
