//! Connections to upstreams: one an address, opened when it is first needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_boot::Client;
use countersign_boot::client::{AddressError, Authorized, Bearer, TLS_AGE};
use tonic::transport::Channel;

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
    client: Client,
    bearer: Bearer,
    open: Mutex<BTreeMap<String, (Instant, Channel)>>,
}

impl Channels {
    /// `deadline` bounds each call, its connection included.
    pub(super) fn new(deadline: Duration, client: &Client) -> Self {
        Self { deadline, client: client.clone(), bearer: client.bearer(), open: Mutex::default() }
    }

    /// The longest time of a call.
    pub(super) const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The same, milliseconds.
    pub(super) fn deadline_ms(&self) -> u64 {
        u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX)
    }

    /// The connection to an address; it opens with the first call. One with TLS is replaced after a while, by then with the files of then.
    pub(super) fn to(&self, address: &str) -> Result<Authorized, AddressError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |opened: &Instant| !address.starts_with("https:") || opened.elapsed() < TLS_AGE;
        if let Some((_, channel)) = open.get(address).filter(|(opened, _)| fresh(opened)) {
            return Ok(self.bearer.on(channel.clone()));
        }
        let endpoint = self
            .client
            .endpoint(address)?
            .connect_timeout(CONNECT.min(self.deadline))
            .timeout(self.deadline)
            .http2_keep_alive_interval(KEEPALIVE)
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        if open.len() < CHANNELS_MAX || open.contains_key(address) {
            open.insert(address.to_owned(), (Instant::now(), channel.clone()));
        }
        Ok(self.bearer.on(channel))
    }
}
