use countersign_boot::Secret;

use super::*;
use crate::config::SubscriptionSection;
use crate::handler::{Event, Failure, Handled, HandlerContext, Transaction};

struct Plain;

#[async_trait::async_trait]
impl Handler for Plain {
    async fn handle(&self, _: &Event, _: &HandlerContext) -> Result<Handled, Failure> {
        Ok(Handled::Done)
    }
}

struct Within;

#[async_trait::async_trait]
impl TransactionHandler for Within {
    async fn handle(&self, _: &Event, _: &HandlerContext, _: &Transaction) -> Result<Handled, Failure> {
        Ok(Handled::Done)
    }
}

/// What start-up says about a subscription of this guard with this handler; nothing: it starts.
fn refusal(guard: Guard, handler: Option<AnyHandler>) -> Option<String> {
    let text = format!(
        "[[subscription]]\nname = 'inventory'\nguard = '{}'\nbind = [{{ exchange = 'countersign.messages' }}]",
        guard.as_str()
    );
    let topology = Topology::from_toml(&text).unwrap();
    let mut config = Config::default();
    if handler.is_none() {
        let endpoint = Some(Secret::new("http://127.0.0.1:9/orders".to_owned()));
        config.downstream.subscriptions = vec![SubscriptionSection { name: "inventory".into(), endpoint, ..Default::default() }];
    }
    let in_process = handler.map(|handler| (Subscription::named("inventory"), handler)).into_iter().collect();
    handlers_of(&mut config, in_process, &topology).err().map(|error| error.to_string())
}

#[test]
fn a_handler_must_fit_its_subscriptions_guard() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for guard in Guard::ALL {
        let direct = [refusal(guard, None), refusal(guard, Some(AnyHandler::Direct(Arc::new(Plain))))];
        let within = refusal(guard, Some(AnyHandler::InTransaction(Arc::new(Within))));
        if guard.in_transaction() {
            for refusal in direct {
                let words = refusal.expect("it has no transaction");
                assert!(words.contains("inventory") && words.contains("needs a handler within a transaction"), "{words}");
            }
            assert_eq!(within, None, "{guard:?}");
        } else {
            assert_eq!(direct, [None, None], "{guard:?}");
            assert!(within.expect("it needs one").contains("guard inbox or tiered"), "{guard:?}");
        }
    }
}
