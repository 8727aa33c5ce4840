//! What operators ask of a downstream.

mod dead;
pub mod subscriptions;

use std::sync::Arc;

use countersign_boot::GrpcServices;
use countersign_delivery::ports::Clock;
use countersign_wire::proto;
use countersign_wire::proto::dead_letter_service_server::DeadLetterServiceServer;
use countersign_wire::proto::subscription_service_server::SubscriptionServiceServer;

use crate::dead_letters::DeadLetters;
use crate::pause::Watch;
use crate::standing::Standing;

/// The services of one downstream.
pub(crate) fn services(dead_letters: DeadLetters, standings: Vec<Standing>, watch: Watch, clock: Arc<dyn Clock>) -> GrpcServices {
    GrpcServices::new(proto::DESCRIPTORS)
        .add(SubscriptionServiceServer::new(subscriptions::Api::new(standings, watch, clock)))
        .add(DeadLetterServiceServer::new(dead::Api::new(dead_letters)))
}
