//! What operators ask of a downstream.

mod subscriptions;

use std::sync::Arc;

use countersign_boot::GrpcServices;
use countersign_delivery::ports::Clock;
use countersign_wire::proto;

use crate::pause::Watch;
use crate::standing::Standing;

/// The services of one downstream.
pub(crate) fn services(standings: Vec<Standing>, watch: Watch, clock: Arc<dyn Clock>) -> GrpcServices {
    GrpcServices::new(proto::DESCRIPTORS).add(subscriptions::server(standings, watch, clock))
}
