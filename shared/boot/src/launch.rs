//! From the command line to the exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use countersign_telemetry::{Metrics, at_zero, names};
use tokio::runtime::Runtime;

use crate::clock::{RandomIds, SystemClock};
use crate::config::{self, Http, Settings};
use crate::context::{Context, Served};
use crate::error::Error;
use crate::shutdown::{Signals, stop_in_order};
use crate::{access, ask, failpoints, http};

/// With one thread the exporter of traces and the work it waits for can block each other.
const WORKERS_MIN: usize = 2;
/// Time for spans that still wait at the end.
pub(crate) const FLUSH: Duration = Duration::from_secs(3);
/// Time for blocking work that still runs when everything else has ended.
pub(crate) const RUNTIME_STOP: Duration = Duration::from_secs(1);
/// How often samples are folded into histograms.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Exit code of a process that failed or had to abandon tasks.
const FAILED: u8 = 1;
/// Exit code for a configuration or a command line that cannot be used.
const UNUSABLE: u8 = 2;

/// The command line that every service has.
#[derive(Debug, Parser)]
struct Cli {
    /// The configuration file (TOML). Variables `COUNTERSIGN_<SECTION>__<KEY>` override it.
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    config: Option<PathBuf>,
    /// Print the effective configuration with secrets hidden, and exit: 0 if it can be used, else 2.
    #[arg(long)]
    check_config: bool,
    /// Bring the tables of its database up to date, as a user who may create and alter them, and exit: 0 if they are, else 1. For services
    /// with `database.migrate = false`.
    #[arg(long)]
    migrate: bool,
    /// Ask the process that runs under this configuration whether it is ready, print its answer, and exit: 0 if it is, else 1.
    #[arg(long, conflicts_with_all = ["check_config", "migrate"])]
    health: bool,
    /// Write the real listening addresses to this file as JSON, once they accept.
    #[arg(long, value_name = "FILE")]
    addresses: Option<PathBuf>,
}

/// Runs the service `service` from the process's command line and environment to its exit code.
///
/// `run` sets the service up and returns; its tasks and servers then live until a signal, or until a critical task
/// fails. An error of `run` ends the process. Exit codes: 0 after an orderly stop, 1 after a failure, 2 when the
/// configuration or the command line cannot be used, 128 + n after a second signal n.
pub fn launch<S, F>(service: &'static str, run: impl FnOnce(S, Context) -> F) -> ExitCode
where
    S: Settings,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    launch_from(service, std::env::args_os(), run)
}

/// Like [`launch`] with other arguments (the first is the program's name), for a binary with a command line of its own.
pub fn launch_from<S, F>(
    service: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(S, Context) -> F,
) -> ExitCode
where
    S: Settings,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let cli = match parse(service, arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { UNUSABLE } else { 0 });
        }
    };
    let environment = config::process_environment();
    let settings = match config::load::<S>(cli.config.as_deref(), environment.variables) {
        Ok(settings) => settings,
        Err(error) => return refuse(service, &error),
    };
    if cli.check_config {
        print!("{}", config::show(&settings));
        return ExitCode::SUCCESS;
    }
    if cli.health {
        return ask::ask(service, &settings.frame());
    }
    if let Err(problem) = failpoints::arm(environment.failpoints.as_deref()) {
        return refuse(service, &Error::Config(vec![problem]));
    }
    // Libraries that speak TLS must find one provider; a second installation (an embedding binary's own) is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(service, &Error::Runtime(error)),
    };
    let code = runtime.block_on(async {
        if cli.migrate { migrate(service, &settings).await } else { live(service, cli, settings, run).await }
    });
    // What is left now are tasks inside libraries; one of them panics when the runtime drops what it waits for, and a stop in good
    // order would look like a crash.
    std::panic::set_hook(Box::new(|_| {}));
    runtime.shutdown_timeout(RUNTIME_STOP);
    code
}

