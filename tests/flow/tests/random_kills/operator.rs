//! An operator who brings through what the handler has refused, by calls to callbacks that die under them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::bail;
use countersign_launcher::SUBSCRIPTION;
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use countersign_wire::proto::dead_letter_service_client::DeadLetterServiceClient;
use countersign_wire::proto::{
    DeadLetterFilter, Delivery, DiscardDeliveryRequest, ListDeliveriesRequest, RedriveDeadLettersRequest, RedriveDeliveryRequest,
    RestoreDeliveryRequest,
};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Course;

const BY: &str = "ann";
/// Between two looks at what is parked.
const GAP: Duration = Duration::from_millis(200);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(1);

/// How often each message was asked to be redriven, whatever came of it.
pub type Redrives = BTreeMap<String, u32>;

/// Deals with what is parked, one delivery at a time, until everything has healed.
///
/// # Errors
/// When a callback says that the request itself is wrong.
pub async fn mend(urls: &[String], called: &AtomicUsize, mut random: fastrand::Rng, course: &Course) -> anyhow::Result<Redrives> {
    let mut redrives = Redrives::new();
    let channel =
        |url: &String| anyhow::Ok(Endpoint::from_shared(url.clone())?.connect_timeout(CONNECT).timeout(CALL).connect_lazy());
    let channels = urls.iter().map(channel).collect::<anyhow::Result<Vec<Channel>>>()?;
    while !course.is_healed() {
        sleep(GAP).await;
        // Whoever waits for a call, or anybody: the one that is meant may be dead.
        let member = if random.bool() { called.load(Ordering::Relaxed) } else { random.usize(0..channels.len()) };
        match turn(&channels[member], &mut random, &mut redrives).await {
            Err(status) if status.code() == Code::InvalidArgument => bail!("a request was wrong: {status}"),
            // It died, or somebody was faster: the next look tells.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(redrives)
}

async fn turn(channel: &Channel, random: &mut fastrand::Rng, redrives: &mut Redrives) -> Result<(), Status> {
    let mut callback = CallbackServiceClient::new(channel.clone());
    let states = ["parked", "discarded"].map(str::to_owned).into();
    let request = ListDeliveriesRequest { page_size: 100, states, ..Default::default() };
    let open = callback.list_deliveries(request).await?.into_inner().deliveries;
    let Some(Delivery { message_id, state, .. }) = random.choice(open) else { return Ok(()) };
    if state == "discarded" {
        let request = RestoreDeliveryRequest { message_id, by: BY.into(), ..Default::default() };
        return callback.restore_delivery(request).await.map(drop);
    }
    match random.u32(0..10) {
        0 => {
            let request =
                DiscardDeliveryRequest { message_id, by: BY.into(), reason: "a wrong guess".into(), ..Default::default() };
            callback.discard_delivery(request).await.map(drop)
        }
        1..=4 => {
            *redrives.entry(message_id.clone()).or_default() += 1;
            let request = RedriveDeliveryRequest { message_id, by: BY.into(), ..Default::default() };
            callback.redrive_delivery(request).await.map(drop)
        }
        _ => {
            *redrives.entry(message_id.clone()).or_default() += 1;
            from_its_letter(channel, message_id).await
        }
    }
}

async fn from_its_letter(channel: &Channel, message_id: String) -> Result<(), Status> {
    let filter = DeadLetterFilter { subscription: SUBSCRIPTION.into(), message_ids: vec![message_id], ..Default::default() };
    let request = RedriveDeadLettersRequest { filter: Some(filter), by: BY.into(), ..Default::default() };
    let mut told = DeadLetterServiceClient::new(channel.clone()).redrive_dead_letters(request).await?.into_inner();
    while told.message().await?.is_some() {}
    Ok(())
}
