//! The demo itself is tried: it reports what is lost when nobody looks for it, refuses what it cannot do, and leaves nothing running.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use countersign_launcher::{Program, Running, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long the demo may take with few orders, on a busy machine.
const PLAYED: Duration = Duration::from_mins(3);
/// How long until the first order is sent, and until everything is gone.
const RAISED: Duration = Duration::from_mins(1);
/// A thousand orders and short delays: the least that shows everything.
const SMALL: [&str; 6] = ["--orders", "1000", "--check-delay-ms", "1000", "--seed", "1"];

/// The demo with its temporary files below `dir`.
fn demo(dir: &TempDir, arguments: &[&str]) -> anyhow::Result<Running> {
    Program::new(env!("CARGO_BIN_EXE_countersign-demo"))
        .args(arguments.iter().copied())
        .env("TMPDIR", dir.path().join("tmp"))
        .log_to(dir.path().join("demo.log"))
        .spawn()
}

fn temporary() -> anyhow::Result<TempDir> {
    let dir = TempDir::new()?;
    std::fs::create_dir(dir.path().join("tmp"))?;
    Ok(dir)
}

/// Servers and services have their files there for as long as they run.
fn nothing_is_left(dir: &Path) -> bool {
    let ours = |name: std::ffi::OsString| name.to_string_lossy().starts_with("countersign-demo-");
    std::fs::read_dir(dir.join("tmp")).is_ok_and(|mut files| !files.any(|file| file.is_ok_and(|file| ours(file.file_name()))))
}

#[tokio::test]
async fn without_callback_orders_are_lost_and_it_says_so() -> anyhow::Result<()> {
    let dir = temporary()?;
    let running = demo(&dir, &[&SMALL[..], &["--without-callback"]].concat())?;
    let status = running.wait(PLAYED).await?;
    let said = running.log_text();
    ensure!(status.code() == Some(1), "{status}: {said}");
    let words = [
        "seed 1",
        "left out               callback killed while it judged checks: callback is not started",
        "nothing moves any more",
        "orders are lost: accepted and confirmed, never processed",
        "This is what callback is for",
    ];
    for word in words {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
    }
    let complaints: Vec<_> = said.lines().filter(|line| line.starts_with("FAILED: ")).collect();
    ensure!(complaints.len() == 1, "it complains of more than the lost orders: {said}");
    ensure!(nothing_is_left(dir.path()), "files are left");
    Ok(())
}

#[tokio::test]
async fn what_it_cannot_do_is_refused_with_what_to_do() -> anyhow::Result<()> {
    let rows: [(&[&str], &str); 7] = [
        (&["--orders", "10"], "1000..=100000"),
        (&["--orders", "many"], "--orders"),
        (&["--seed=-1"], "--seed"),
        (&["--frobnicate"], "--help"),
        (&["--amqp-url", "http://127.0.0.1:15672"], "amqp://user:password@host:port/vhost"),
        (&["--redis-url", "127.0.0.1:6379"], "redis://host:port"),
        (&["--redis-url", "redis://127.0.0.1:1"], "--redis-url cannot be used"),
    ];
    for (arguments, word) in rows {
        let dir = temporary()?;
        let running = demo(&dir, arguments)?;
        let status = running.wait(RAISED).await?;
        let said = running.log_text();
        ensure!(status.code() == Some(2) && said.contains(word), "{arguments:?} ended with {status} and said {said}");
    }
    Ok(())
}

#[tokio::test]
async fn its_help_names_every_option() -> anyhow::Result<()> {
    let dir = temporary()?;
    let running = demo(&dir, &["--help"])?;
    let status = running.wait(RAISED).await?;
    let said = running.log_text();
    for option in [
        "--orders",
        "--seed",
        "--without-callback",
        "--check-delay-ms",
        "--amqp-url",
        "--redis-url",
        "--patience-s",
        "Exit codes",
    ] {
        ensure!(status.success() && said.contains(option), "{option} is missing in {said}");
    }
    ensure!(!said.contains("--kept"), "what only the demo itself may set is shown: {said}");
    Ok(())
}

/// Ends the demo by a signal in the middle of everything; its exit code, if it could give one.
async fn ended_by(signal: Signal) -> anyhow::Result<Option<i32>> {
    let dir = temporary()?;
    let running = demo(&dir, &SMALL)?;
    running.wait_for_log("sending 1000 orders", RAISED).await?;
    ensure!(!nothing_is_left(dir.path()), "its files are somewhere else");
    let front = i32::try_from(running.pid()).ok().and_then(Pid::from_raw);
    kill_process(front.ok_or_else(|| anyhow::anyhow!("no process id"))?, signal)?;
    let status = running.wait(RAISED).await?;
    wait_until("servers and services to be gone", RAISED, async || nothing_is_left(dir.path())).await?;
    Ok(status.code())
}

#[tokio::test]
async fn asked_to_end_it_ends_everything() -> anyhow::Result<()> {
    let code = ended_by(Signal::TERM).await?;
    ensure!(code == Some(2), "it ended with {code:?}");
    Ok(())
}

#[tokio::test]
async fn killed_it_takes_everything_with_it() -> anyhow::Result<()> {
    let code = ended_by(Signal::KILL).await?;
    ensure!(code.is_none(), "it ended with {code:?}");
    Ok(())
}
