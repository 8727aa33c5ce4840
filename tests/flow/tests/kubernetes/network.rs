//! Who can reach whom: the rendered policies, evaluated as a cluster's network would, give exactly the edges that are used.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Rendered;
use super::pods::text;
use super::rendered::items;

/// Where our objects are.
const OURS: &str = "countersign";
/// Every port that anything here listens on, and one that nobody does.
const PORTS: [u64; 9] = [22, 53, 4317, 5432, 5671, 5672, 6379, 8080, 9000];
const GRPC: u64 = 50051;

type Labels = BTreeMap<String, String>;

/// A pod, or an address outside of the cluster.
#[derive(Debug)]
struct Peer {
    name: String,
    namespace: Option<String>,
    labels: Labels,
    address: Option<[u8; 4]>,
}

impl Peer {
    fn pod(name: &str, namespace: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { name: name.to_owned(), namespace: Some(namespace.to_owned()), labels, address: None }
    }

    const fn at(name: String, address: [u8; 4]) -> Self {
        Self { name, namespace: None, labels: Labels::new(), address: Some(address) }
    }
}

/// The pods that are rendered, and whom they may meet.
fn peers(rendered: &Rendered) -> anyhow::Result<Vec<Peer>> {
    let mut peers = vec![
        Peer::pod("dns", "kube-system", &[("k8s-app", "kube-dns")]),
        Peer::pod("other-in-kube-system", "kube-system", &[]),
        Peer::pod("prometheus", "monitoring", &[("app.kubernetes.io/name", "prometheus")]),
        Peer::pod("collector", "monitoring", &[("app.kubernetes.io/name", "otel-collector")]),
        Peer::pod("shop", "shop", &[("countersign-producer", "true")]),
        Peer::pod("operator", "tools", &[("countersign-operator", "true")]),
        Peer::pod("handler", "shop", &[("countersign-handler", "true")]),
        Peer::pod("stranger", "shop", &[]),
        Peer::pod("stranger-beside", OURS, &[]),
        Peer::pod("false-prometheus", "shop", &[("app.kubernetes.io/name", "prometheus")]),
        Peer::pod("false-callback", "shop", &[("app.kubernetes.io/name", "callback"), ("app.kubernetes.io/part-of", OURS)]),
        Peer::at("servers".to_owned(), [10, 20, 0, 9]),
        Peer::at("world".to_owned(), [198, 51, 100, 1]),
    ];
    for object in &rendered.objects {
        let Some(pod) = object.pod() else { continue };
        let labels = pod["metadata"]["labels"].as_object().context("no labels")?;
        let labels: Vec<_> = labels.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect();
        peers.push(Peer::pod(object.name(), OURS, &labels));
    }
    Ok(peers)
}

/// Whether a selector selects these labels; an empty one selects all.
fn selects(selector: &Value, labels: &Labels) -> bool {
    let all = selector["matchLabels"].as_object().into_iter().flatten();
    let by_label = all.into_iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    by_label
        && items(&selector["matchExpressions"]).all(|expression| {
            assert_eq!(expression["operator"], "In", "another operator than this test knows");
            let label = expression["key"].as_str().and_then(|key| labels.get(key));
            label.is_some_and(|label| items(&expression["values"]).any(|value| value == label))
        })
}

/// Whether one entry of `from` or `to` is this peer; the policy is in our namespace.
fn is_peer(entry: &Value, peer: &Peer) -> bool {
    if let Some(block) = entry.get("ipBlock") {
        let network = block["cidr"].as_str().and_then(|cidr| cidr.strip_suffix(".0.0/16"));
        return peer.address.is_some_and(|[a, b, ..]| network == Some(&format!("{a}.{b}")));
    }
    let Some(namespace) = &peer.namespace else { return false };
    let in_namespace = match entry.get("namespaceSelector") {
        Some(selector) => selects(selector, &Labels::from([("kubernetes.io/metadata.name".to_owned(), namespace.clone())])),
        None => namespace == OURS,
    };
    in_namespace && entry.get("podSelector").is_none_or(|selector| selects(selector, &peer.labels))
}

/// Whether the policies of our namespace let a peer's traffic pass in one direction.
fn passes(rendered: &Rendered, of: &Peer, direction: &str, other: &Peer, port: u64) -> bool {
    if of.namespace.as_deref() != Some(OURS) {
        return true;
    }
    let kind = if direction == "ingress" { "Ingress" } else { "Egress" };
    let ends = if direction == "ingress" { "from" } else { "to" };
    let concerns =
        |spec: &&Value| selects(&spec["podSelector"], &of.labels) && items(&spec["policyTypes"]).any(|found| found == kind);
    let policies: Vec<_> = rendered.all("NetworkPolicy").map(|policy| &policy.0["spec"]).filter(concerns).collect();
    let rules = policies.iter().flat_map(|spec| items(&spec[direction]));
    let lets = |rule: &Value| {
        let by_port = rule.get("ports").is_none() || items(&rule["ports"]).any(|open| open["port"] == port);
        by_port && (rule.get(ends).is_none() || items(&rule[ends]).any(|entry| is_peer(entry, other)))
    };
    policies.is_empty() || rules.into_iter().any(lets)
}

