//! What can be asked of the demo.

use std::path::PathBuf;

use clap::Parser;

/// Orders flow while the broker loses messages and every process is killed, and each order is processed once and signed for.
///
/// The demo starts a private RabbitMQ and Redis, the three services and a shop with a database of its own, on free ports of
/// 127.0.0.1 and below a temporary directory. While orders flow it purges the work queue, unbinds it for a while, kills each service
/// with SIGKILL in the middle of its work, loses receipts, and restarts the broker. In the end it compares the books of the sender,
/// the shop, callback and the broker. Nothing is left running.
///
/// Exit codes: 0 every order was processed once and signed for, and every fault struck; 1 not so, the last lines say what;
/// 2 the demo could not run to its end, or an option is wrong.
#[derive(Debug, Clone, Parser)]
#[command(name = "deploy/local/demo", verbatim_doc_comment)]
pub struct Options {
    /// How many orders
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    pub orders: u32,
    /// Draws the points at which the faults strike; the same seed gives the same points. It is printed; default: a new one each time
    #[arg(long)]
    pub seed: Option<u64>,
    /// Negative control: everything the same, but callback is not started. The demo then reports lost orders and ends with 1
    #[arg(long)]
    pub without_callback: bool,
    /// From the publish of a message to its check, milliseconds. Two minutes in production; shorter here, so that you can watch
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(500..=120_000))]
    pub check_delay_ms: u64,
    /// A broker of your own, with virtual host: amqp://user:password@host:port/vhost. The demo declares its queues there, purges and
    /// unbinds them; it does not restart that broker
    #[arg(long, value_parser = amqp_url)]
    pub amqp_url: Option<String>,
    /// A Redis of your own: redis://host:port. Claims of the demo's messages are stored there
    #[arg(long, value_parser = redis_url)]
    pub redis_url: Option<String>,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    pub patience_s: u64,
    /// Scrape the services with a private Prometheus too, and draw what the overview dashboard shows of the run into this SVG file
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Set by the demo itself: end when standard input ends
    #[arg(long, hide = true)]
    pub kept: bool,
}

fn amqp_url(text: &str) -> Result<String, String> {
    if ["amqp://", "amqps://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(text.to_owned());
    }
    Err("write it as amqp://user:password@host:port/vhost".to_owned())
}

fn redis_url(text: &str) -> Result<String, String> {
    if ["redis://", "rediss://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(text.to_owned());
    }
    Err("write it as redis://host:port".to_owned())
}
