//! Pauses: in memory, and in Redis.

use countersign_dedup::{Config, RedisClaims, Server};
use countersign_launcher::Ground;
use countersign_testkit::pauses::MemoryPauses;
use countersign_testkit::pauses_suite;

mod memory {
    use super::*;

    async fn set_up(_: &str) -> MemoryPauses {
        MemoryPauses::default()
    }

    pauses_suite!(set_up);
}

mod redis {
    use super::*;

    async fn set_up(test: &str) -> RedisClaims {
        let ground = Ground::new(test).await.unwrap();
        let server = Server { url: ground.redis_url().into(), ..Server::default() };
        RedisClaims::connect(&Config { server, prefix: ground.name().into(), ..Config::default() }).unwrap()
    }

    pauses_suite!(set_up);
}
