//! What the broker says it is, asked before the first login: lapin does not pass it on.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt};
use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;

/// First words of a client of AMQP 0-9-1.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// Type, channel and size come before a frame's payload.
const FRAME_HEAD: usize = 7;
/// Class, method and the two version bytes come before the table of `connection.start`.
const START_HEAD: usize = 6;
/// Longest greeting that is read.
const MAX_GREETING: usize = 64 * 1024;
/// The first version with at-least-once dead-lettering.
const OLDEST: (u32, u32) = (3, 10);

/// Product and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `3.10.8`.
    pub version: String,
}

impl Server {
    /// Whether it is a `RabbitMQ` that cannot do what is needed. Others, and versions that cannot be read, are given a chance.
    pub(crate) fn is_too_old(&self) -> bool {
        let mut numbers = self.version.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return false };
        self.product == "RabbitMQ" && (major, minor) < OLDEST
    }
}

/// Connects, reads the greeting, hangs up. The caller sets the time limit.
pub(crate) async fn ask(uri: &AMQPUri, tls: &OwnedTLSConfig) -> Result<Server, lapin::Error> {
    let runtime = lapin::runtime::default_runtime()?;
    let mut stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
    stream.write_all(PROTOCOL_HEADER).await?;
    stream.flush().await?;
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if head.starts_with(b"AMQP") || !(START_HEAD..=MAX_GREETING).contains(&size) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers there does not speak AMQP 0-9-1").into());
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload).await?;
    let (_, table) = parse_field_table(&payload[START_HEAD..])
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the broker's greeting cannot be read"))?;
    Ok(Server { product: text(&table, "product"), version: text(&table, "version") })
}

fn text(table: &FieldTable, name: &str) -> String {
    match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_old_rabbitmq_is_too_old() {
        let rows = [("RabbitMQ", "3.9.29", true), ("RabbitMQ", "3.10.0", false), ("RabbitMQ", "4.1.2", false)];
        for (product, version, old) in rows {
            let server = Server { product: product.into(), version: version.into() };
            assert_eq!(server.is_too_old(), old, "{server:?}");
        }
        assert!(!Server { product: "Other".into(), version: "1.0".into() }.is_too_old());
        assert!(!Server { product: "RabbitMQ".into(), version: "devel".into() }.is_too_old());
    }
}
