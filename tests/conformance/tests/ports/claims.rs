//! Claims on a lease: in memory, and in Redis.

use countersign_dedup::{Config, RedisClaims, Server};
use countersign_launcher::Ground;
use countersign_testkit::claims::MemoryClaims;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::{claims_suite, leases_suite};

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryClaims, ManualClock) {
        let clock = ManualClock::default();
        (MemoryClaims::new(&clock), clock)
    }

    claims_suite!(set_up);
    leases_suite!(set_up);
}

mod redis {
    use super::*;

    async fn set_up(test: &str) -> (RedisClaims, RealTime) {
        let ground = Ground::new(test).await.unwrap();
        let server = Server { url: ground.redis_url().into(), ..Server::default() };
        let config = Config { server, prefix: ground.name().into(), ..Config::default() };
        // As long ago as the suite's messages were minted.
        let mut connection = ::redis::Client::open(ground.redis_url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        ::redis::cmd("SET").arg(format!("{}:since", ground.name())).arg(0).query_async::<()>(&mut connection).await.unwrap();
        (RedisClaims::connect(&config).unwrap(), RealTime)
    }

    claims_suite!(set_up);
    leases_suite!(set_up);
}
