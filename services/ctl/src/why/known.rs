//! What is known of one message, before anything is concluded from it.

use countersign_wire::proto::{Delivery, GetMessageResponse, GetOutlookResponse, JudgingFigures, SubscriptionOutlook};

/// What one service said.
#[derive(Clone, Debug)]
pub enum Answer<T> {
    /// This.
    Got(T),
    /// That it knows nothing of it.
    Unknown,
    /// Nothing, and why.
    Away(String),
}

impl<T> Answer<T> {
    /// The answer, if there is one.
    pub const fn got(&self) -> Option<&T> {
        match self {
            Self::Got(answer) => Some(answer),
            Self::Unknown | Self::Away(_) => None,
        }
    }

    /// Why the service did not answer, if it did not.
    pub fn away(&self) -> Option<&str> {
        match self {
            Self::Away(why) => Some(why),
            Self::Got(_) | Self::Unknown => None,
        }
    }
}

/// Everything that the story is told from.
#[derive(Clone, Debug)]
pub struct Known {
    /// The message's id.
    pub id: String,
    /// Upstream's row.
    pub message: Answer<GetMessageResponse>,
    /// Callback's rows.
    pub deliveries: Answer<Vec<Delivery>>,
    /// Callback's figures, clock and probes. Unknown as well when callback is older than this command.
    pub outlook: Answer<GetOutlookResponse>,
    /// This machine's clock, milliseconds since the Unix epoch.
    pub local_now_ms: i64,
}

impl Known {
    /// Callback's clock, or, when it cannot be asked, this machine's.
    pub fn now_ms(&self) -> i64 {
        self.outlook.got().map_or(self.local_now_ms, |outlook| outlook.now_ms)
    }

    /// Whether nobody looks whether it is signed for.
    pub fn is_unchecked(&self) -> bool {
        self.message.got().is_some_and(|message| message.outbox.is_some() && !message.outbox_check)
    }

    /// Who must sign as upstream stored it, and whoever callback knows besides; sorted.
    pub fn subscriptions(&self) -> Vec<&str> {
        let required = self.message.got().into_iter().flat_map(|message| &message.required).map(String::as_str);
        let spoken = self.deliveries.got().into_iter().flatten().map(|delivery| delivery.subscription.as_str());
        let mut all: Vec<&str> = required.chain(spoken).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Callback's row of one subscription.
    pub fn delivery(&self, subscription: &str) -> Option<&Delivery> {
        self.deliveries.got()?.iter().find(|delivery| delivery.subscription == subscription)
    }

    /// By what callback judges.
    pub fn figures(&self) -> Option<&JudgingFigures> {
        self.outlook.got()?.figures.as_ref()
    }

    /// What callback knows of one subscription.
    pub fn outlook_of(&self, subscription: &str) -> Option<&SubscriptionOutlook> {
        self.outlook.got()?.subscriptions.iter().find(|outlook| outlook.subscription == subscription)
    }

    /// The message's own `sent_at`, milliseconds since the Unix epoch, from whoever knows it.
    pub fn sent_at_ms(&self) -> Option<i64> {
        let stored = self.message.got().map(|message| message.sent_at_ms);
        stored.or_else(|| self.deliveries.got()?.first().map(|delivery| delivery.sent_at_ms))
    }

    /// Whether it is too old to be sent again to whom this delivery is for. Where an operator allowed a second effect, the time counts from
    /// that redrive.
    pub fn is_expired(&self, delivery: Option<&Delivery>) -> bool {
        let retention = self.figures().map(|figures| figures.dedup_retention_ms);
        let since = match delivery.filter(|delivery| delivery.effect_epoch > 0) {
            Some(delivery) => risked_at_ms(delivery),
            None => self.sent_at_ms(),
        };
        let age = since.map(|since| u64::try_from(self.now_ms() - since).unwrap_or(0));
        retention.zip(age).is_some_and(|(retention, age)| age >= retention)
    }
}

/// When the redrive that allowed a second effect was ordered, milliseconds since the Unix epoch.
fn risked_at_ms(delivery: &Delivery) -> Option<i64> {
    let of_it = |epoch: u32| epoch == delivery.effect_epoch;
    let mut lines = delivery.history.iter();
    let first = lines.find(|line| line.what == "resending" && line.attempt.is_some_and(|attempt| of_it(attempt.epoch)));
    first.map(|line| line.at_ms)
}
