//! A downstream with a compiled handler that counts and does nothing else; what it saw is in `tally.json` when it has stopped.

use std::process::ExitCode;
use std::sync::LazyLock;

use countersign_bench::tally::Counting;
use countersign_downstream::{Config, Service};
use countersign_launcher::SUBSCRIPTION;

/// As the stock services have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static COUNTING: LazyLock<Counting> = LazyLock::new(Counting::default);

fn main() -> ExitCode {
    let code = countersign_boot::launch("bench-handler", async |config: Config, context| {
        let counting: &'static Counting = &COUNTING;
        Ok(Service::new(config).handle(SUBSCRIPTION, counting).run(context).await?)
    });
    match COUNTING.write() {
        Ok(()) => code,
        Err(error) => {
            eprintln!("what was handled could not be written: {error:#}");
            ExitCode::FAILURE
        }
    }
}
