//! Runs a command beside private servers and stops them afterwards.
//!
//! `with-servers rabbitmq redis postgres -- cargo test` starts the three in a temporary directory, exports their
//! addresses as `COUNTERSIGN_TEST_…`, runs the command and ends with its exit code.

#![allow(clippy::disallowed_methods, reason = "it hands its environment on and has no launch frame")]

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use countersign_launcher::serve::{Keeper, Wanted, keep};
use countersign_launcher::{AMQP, AMQP_ADMIN, Exports, POSTGRES, REDIS};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long the command may tidy up after SIGINT or SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// Run a command beside private servers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Servers to start: any of rabbitmq, redis, postgres
    #[arg(value_parser = ["rabbitmq", "redis", "postgres"])]
    servers: Vec<String>,
    /// Use this broker instead of a private one: amqp://user:password@host:port
    #[arg(long, env = AMQP)]
    amqp_url: Option<String>,
    #[arg(long, env = AMQP_ADMIN, help = "The management interface of that broker: http://user:password@host:15672")]
    amqp_admin_url: Option<String>,
    /// Use this Redis instead of a private one: redis://host:port
    #[arg(long, env = REDIS)]
    redis_url: Option<String>,
    #[arg(long, env = POSTGRES, help = "Use this PostgreSQL instead of a private one; its user must be allowed to create databases")]
    database_url: Option<String>,
    /// Keep the logs of the servers in this directory
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Be the keeper: print the addresses, stop when standard input ends
    #[arg(long, hide = true)]
    keep: bool,
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

impl Arguments {
    fn wanted(&self) -> Wanted {
        let named = |name: &str| self.servers.iter().any(|server| server == name);
        Wanted {
            rabbitmq: named("rabbitmq") && (self.keep || self.amqp_url.is_none()),
            redis: named("redis") && (self.keep || self.redis_url.is_none()),
            postgres: named("postgres") && (self.keep || self.database_url.is_none()),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = run(Arguments::parse()).await;
    outcome.unwrap_or_else(|error| {
        eprintln!("with-servers: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let wanted = arguments.wanted();
    if arguments.keep {
        keep(wanted, arguments.logs.as_deref()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.command.is_empty() {
        bail!("no command; write it after `--`");
    }
    let own = std::env::current_exe()?;
    let keeper =
        if wanted == Wanted::default() { None } else { Some(Keeper::start(&own, wanted, arguments.logs.as_deref()).await?) };
    let started = keeper.as_ref().map(|keeper| keeper.exports().clone()).unwrap_or_default();
    let exports = Exports {
        amqp: arguments.amqp_url.or(started.amqp),
        amqp_admin: arguments.amqp_admin_url.or(started.amqp_admin),
        redis: arguments.redis_url.or(started.redis),
        postgres: arguments.database_url.or(started.postgres),
    };
    let ended = run_command(&arguments.command, &exports).await;
    if let Some(keeper) = keeper {
        keeper.stop().await?;
    }
    Ok(ExitCode::from(ended?))
}

/// Runs the command to its end; SIGINT and SIGTERM are handed on to it.
async fn run_command(command: &[OsString], exports: &Exports) -> anyhow::Result<u8> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .envs(exports.pairs())
        .spawn()
        .with_context(|| format!("starting {}", command[0].display()))?;
    tokio::select! {
        status = child.wait() => return Ok(code(status?)),
        _ = interrupts.recv() => end(&mut child).await?,
        _ = terminations.recv() => end(&mut child).await?,
    }
    Ok(code(child.wait().await?))
}

/// Asks the command to end, and makes it when its grace is over.
async fn end(child: &mut Child) -> anyhow::Result<()> {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

/// The exit code as a shell would report it: 128 plus the signal, if one ended the command.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}
