//! What operators ask of a downstream.

pub mod subscriptions;

use std::sync::Arc;

use countersign_audit::Auditor;
use countersign_boot::GrpcServices;
use countersign_delivery::ports::Clock;
use countersign_delivery::ports::audit::Act;
use countersign_wire::proto;
use countersign_wire::proto::subscription_service_server::SubscriptionServiceServer;

use crate::pause::Watch;
use crate::standing::Standing;

/// The services of one downstream.
pub(crate) fn services(standings: Vec<Standing>, watch: Watch, clock: Arc<dyn Clock>, auditor: Auditor) -> GrpcServices {
    let forbidden = auditor.on_forbidden(act_of);
    let api = subscriptions::Api::new(standings, watch, clock, auditor);
    GrpcServices::new(proto::DESCRIPTORS).on_forbidden(forbidden).add(SubscriptionServiceServer::new(api))
}

/// The act of a method of ours; none for what only reads.
fn act_of(method: &str) -> Option<Act> {
    match method {
        "PauseSubscription" => Some(Act::Pause),
        "ResumeSubscription" => Some(Act::Resume),
        _ => None,
    }
}
