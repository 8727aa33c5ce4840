//! [`Pauses`] on Redis, over the connection of claims: a hash for each subscription that is paused.

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::pauses::{Pause, Pauses};
use countersign_delivery::{SubscriptionName, Timestamp};
use redis::{Cmd, RedisResult};

use crate::claims::{RedisClaims, all, pipeline};
use crate::link::Call;

const REASON: &str = "reason";
const BY: &str = "by";
const AT_MS: &str = "at_ms";

impl RedisClaims {
    fn pause_key(&self, subscription: &SubscriptionName) -> String {
        format!("{}:{{{subscription}}}:paused", self.inner.config.prefix)
    }
}

type Fields = (Option<String>, Option<String>, Option<i64>);

fn read((reason, by, at_ms): Fields) -> Option<Pause> {
    let at = Timestamp::from_millis(at_ms?);
    Some(Pause { reason: reason.unwrap_or_default(), by: by.unwrap_or_default(), at })
}

#[async_trait]
impl Pauses for RedisClaims {
    async fn set(&self, subscription: &SubscriptionName, pause: &Pause) -> Result<(), PortError> {
        let mut set = redis::cmd("HSET");
        set.arg(self.pause_key(subscription)).arg(REASON).arg(&pause.reason).arg(BY).arg(&pause.by);
        set.arg(AT_MS).arg(pause.at.as_millis());
        all::<u64>(self.inner.link.send(Call::Other, &pipeline([set])).await?).map(drop)
    }

    async fn clear(&self, subscription: &SubscriptionName) -> Result<bool, PortError> {
        let mut clear = redis::cmd("DEL");
        clear.arg(self.pause_key(subscription));
        let cleared = all::<u64>(self.inner.link.send(Call::Other, &pipeline([clear])).await?)?;
        Ok(cleared.contains(&1))
    }

    async fn get(&self, subscriptions: &[SubscriptionName]) -> Result<Vec<Option<Pause>>, PortError> {
        if subscriptions.is_empty() {
            return Ok(Vec::new());
        }
        let call = |subscription| {
            let mut call = redis::cmd("HMGET");
            call.arg(self.pause_key(subscription)).arg(REASON).arg(BY).arg(AT_MS);
            call
        };
        let calls: Vec<Cmd> = subscriptions.iter().map(call).collect();
        let answers: Vec<RedisResult<Fields>> = self.inner.link.send(Call::Other, &pipeline(calls)).await?;
        Ok(all(answers)?.into_iter().map(read).collect())
    }
}
