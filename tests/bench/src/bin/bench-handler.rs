//! A downstream with a compiled handler that counts and does nothing else; what it saw is in `tally.json` when it has stopped. Where the
//! subscription's guard has a transaction, the handler runs within it.

use std::process::ExitCode;
use std::sync::LazyLock;

use countersign_bench::tally::Counting;
use countersign_downstream::{Config, Service};
use countersign_launcher::SUBSCRIPTION;

static COUNTING: LazyLock<Counting> = LazyLock::new(Counting::default);

fn main() -> ExitCode {
    let code = countersign_boot::launch("bench-handler", async |config: Config, context| {
        let counting: &'static Counting = &COUNTING;
        let topology = config.topology.load()?;
        let subscription = topology.subscriptions.iter().find(|subscription| subscription.name.as_str() == SUBSCRIPTION);
        let in_transaction = subscription.is_some_and(|subscription| subscription.guard.in_transaction());
        let service = Service::new(config);
        let service = if in_transaction {
            service.handle_in_transaction(SUBSCRIPTION, counting)
        } else {
            service.handle(SUBSCRIPTION, counting)
        };
        Ok(service.run(context).await?)
    });
    match COUNTING.write() {
        Ok(()) => code,
        Err(error) => {
            eprintln!("what was handled could not be written: {error:#}");
            ExitCode::FAILURE
        }
    }
}
