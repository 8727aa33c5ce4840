//! Each scenario in its smallest form, as built for tests: that it comes to an end and notes its figures, not what they are.

#![allow(clippy::disallowed_methods, reason = "tests read their own environment; the ban is for the product")]

use clap::Parser as _;
use countersign_bench::{Options, Report};

/// Runs `tests/bench/run` with these arguments and gives back what it has written.
async fn run(arguments: &str) -> anyhow::Result<Report> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("figures.json");
    let words = ["tests/bench/run"].into_iter().chain(arguments.split_whitespace());
    let options = Options::parse_from(words.chain(["--json", file.to_str().unwrap_or_default()]));
    countersign_bench::run(options).await?;
    Ok(serde_json::from_slice(&std::fs::read(&file)?)?)
}

/// Asserts that these figures and no others were noted, in so many rounds, and none is nothing.
fn noted(report: &Report, scenario: &str, rounds: usize, metrics: &[impl AsRef<str>]) {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.scenario == scenario).collect();
    let wanted: Vec<&str> = metrics.iter().map(AsRef::as_ref).collect();
    assert_eq!(rows.iter().map(|row| row.metric.as_str()).collect::<Vec<_>>(), wanted);
    for row in rows {
        assert!(row.n == rounds && row.min > 0.0 && row.min <= row.median && row.median <= row.max, "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream() -> anyhow::Result<()> {
    let report = run("stream --messages 500 --rounds 1").await?;
    noted(&report, "stream", 1, &["raw", "accepted", "verified", "cpu upstream", "cpu downstream", "cpu callback"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary() -> anyhow::Result<()> {
    let report = run("unary --messages 500 --rounds 1 --check-delay-ms 2000").await?;
    let cpu = ["cpu upstream", "cpu downstream", "cpu callback"];
    let figures = ["accepted", "verified", "verified of broker alone"];
    let at_commit = [&figures[..], &cpu].concat().into_iter().map(|metric| format!("at commit: {metric}")).collect::<Vec<_>>();
    let at_commit: Vec<&str> = at_commit.iter().map(String::as_str).collect();
    noted(&report, "unary", 1, &[&["broker alone", "raw", "cpu raw"][..], &figures, &cpu, &at_commit].concat());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http() -> anyhow::Result<()> {
    let report = run("http --messages 500 --rounds 1 --check-delay-ms 2000").await?;
    noted(&report, "http", 1, &["raw", "cpu raw", "delivered", "cpu downstream"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency() -> anyhow::Result<()> {
    let report = run("latency --messages 300 --rounds 1 --check-delay-ms 2000").await?;
    let shares = ["quarter load", "half load", "three quarters load"];
    let mut metrics = shares.map(str::to_owned).to_vec();
    for pace in [&["500/s"], &shares[..]].concat() {
        metrics.extend(["p50", "p99", "p99.9"].iter().flat_map(|of| [format!("raw {of} {pace}"), format!("{of} {pace}")]));
        metrics.push(format!("pace {pace}"));
    }
    noted(&report, "latency", 1, &metrics.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_start() -> anyhow::Result<()> {
    let report = run("memory start --messages 300 --rounds 1 --unconfirmed 1500 --check-delay-ms 2000").await?;
    let peaks = ["peak upstream", "peak downstream", "peak callback"];
    noted(&report, "memory", 1, &[&peaks[..], &["upstream with messages unconfirmed"]].concat());
    noted(&report, "start", 1, &["upstream", "downstream", "callback"]);
    Ok(())
}

/// Whether this one, which takes a minute or fetches packages, is left out.
fn skipped() -> bool {
    let skipped = std::env::var_os("COUNTERSIGN_LONG").is_none();
    if skipped {
        println!("skipped: run it with tests/run --long, or COUNTERSIGN_LONG=1");
    }
    skipped
}

/// Processor time of each service, under this leading text.
fn cpu(leading: &str) -> [String; 3] {
    ["upstream", "downstream", "callback"].map(|service| format!("{leading}cpu {service}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases() -> anyhow::Result<()> {
    let report = run("databases --messages 200 --rounds 1").await?;
    let mut metrics = vec!["raw".to_owned()];
    for database in ["PostgreSQL", "SQLite"] {
        metrics.push(format!("{database}: verified"));
        metrics.extend(cpu(&format!("{database}: ")));
    }
    noted(&report, "databases", 1, &metrics);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes() -> anyhow::Result<()> {
    let report = run("modes --messages 200 --rounds 1").await?;
    let mut metrics = Vec::new();
    for mode in ["verified", "outbox", "confirmed"] {
        let written = ["business WAL", "business rows", "MSG DB WAL", "MSG DB rows"].map(|what| format!("{mode}: {what}"));
        metrics.extend(std::iter::once(mode.to_owned()).chain(written));
    }
    noted(&report, "modes", 1, &metrics);
    let rows = |metric: &str| report.rows.iter().find(|row| row.metric == metric).map_or(0.0, |row| row.median);
    assert!(rows("verified: business rows") >= 1.0 && rows("outbox: business rows") >= 2.0, "{:?}", report.rows);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards() -> anyhow::Result<()> {
    let report = run("guards --messages 400 --rounds 1").await?;
    let mut metrics = vec!["raw".to_owned()];
    let used = [("redis", true, false), ("inbox", false, true), ("tiered", true, true), ("redis+archive", true, true)];
    for (guard, redis, database) in used {
        metrics.push(format!("{guard}: verified"));
        metrics.extend(cpu(&format!("{guard}: ")));
        metrics.extend(redis.then(|| format!("{guard}: Redis round trips")));
        metrics.extend(database.then(|| format!("{guard}: statements")));
    }
    noted(&report, "guards", 1, &metrics);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_outage() -> anyhow::Result<()> {
    if skipped() {
        return Ok(());
    }
    let report = run("outage --messages 400 --outages 1 --check-delay-ms 1000").await?;
    let mut metrics = [
        "broker killed: until all is signed",
        "broker killed: catching up",
        "downstream away: catching up",
        "downstream away: until all is verified",
    ]
    .map(str::to_owned)
    .to_vec();
    for lost in ["lost", "lost, unbounded rate"] {
        metrics.extend(["resent", "signed", "verified"].map(|until| format!("{lost}: {until}")));
    }
    noted(&report, "outage", 1, &metrics);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_growth() -> anyhow::Result<()> {
    if skipped() {
        return Ok(());
    }
    let report = run("growth --messages 400 --rounds 1 --rows 2000").await?;
    let beside = ["verified", "cpu PostgreSQL"].map(|what| ["empty", "grown"].map(|tables| format!("{tables}: {what}"))).concat();
    let deleting = ["grown, deleting: verified", "upstream: deleted", "callback: deleted"].map(str::to_owned);
    let metrics = [beside, deleting.to_vec()].concat();
    noted(&report, "growth", 1, &metrics);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_peers() -> anyhow::Result<()> {
    if skipped() {
        return Ok(());
    }
    let report = run("peers --messages 200 --rounds 1").await?;
    let mut metrics =
        vec!["raw", "countersign stream", "countersign unary", "countersign unary at commit", "celery", "faststream"];
    // Those in Node.js are left out where there is nobody to bring their packages.
    if std::process::Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success()) {
        metrics.extend(["amqplib", "bullmq"]);
    }
    noted(&report, "peers", 1, &metrics);
    Ok(())
}