/// Everything that can be reached from or in our namespace, as `from -> to:port`.
fn edges(rendered: &Rendered) -> anyhow::Result<BTreeSet<String>> {
    let peers = peers(rendered)?;
    let mut edges = BTreeSet::new();
    for from in &peers {
        for to in peers.iter().filter(|to| to.name != from.name) {
            let ours =
                [from, to].iter().any(|peer| peer.namespace.as_deref() == Some(OURS) && !peer.name.starts_with("stranger"));
            for port in PORTS.into_iter().chain([GRPC]) {
                if ours && passes(rendered, from, "egress", to, port) && passes(rendered, to, "ingress", from, port) {
                    edges.insert(format!("{} -> {}:{port}", from.name, to.name));
                }
            }
        }
    }
    Ok(edges)
}

/// The edges of every overlay.
fn of_the_base() -> BTreeSet<String> {
    let services = ["upstream", "downstream", "callback"];
    let mut edges = BTreeSet::from(["shop", "callback", "operator"].map(|who| format!("{who} -> upstream:{GRPC}")));
    edges.insert("shop -> upstream:8080".to_owned());
    edges.extend(services.map(|service| format!("prometheus -> {service}:8080")));
    edges.extend(services.map(|service| format!("operator -> {service}:{GRPC}")));
    edges.extend(
        services.into_iter().chain(["migrate-upstream", "migrate-callback", "topology"]).map(|pod| format!("{pod} -> dns:53")),
    );
    edges
}

#[tokio::test]
async fn the_local_overlay_opens_what_its_configuration_uses() -> anyhow::Result<()> {
    let rendered = Rendered::of("local").await?;
    let mut wanted = of_the_base();
    for object in rendered.objects.iter().filter(|object| object.pod().is_some()) {
        let mut texts = Vec::new();
        for volume in items(&object.pod().context("no pod")?["spec"]["volumes"]) {
            if let Some(name) = volume["configMap"]["name"].as_str() {
                for key in rendered.keys("ConfigMap", name).into_iter().filter(|key| key.contains(".toml")) {
                    texts.extend(rendered.data("ConfigMap", name, &key)?);
                }
            }
        }
        for variable in object.containers().flat_map(|container| items(&container["env"])) {
            let from = &variable["valueFrom"]["secretKeyRef"];
            if let Some(name) = from["name"].as_str() {
                texts.extend(rendered.data("Secret", name, text(&from["key"])?)?);
            }
        }
        for address in texts.iter().flat_map(|text| text.split("://").skip(1)) {
            let authority = address.split(['/', '"']).next().unwrap_or_default();
            let authority = authority.rsplit('@').next().unwrap_or_default().replace("{upstream}", "upstream");
            let migrates = object.name().starts_with("migrate-");
            // A Job's configuration file is its service's; it goes no further than to the database.
            if !migrates || authority.starts_with("postgres:") {
                wanted.insert(format!("{} -> {authority}", object.name()));
            }
        }
    }
    let found = edges(&rendered)?;
    ensure!(found == wanted, "too many: {:?}, missing: {:?}", found.difference(&wanted), wanted.difference(&found));
    ensure!(found.len() > of_the_base().len() + 8, "the configuration names no servers: {found:?}");
    Ok(())
}

#[tokio::test]
async fn production_opens_its_servers_and_handlers_and_the_collector() -> anyhow::Result<()> {
    let rendered = Rendered::of("production").await?;
    let services = ["upstream", "downstream", "callback"];
    let mut wanted = of_the_base();
    wanted.extend(services.map(|service| format!("{service} -> collector:4317")));
    wanted.extend(services.into_iter().chain(["topology"]).map(|pod| format!("{pod} -> servers:5671")));
    wanted.extend(["upstream", "callback", "migrate-upstream", "migrate-callback"].map(|pod| format!("{pod} -> servers:5432")));
    wanted.extend(["downstream -> servers:6379", "downstream -> handler:8080"].map(str::to_owned));
    let found = edges(&rendered)?;
    ensure!(found == wanted, "too many: {:?}, missing: {:?}", found.difference(&wanted), wanted.difference(&found));
    Ok(())
}
