//! Messages that come a second time.

use anyhow::{Context as _, ensure};
use countersign_wire::proto::{Attempt, ResendMessagesRequest, ResendOrder, ResendState};
use tonic::codegen::Bytes;

use crate::Flow;

impl Flow {
    /// Has upstream publish these messages, which callback knows, once more.
    ///
    /// # Errors
    /// When one of the services does not answer, or upstream does not publish one of them.
    pub async fn send_again(&self, ids: &[String]) -> anyhow::Result<()> {
        let deliveries = self.deliveries().await?;
        let order = |id: &String| {
            let delivery = deliveries.iter().find(|delivery| delivery.message_id == *id).context("callback does not know it")?;
            Ok(ResendOrder {
                message_id: id_bytes(id),
                attempt: Some(Attempt { epoch: 0, number: 1 }),
                subscriptions: Vec::new(),
                fingerprint: delivery.fingerprint.clone(),
                effect_epoch: 0,
            })
        };
        let request = ResendMessagesRequest { orders: ids.iter().map(order).collect::<anyhow::Result<_>>()? };
        let results = self.upstream().await?.resend_messages(request).await?.into_inner().results;
        ensure!(results.iter().all(|result| result.state() == ResendState::Resent), "{results:?}");
        Ok(())
    }
}

fn id_bytes(text: &str) -> Bytes {
    let hex: String = text.chars().filter(|letter| *letter != '-').collect();
    (0..hex.len()).step_by(2).filter_map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect::<Vec<_>>().into()
}
