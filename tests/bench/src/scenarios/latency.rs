//! From the send to the handler at an even pace, beside the broker alone at the same pace: at 500 messages a second, and at shares of what the
//! machine can do, which is taken from a stream of the same round.
//!
//! A message's time begins when its pace has it sent (before the call, or before the publish) and ends when the handler is called, or the
//! broker's delivery is there. Both are sent by the same pace, see [`crate::load::Pace`]; the row `pace` says how much of it was held. The first
//! tenth is left out of both: connections are made and caches filled. Every message is verified before the next pace begins.

use anyhow::ensure;
use countersign_launcher::Which;

use crate::rig::{Grounds, Rig, Shape};
use crate::servers::Servers;
use crate::{Book, Options, load, raw};

const NAME: &str = "latency";
/// The pace of an ordinary day, messages a second.
const ORDINARY: u32 = 500;
/// Paces that are a share of what a stream of batches comes to.
const SHARES: [(&str, f64); 3] = [("quarter load", 0.25), ("half load", 0.5), ("three quarters load", 0.75)];
/// For so long at each pace, seconds, unless that is more messages than were asked for.
const SECONDS: u32 = 10;
/// Messages of the stream at most.
const STREAM: u32 = 50_000;
/// What is told, of a thousand.
const QUANTILES: [(&str, usize); 3] = [("p50", 500), ("p99", 990), ("p99.9", 999)];

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        one_round(&servers, options, book).await?;
    }
    Ok(())
}

async fn one_round(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let mut rig = Rig::start_on(servers, &Shape::in_process(), Grounds::of(options)).await?;
    let stream = options.messages.min(STREAM);
    let full = rig.pass(stream, options.body_bytes as usize).await?.verified();
    let mut wanted = vec![("500/s", ORDINARY)];
    for (named, share) in SHARES {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "messages a second")]
        let per_second = (full * share).max(1.0) as u32;
        book.note(NAME, named, "messages/s", f64::from(per_second), None);
        wanted.push((named, per_second));
    }

    let mut paced = Vec::new();
    for (named, per_second) in wanted {
        let messages = options.messages.min(per_second.saturating_mul(SECONDS));
        let raw = at_pace(&mut rig, options, messages, per_second).await?;
        paced.push((named, per_second, messages, raw));
    }
    let sent = rig.sent;
    let delays = rig.finish(sent).await?.delays_us;
    ensure!(delays.len() == sent as usize, "{sent} messages were sent, {} delays noted", delays.len());
    let mut rest = &delays[stream as usize..];
    for (named, per_second, messages, (raw, held)) in paced {
        let ours;
        (ours, rest) = rest.split_at(messages as usize);
        note(book, named, &raw, ours);
        book.note(NAME, &format!("pace {named}"), "messages/s", held, Some(held / f64::from(per_second)));
    }
    Ok(())
}

/// Sends so many messages at a pace to the broker alone, then to upstream; the delays of the first, and the pace that the second held.
async fn at_pace(rig: &mut Rig, options: &Options, messages: u32, per_second: u32) -> anyhow::Result<(Vec<u64>, f64)> {
    let bytes = options.body_bytes as usize;
    let raw = raw::run(&rig.amqp, messages, bytes, Some(per_second)).await?.delays_us;
    let took = load::evenly(rig.system.grpc_url(Which::Upstream), messages, bytes, per_second).await?;
    rig.sent += messages;
    rig.verified(rig.sent).await?;
    Ok((raw, f64::from(messages) / took.as_secs_f64()))
}

fn note(book: &mut Book, named: &str, raw: &[u64], ours: &[u64]) {
    let (raw, ours) = (settled(raw), settled(ours));
    for (quantile, of_thousand) in QUANTILES {
        let (raw, ours) = (millis(&raw, of_thousand), millis(&ours, of_thousand));
        book.note(NAME, &format!("raw {quantile} {named}"), "ms", raw, Some(1.0));
        book.note(NAME, &format!("{quantile} {named}"), "ms", ours, Some(ours / raw));
    }
}

/// Without the first tenth, in ascending order.
fn settled(delays_us: &[u64]) -> Vec<u64> {
    let mut settled = delays_us[delays_us.len() / 10..].to_vec();
    settled.sort_unstable();
    settled
}

/// The least of ascending values that so many of a thousand do not exceed, in milliseconds; of none 0.
#[allow(clippy::cast_precision_loss, reason = "microseconds of a delay; far below 2^52")]
fn millis(ascending_us: &[u64], of_thousand: usize) -> f64 {
    let place = (ascending_us.len() * of_thousand).div_ceil(1_000).saturating_sub(1);
    ascending_us.get(place).map_or(0.0, |delay_us| *delay_us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_least_value_that_covers_its_share() {
        let thousand: Vec<u64> = (1..=1_000).map(|n| n * 1_000).collect();
        let rows: [(&[u64], usize, f64); 5] =
            [(&thousand, 500, 500.0), (&thousand, 990, 990.0), (&thousand, 999, 999.0), (&[7_000], 500, 7.0), (&[], 999, 0.0)];
        for (values, of_thousand, wanted) in rows {
            assert!((millis(values, of_thousand) - wanted).abs() < f64::EPSILON, "{of_thousand} of {}", values.len());
        }
    }

    #[test]
    fn the_first_tenth_is_left_out() {
        let delays: Vec<u64> = (0..20).rev().collect();
        assert_eq!(settled(&delays), (0..18).collect::<Vec<_>>());
    }
}
