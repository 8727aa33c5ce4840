//! A service in a binary of one's own: the frame is the same, the work is a closure's.
//!
//! It also stands in for the real services in this crate's tests: `work.hold_ms` is how long its one task takes to finish
//! after soft stop, `work.fail` makes that task fail, and `/long` answers its last word only when everything else has stopped.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use countersign_boot::{
    AccessSection, Context, Failpoint, Frame, Grpc, GrpcServices, Http, Log, Role, Secret, Settings, Shutdown, Stop, Tls, Traces,
    failpoint,
};
use futures::{FutureExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    log: Log,
    traces: Traces,
    http: Http,
    grpc: Grpc,
    tls: Tls,
    access: AccessSection,
    shutdown: Shutdown,
    work: Work,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    broker: Secret,
    hold_ms: u64,
    fail: bool,
    reason: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: Log::default(),
            traces: Traces::default(),
            http: Http::loopback(0),
            grpc: Grpc::loopback(0),
            tls: Tls::default(),
            access: AccessSection::default(),
            shutdown: Shutdown::default(),
            work: Work { broker: "amqp://guest:guest@127.0.0.1:5672".into(), hold_ms: 0, fail: false, reason: String::new() },
        }
    }
}

impl Settings for Config {
    fn frame(&self) -> Frame<'_> {
        let Self { log, traces, http, grpc, tls, access, shutdown, .. } = self;
        Frame { log, traces, http, grpc, tls, access, shutdown }
    }
}

/// How long `/long` goes on after hard stop.
const LONG: Duration = Duration::from_millis(300);

/// Says `begun`, and `finished` some time after hard stop.
fn long_answer(stop: Stop) -> Body {
    let begun = async { "begun " };
    let finished = async move {
        stop.hard().await;
        tokio::time::sleep(LONG).await;
        "finished"
    };
    Body::from_stream(begun.into_stream().chain(finished.into_stream()).map(Ok::<_, std::convert::Infallible>))
}

fn main() -> std::process::ExitCode {
    let greeting = "hello from the closure\n";
    countersign_boot::launch("embedded", async move |config: Config, context: Context| {
        let Work { hold_ms, fail, reason, .. } = config.work;
        let broker = context.health.dependency("broker");
        if reason.is_empty() {
            broker.ready();
        } else {
            broker.unready(reason);
        }

        let stop = context.stop.clone();
        context.tasks.critical("work", async move {
            failpoint(Failpoint::UpstreamAfterStore);
            anyhow::ensure!(!fail, "told to fail");
            stop.soft().await;
            tracing::info!("soft stop");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(hold_ms)) => tracing::info!("work finished"),
                () = stop.hard() => tracing::info!("work dropped"),
            }
            Ok(())
        });
        let stop = context.stop.clone();
        let routes = Router::new().route("/hello", get(async move || greeting));
        context.http(Role::Viewer, routes.route("/long", get(async move || long_answer(stop))));
        context.serve_grpc(GrpcServices::new(&[])).await?;
        Ok(())
    })
}
