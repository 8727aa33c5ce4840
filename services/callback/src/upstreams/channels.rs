//! Connections to upstreams: one an address, opened when it is first needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Time to open a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Silence after which the other side is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Connections that are kept, one an address.
const CHANNELS_MAX: usize = 1_000;

/// The connections of one kind of call.
#[derive(Debug)]
pub(super) struct Channels {
    deadline: Duration,
    open: Mutex<BTreeMap<String, Channel>>,
}

impl Channels {
    /// `deadline` bounds each call, its connection included.
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, open: Mutex::default() }
    }

    /// The longest time of a call.
    pub(super) const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The same, milliseconds.
    pub(super) fn deadline_ms(&self) -> u64 {
        u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX)
    }

    /// The connection to an address; it opens with the first call.
    pub(super) fn to(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(address.to_owned())?
            .connect_timeout(CONNECT.min(self.deadline))
            .timeout(self.deadline)
            .http2_keep_alive_interval(KEEPALIVE)
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        if open.len() < CHANNELS_MAX {
            open.insert(address.to_owned(), channel.clone());
        }
        Ok(channel)
    }
}
