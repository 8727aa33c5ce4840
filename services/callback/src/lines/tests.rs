use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

/// A line on which two calls may be under way, with so many orders at once and a second.
fn line(rate: u32) -> Arc<Line> {
    let rate = NonZeroU32::new(rate).unwrap();
    let breaker = BreakerFigures { failures: 2, open: Duration::from_secs(10) };
    let figures = LineFigures { rate_per_s: rate, burst: rate, calls: 2, patience: PATIENCE, breaker };
    Lines::new(figures).to(&UpstreamName::new("shop").unwrap())
}

async fn leave(line: &Arc<Line>, orders: usize) -> Result<Leave, Closed> {
    line.admit(orders, Instant::now() + PATIENCE).await
}

#[tokio::test(start_paused = true)]
async fn a_third_call_waits_for_one_of_two_to_end() {
    let line = line(1_000);
    let (first, _second) = (leave(&line, 1).await.unwrap(), leave(&line, 1).await.unwrap());
    let waiting = leave(&line, 1);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(PATIENCE / 2, &mut waiting).await.is_err(), "both are under way");
    first.answered();
    assert!(waiting.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_too_long_is_sent_away() {
    let line = line(1_000);
    let _under_way = (leave(&line, 1).await.unwrap(), leave(&line, 1).await.unwrap());
    assert_eq!(leave(&line, 1).await.unwrap_err(), Closed::Busy);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_line_that_is_slow_or_has_failed() {
    let line = line(1_000);
    let _under_way = leave(&line, 1).await.unwrap();
    leave(&line, 1).await.unwrap().failed();
    let _second = leave(&line, 1).await.unwrap();
    let before = Instant::now();
    assert_eq!(leave(&line, 1).await.unwrap_err(), Closed::Busy);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_answer_makes_a_line_worth_waiting_for_again() {
    let line = line(1_000);
    let (first, second) = (leave(&line, 1).await.unwrap(), leave(&line, 1).await.unwrap());
    line.note_slow();
    first.answered();
    let _third = leave(&line, 1).await.unwrap();
    let waiting = leave(&line, 1);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(PATIENCE / 2, &mut waiting).await.is_err());
    second.answered();
    assert!(waiting.await.is_ok());
}

#[tokio::test]
async fn what_the_rate_does_not_allow_is_left_for_later() {
    let line = line(64);
    let now = || Instant::now();
    assert_eq!(line.admit(60, now()).await.unwrap().orders(), 60);
    let few = line.admit(60, now()).await.unwrap().orders();
    assert!((1..60).contains(&few), "{few}");
    let mut last = Ok(0);
    while last.is_ok() {
        last = line.admit(60, now()).await.map(|leave| leave.orders());
    }
    assert_eq!(last, Err(Closed::Rate));
}
