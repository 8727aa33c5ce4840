//! What operators ask of a downstream.

pub mod subscriptions;

use std::sync::Arc;

use countersign_boot::GrpcServices;
use countersign_delivery::ports::Clock;
use countersign_wire::proto;
use countersign_wire::proto::subscription_service_server::SubscriptionServiceServer;

use crate::pause::Watch;
use crate::standing::Standing;

/// The services of one downstream.
pub(crate) fn services(standings: Vec<Standing>, watch: Watch, clock: Arc<dyn Clock>) -> GrpcServices {
    GrpcServices::new(proto::DESCRIPTORS).add(SubscriptionServiceServer::new(subscriptions::Api::new(standings, watch, clock)))
}
