//! When a record's gate opens: as soon as the record has been seen to take writes, and later each time if that does not last.
//!
//! What is consumed while the gate is open goes back when it closes, and the broker counts that against each message (delivery limit). If
//! claims fail although all that they write can be written, such as for a record that somebody else has changed, opening at once again and
//! again would run good messages into that limit.

use std::error::Error;
use std::time::Duration;

use countersign_telemetry::with_sources;
use futures::FutureExt as _;
use tokio::time::Instant;

use crate::gate::{Gate, Opening};

/// Open for so long, it was sound: the next pause is the first one again.
const SOUND: Duration = Duration::from_secs(10);
/// The longest pause. A message that is handed out once in such a pause stands 16 hours until the broker's delivery limit (1,000).
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// The pauses before the gate is opened again.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    first: Duration,
    next: Duration,
}

impl Pauses {
    const fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    /// The pause after it has stood open for so long. Doubles as long as it does not stand.
    fn after(&mut self, open_for: Duration) -> Duration {
        let pause = if open_for >= SOUND { self.first } else { self.next };
        self.next = (pause * 2).min(PAUSE_MAX.max(self.first));
        pause
    }
}

/// Opens and closes the gate without end, as `ping` says whether the record takes claims; asks every `look`.
pub async fn watch<E: Error, F: Future<Output = Result<(), E>>>(ping: impl Fn() -> F, gate: Gate, look: Duration) {
    let mut pauses = Pauses::new(look);
    loop {
        while let Err(error) = ping().await {
            gate.close(&with_sources(&error));
            tokio::time::sleep(look).await;
        }
        gate.open();
        let opened = Instant::now();
        // Whoever closed it in this very moment has been too fast to be waited for.
        if let Some(opening) = gate.opened().now_or_never() {
            stand(&ping, &gate, opening, look).await;
        }
        tokio::time::sleep(pauses.after(opened.elapsed())).await;
    }
}

/// Until it is closed, here or by a claim that fails.
async fn stand<E: Error, F: Future<Output = Result<(), E>>>(
    ping: &impl Fn() -> F,
    gate: &Gate,
    opening: Opening,
    look: Duration,
) {
    loop {
        tokio::select! {
            () = gate.closed(opening) => return,
            () = tokio::time::sleep(look) => {}
        }
        if let Err(error) = ping().await {
            return gate.close(&with_sources(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_boot::Health;
    use countersign_delivery::ports::PortError;
    use std::cell::Cell;

    const LOOK: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_does_not_stand_is_opened_ever_less_often() {
        let gate = Gate::new("redis", Health::default().dependency("redis"));
        let openings = Cell::new(0);
        let closing = async {
            loop {
                gate.opened().await;
                openings.set(openings.get() + 1);
                gate.close("a claim failed although the probe had not");
            }
        };
        let watching = watch(|| async { Ok::<_, PortError>(()) }, gate.clone(), LOOK);
        let both = async { tokio::join!(watching, closing) };
        assert!(tokio::time::timeout(Duration::from_hours(1), both).await.is_err());
        assert!((60..=70).contains(&openings.get()), "{} in an hour", openings.get());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_away_for_once_is_used_as_soon_as_it_is_back() {
        let (gate, away) = (Gate::new("redis", Health::default().dependency("redis")), Cell::new(true));
        let ping = || {
            let answer = if away.get() { Err(PortError::Unavailable("redis", "gone".into())) } else { Ok(()) };
            std::future::ready(answer)
        };
        let watching = watch(ping, gate.clone(), LOOK);
        let looking = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_mins(2)).await;
                assert!(gate.opened().now_or_never().is_none());
                away.set(false);
                let back = Instant::now();
                let opening = gate.opened().await;
                assert!(back.elapsed() <= LOOK, "{:?}", back.elapsed());
                tokio::time::sleep(SOUND).await;
                away.set(true);
                gate.closed(opening).await;
            }
        };
        tokio::select! {
            () = watching => {}
            () = looking => {}
        }
    }

    #[test]
    fn the_pause_doubles_until_it_has_stood_open_for_a_while() {
        let mut pauses = Pauses::new(Duration::from_millis(500));
        let (soon, sound) = (Duration::from_millis(1), SOUND);
        let rows = [(sound, 500), (soon, 1_000), (soon, 2_000), (soon, 4_000), (sound, 500), (soon, 1_000)];
        for (open_for, wanted) in rows {
            assert_eq!(pauses.after(open_for), Duration::from_millis(wanted), "{open_for:?}");
        }
        for _ in 0..20 {
            assert!(pauses.after(soon) <= PAUSE_MAX);
        }
        assert_eq!(pauses.after(soon), PAUSE_MAX);
    }

    #[test]
    fn one_outage_after_a_sound_time_is_ended_as_soon_as_redis_is_back() {
        let mut pauses = Pauses::new(Duration::from_millis(500));
        assert_eq!(pauses.after(Duration::from_millis(1)), Duration::from_millis(500));
    }
}
