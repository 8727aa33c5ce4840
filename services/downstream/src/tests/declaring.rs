//! What code, configuration and topology say of a subscription.

use countersign_boot::Context;
use countersign_boot::config::load;
use countersign_boot::topology::TopologySource;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::ids::CountingIds;
use std::sync::Arc;

use crate::config::{Config, DownstreamSection, OnUnknown, SubscriptionSection};
use crate::subscription::Subscription;
use crate::{Event, Failure, Guard, Handled, Handler, HandlerContext, Service};

struct Nobody;

#[async_trait::async_trait]
impl Handler for Nobody {
    async fn handle(&self, _: &Event, _: &HandlerContext) -> Result<Handled, Failure> {
        Ok(Handled::Done)
    }
}

#[test]
fn the_file_overrides_the_code_and_the_code_what_is_common() {
    let mut section = DownstreamSection {
        subscriptions: vec![SubscriptionSection {
            name: "orders".into(),
            concurrency: Some(3),
            ..SubscriptionSection::default()
        }],
        ..DownstreamSection::default()
    };
    let declared = |name| Subscription::named(name).concurrency(8).timeout_ms(5_000).rate_per_second(200).max_crashes(1);
    section.declare(declared("orders").figures());
    section.declare(declared("audit").on_unknown(OnUnknown::Park).prefetch(7).figures());
    let orders = section.figures("orders");
    assert_eq!((orders.concurrency, orders.timeout_ms, orders.rate_per_second), (3, 5_000, Some(200)), "file, code, code");
    assert_eq!((orders.prefetch, orders.on_unknown), (section.prefetch, OnUnknown::Rerun), "common");
    let audit = section.figures("audit");
    assert_eq!((audit.concurrency, audit.prefetch, audit.on_unknown, audit.max_crashes), (8, 7, OnUnknown::Park, 1));
    assert_eq!(section.figures("other").rate_per_second, None);
}

/// Why a service with these declarations does not start.
async fn refused(declared: Vec<Subscription>) -> String {
    let dir = std::env::temp_dir().join(format!("declaring-{}-{}", std::process::id(), declared[0].name()));
    let topology = "version = 1\n[[exchange]]\nname = 'orders'\nkind = 'topic'\n[[subscription]]\nname = 'inventory'\n\
                    retry_delays_ms = [1000]\nbind = [{ exchange = 'orders', routing_key = 'order.#' }]\n";
    std::fs::write(&dir, topology).unwrap();
    let mut config = load::<Config>(None, Vec::<(String, String)>::new()).unwrap();
    config.topology = TopologySource { file: Some(dir.clone()), ..TopologySource::default() };
    let context = Context::detached("downstream", Arc::new(ManualClock::default()), Arc::new(CountingIds::default()));
    let service = declared.into_iter().fold(Service::new(config), |service, declared| service.subscribe(declared, Nobody));
    let error = service.run(context).await.expect_err("it must not start");
    std::fs::remove_file(dir).unwrap();
    error.to_string()
}

#[tokio::test]
async fn a_service_whose_code_differs_from_the_topology_does_not_start() {
    let orders = Subscription::named("inventory").bind("orders", "order.created").guard(Guard::Inbox).concurrency(0);
    let words = refused(vec![orders]).await;
    for part in
        ["[orders/order.created]", "[orders/order.#]", "guard inbox", "says redis", "concurrency", "countersign topology apply"]
    {
        assert!(words.contains(part), "{part} is missing in {words}");
    }
    assert!(!words.contains("retry_delays_ms"), "what the code leaves out is not compared: {words}");
    let twice = refused(vec![Subscription::named("unknown"), Subscription::named("unknown")]).await;
    assert!(twice.contains("unknown has two handlers in code") && twice.contains("not in the topology"), "{twice}");
}
