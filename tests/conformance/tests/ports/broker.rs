//! Publishing and consuming: in memory, and in `RabbitMQ`.

use countersign_broker::{Broker, Config};
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::Publisher;
use countersign_launcher::Ground;
use countersign_testkit::broker::MemoryBroker;
use countersign_testkit::broker_suite;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::conformance::broker::topology;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryBroker, MemoryBroker, ManualClock, Topology, ()) {
        let (topology, clock) = (topology("t"), ManualClock::default());
        let broker = MemoryBroker::new(&topology, &clock);
        (broker.clone(), broker, clock, topology, ())
    }

    broker_suite!(set_up);
}

mod rabbitmq {
    use super::*;

    async fn set_up(test: &str) -> (Broker, Broker, RealTime, Topology, (DropGuard, Ground)) {
        let ground = Ground::new(test).await.unwrap();
        let config = Config { url: ground.amqp_url().into(), ..Config::default() };
        let topology = topology("t");
        countersign_broker::topology::apply(&config, &topology).await.unwrap();
        let stop = CancellationToken::new();
        let broker = Broker::connect(config, test, &TaskTracker::new(), stop.clone()).unwrap();
        broker.up().await;
        (broker.clone(), broker, RealTime, topology, (stop.drop_guard(), ground))
    }

    broker_suite!(set_up);
}