fn parse(service: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let command = Cli::command()
        .display_name(format!("countersign-{service}"))
        .bin_name(format!("countersign-{service}"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("The {service} service of Countersign: every message is signed for, or sent again."));
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(WORKERS_MIN, usize::from);
    tokio::runtime::Builder::new_multi_thread().worker_threads(cores.max(WORKERS_MIN)).enable_all().build()
}

fn refuse(service: &str, error: &Error) -> ExitCode {
    match error {
        Error::Config(problems) => {
            for problem in problems {
                eprintln!("countersign-{service}: {problem}");
            }
            ExitCode::from(UNUSABLE)
        }
        other => {
            eprintln!("countersign-{service}: {other}");
            ExitCode::from(FAILED)
        }
    }
}

/// All that a process with `--migrate` does.
async fn migrate<S: Settings>(service: &'static str, settings: &S) -> ExitCode {
    let frame = settings.frame();
    let guard = match countersign_telemetry::install(service, frame.log, frame.traces) {
        Ok(guard) => guard,
        Err(error) => return refuse(service, &error.into()),
    };
    let outcome = settings.migrate().await;
    match &outcome {
        Ok(()) => tracing::info!("the tables are up to date"),
        Err(error) => {
            let reason = format!("{error:#}");
            tracing::error!(%reason, "the tables could not be brought up to date");
        }
    }
    let _ = guard.shutdown(FLUSH).await;
    ExitCode::from(if outcome.is_ok() { 0 } else { FAILED })
}

/// The life of the process inside the runtime.
async fn live<S, F>(service: &'static str, cli: Cli, settings: S, run: impl FnOnce(S, Context) -> F) -> ExitCode
where
    S: Settings,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let frame = settings.frame();
    let (limits, http) = (frame.shutdown.clone(), frame.http.clone());
    let served = Served { grpc: frame.grpc.clone(), tls: frame.tls.clone(), access: frame.access.clone() };
    let listen = [("http.listen", http.listen), ("grpc.listen", served.grpc.listen)];
    let warnings = access::warnings(&served.access, &served.tls, &listen);
    let clock = Arc::new(SystemClock);
    let context = Context::new(service, clock, Arc::new(RandomIds), served, cli.addresses);
    let guard = match countersign_telemetry::install(service, frame.log, frame.traces) {
        Ok(guard) => guard,
        Err(error) => return refuse(service, &error.into()),
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match open(&context, &http).await {
        Ok(()) => set_up(&context, run(settings, context.clone())),
        Err(error) => context.stop.fail(error.to_string()),
    }
    context.stop.requested().await;
    let ended = stop_in_order(&context, &limits).await;
    let failure = context.stop.failure();
    if let Some(reason) = failure {
        tracing::error!(%reason, "stopped by a failure");
    } else {
        tracing::info!("stopped");
    }
    let failed = failure.is_some() || !ended;
    if !guard.shutdown(FLUSH).await {
        eprintln!("countersign-{service}: some spans could not be sent at the end");
    }
    ExitCode::from(if failed { FAILED } else { 0 })
}

/// Signals, metrics and the HTTP server: what stands before the service does anything.
async fn open(context: &Context, http: &Http) -> Result<(), Error> {
    let signals = Signals::install()?;
    let metrics = Metrics::install()?;
    let (service, version) = (context.service(), env!("CARGO_PKG_VERSION"));
    metrics::gauge!(names::BUILD_INFO, "service" => service, "version" => version).set(1.0);
    let (surfaces, reasons) = (["grpc", "http"], ["nothing", "unknown", "later", "forbidden"]);
    at_zero(names::ACCESS_DENIED_TOTAL, &[("surface", &surfaces), ("reason", &reasons)]);
    at_zero(names::SPANS_DROPPED_TOTAL, &[("reason", &["full", "failed"])]);
    http::serve(context, http, metrics.clone()).await?;

    keep_watch(signals, context.clone());
    let stop = context.frame.servers_stop.clone();
    context.frame.servers.spawn(stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            metrics.upkeep();
        }
    }));
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "waited for by nobody: a second signal must work to the very end")]
fn keep_watch(signals: Signals, context: Context) {
    tokio::spawn(signals.watch(context));
}

/// Lets `run` set the service up. A stop that comes before it is set up drops it; later it has until hard stop.
fn set_up(context: &Context, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let running = context.clone();
    let leave = async move |context: &Context| {
        context.stop.soft().await;
        if context.is_started() {
            context.stop.hard().await;
        }
    };
    context.tasks.critical("run", async move {
        tokio::select! {
            outcome = run => {
                outcome?;
                running.started()?;
            }
            () = leave(&running) => {}
        }
        anyhow::Ok(())
    });
}
