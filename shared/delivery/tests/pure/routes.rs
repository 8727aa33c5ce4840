//! Which route a message takes, and which routes are refused.

use countersign_delivery::topology::{Mode, OnFull, Topology};

const FILE: &str = r##"
[[exchange]]
name = "orders"
kind = "topic"
[[exchange]]
name = "inner"
kind = "fanout"
internal = true
[[subscription]]
name = "inventory"
max_length = 1000
bind = [{ exchange = "orders", routing_key = "#" }]
[[route]]
exchange = "orders"
routing_key = "order.flash.*"
on_full = "reject"
[[route]]
exchange = "orders"
routing_key = "log.#"
mode = "confirmed"
[[route]]
exchange = "orders"
mode = "outbox"
"##;

#[test]
fn the_first_route_that_matches_decides() {
    let topology = Topology::from_toml(FILE).unwrap();
    let rows = [
        ("orders", "order.flash.eu", Mode::Verified, OnFull::Reject),
        ("orders", "order.flash", Mode::Outbox, OnFull::Keep),
        ("orders", "log", Mode::Confirmed, OnFull::Keep),
        ("orders", "", Mode::Outbox, OnFull::Keep),
        ("elsewhere", "log", Mode::Verified, OnFull::Keep),
    ];
    for (exchange, key, mode, on_full) in rows {
        let route = topology.route(exchange, key);
        assert_eq!((route.mode, route.on_full), (mode, on_full), "{exchange} {key}");
    }
    assert!(topology.route("orders", "order.flash.eu").has_check());
    assert!(!topology.route("orders", "order").has_check());
    assert!(!topology.route("orders", "log").has_check());
}

#[test]
fn routes_that_cannot_hold_are_named() {
    let rows = [
        ("mode = \"outbox\"", "mode = \"confirmed\"\ncheck = true", "stores nothing to send again"),
        ("on_full = \"reject\"", "check = true", "so has a check in any case"),
        ("routing_key = \"log.#\"", "routing_key = \"order.flash.*\"", "is there twice"),
        ("mode = \"outbox\"", "[[route]]\nexchange = \"inner\"", "internal exchange"),
        ("mode = \"outbox\"", "[[route]]\nexchange = \"olds\"", "unknown exchange"),
        ("max_length = 1000", "max_length = 0", "max_length 0"),
    ];
    for (from, to, expected) in rows {
        assert!(FILE.contains(from), "{from}");
        let refused = Topology::from_toml(&FILE.replace(from, to)).unwrap_err().to_string();
        assert!(refused.contains(expected), "{to}: {refused}");
    }
    let unknown = Topology::from_toml(&FILE.replace("mode = \"outbox\"", "mode = \"inbox\"")).unwrap_err().to_string();
    assert!(unknown.contains("inbox") && unknown.contains("outbox"), "{unknown}");
}
