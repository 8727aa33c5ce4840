//! What an expert would ask of the rendered objects, asked of each of them.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::pods::text;
use super::rendered::items;
use super::{OVERLAYS, Object, Rendered};

/// The three services.
const SERVICES: [&str; 3] = ["upstream", "downstream", "callback"];
/// The Secrets that production leaves to somebody else; the comments at the top of its kustomizations name them.
const ELSEWHERE: [&str; 12] = [
    "callback-tls",
    "countersign-callback",
    "countersign-callback-owner",
    "countersign-callback-token",
    "countersign-downstream",
    "countersign-metrics-token",
    "countersign-tokens",
    "countersign-topology",
    "countersign-upstream",
    "countersign-upstream-owner",
    "downstream-tls",
    "upstream-tls",
];
/// What a generator puts behind a name: a dash and a hash of the content.
const HASH_LENGTH: usize = 11;

/// Asks something of each rendered object of each overlay.
async fn of_each(ask: impl Fn(&Rendered, &Object) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for overlay in OVERLAYS {
        let rendered = Rendered::of(overlay).await?;
        ensure!(rendered.objects.len() > 20, "{overlay} has {} objects", rendered.objects.len());
        for object in &rendered.objects {
            ask(&rendered, object).with_context(|| format!("{overlay}: {} {}", object.kind(), object.name()))?;
        }
    }
    Ok(())
}

fn is_ours(object: &Object) -> bool {
    object.pod().is_some_and(|pod| pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "countersign")
}

/// Whether labels are what `matchLabels` wants.
pub fn matches(wanted: &Value, labels: &Value) -> bool {
    let wanted = wanted.as_object();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value))
}

fn pods_with<'a>(rendered: &'a Rendered, selector: &'a Value) -> Vec<&'a Object> {
    let labels = |object: &Object| object.pod().map(|pod| pod["metadata"]["labels"].clone());
    let selected = |object: &&Object| labels(object).is_some_and(|labels| matches(selector, &labels));
    rendered.objects.iter().filter(selected).collect()
}

#[tokio::test]
async fn every_pod_may_run_in_a_restricted_namespace_and_writes_nowhere() -> anyhow::Result<()> {
    of_each(|_, object| {
        let Some(pod) = object.pod() else { return Ok(()) };
        let (spec, context) = (&pod["spec"], &pod["spec"]["securityContext"]);
        ensure!(context["runAsNonRoot"] == true && context["runAsUser"].as_u64() > Some(0), "its user: {context}");
        ensure!(context["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile");
        ensure!(spec["automountServiceAccountToken"] == false, "a token for the API, which nobody asks");
        ensure!(spec["enableServiceLinks"] == false, "variables of all Services");
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            ensure!(spec.get(key).is_none(), "{key}");
        }
        let kinds = ["configMap", "secret", "emptyDir"];
        ensure!(
            items(&spec["volumes"]).all(|volume| kinds.iter().any(|kind| volume.get(kind).is_some())),
            "a volume of another kind"
        );
        for container in object.containers() {
            let context = &container["securityContext"];
            ensure!(
                context["allowPrivilegeEscalation"] == false && context["capabilities"] == json!({"drop": ["ALL"]}),
                "{context}"
            );
            // The images of the servers want to write beside their volumes.
            let writes = object.kind() == "StatefulSet";
            ensure!(writes || context["readOnlyRootFilesystem"] == true, "it may write: {context}");
            let resources = &container["resources"];
            for (which, what) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
                ensure!(resources[which][what].is_string(), "no {which} of {what}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn images_are_pinned_and_ours_have_this_version() -> anyhow::Result<()> {
    of_each(|rendered, object| {
        for container in object.containers() {
            let image = text(&container["image"])?;
            let (name, tag) = image.rsplit_once(':').with_context(|| format!("{image} has no tag"))?;
            ensure!(tag != "latest" && tag.starts_with(|sign: char| sign.is_ascii_digit()), "{image}");
            if is_ours(object) {
                let expected = if rendered.overlay == "production" { "registry.example/countersign/" } else { "countersign/" };
                ensure!(name.starts_with(expected) && tag == env!("CARGO_PKG_VERSION"), "{image}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn liveness_looks_at_the_process_and_readiness_at_what_it_needs() -> anyhow::Result<()> {
    for overlay in OVERLAYS {
        let rendered = Rendered::of(overlay).await?;
        for name in SERVICES {
            let object = rendered.find("Deployment", name)?;
            let container = object.containers().next().context("no container")?;
            let paths =
                [("startupProbe", "/health/live"), ("livenessProbe", "/health/live"), ("readinessProbe", "/health/ready")];
            for (probe, path) in paths {
                let ask = &container[probe]["httpGet"];
                let scheme = ask["scheme"].as_str().unwrap_or("HTTP");
                let expected = if overlay == "production" { "HTTPS" } else { "HTTP" };
                ensure!(ask["path"] == path && ask["port"] == "http" && scheme == expected, "{overlay}: {name}, {probe}: {ask}");
            }
            let sleeps = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
            ensure!(
                sleeps.as_u64() >= container["readinessProbe"]["periodSeconds"].as_u64(),
                "{overlay}: {name} is gone before it is noticed"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_pod_refers_to_is_there() -> anyhow::Result<()> {
    of_each(|rendered, object| {
        let Some(spec) = object.pod().map(|pod| &pod["spec"]) else { return Ok(()) };
        if let Some(account) = spec["serviceAccountName"].as_str() {
            let account = rendered.find("ServiceAccount", account)?;
            ensure!(account.0["automountServiceAccountToken"] == false, "a token for the API");
        }
        let mut named = Vec::new();
        for volume in items(&spec["volumes"]) {
            named.extend(volume["configMap"]["name"].as_str().map(|name| ("ConfigMap", name, None)));
            named.extend(volume["secret"]["secretName"].as_str().map(|name| ("Secret", name, None)));
        }
        let claims = items(&object.0["spec"]["volumeClaimTemplates"]).map(|claim| &claim["metadata"]["name"]);
        let volumes: Vec<_> = items(&spec["volumes"]).map(|volume| &volume["name"]).chain(claims).collect();
        for container in object.containers() {
            for mount in items(&container["volumeMounts"]) {
                ensure!(volumes.contains(&&mount["name"]), "no volume {}", mount["name"]);
            }
            let mounted = |volume: &&&Value| items(&container["volumeMounts"]).any(|mount| mount["name"] == ***volume);
            ensure!(volumes.iter().filter(mounted).count() == volumes.len(), "a volume is not mounted");
            for variable in items(&container["env"]) {
                let from = &variable["valueFrom"]["secretKeyRef"];
                named.extend(from["name"].as_str().map(|name| ("Secret", name, from["key"].as_str())));
            }
        }
        for (kind, name, key) in named {
            if kind == "Secret" && rendered.overlay == "production" {
                ensure!(ELSEWHERE.contains(&name), "nobody makes the Secret {name}");
                continue;
            }
            let keys = rendered.keys(kind, name);
            ensure!(!keys.is_empty() && key.is_none_or(|key| keys.contains(&key.to_owned())), "{kind} {name} has {keys:?}");
            let hash = name.get(name.len().saturating_sub(HASH_LENGTH)..).filter(|end| end.starts_with('-'));
            ensure!(hash.is_some(), "{kind} {name} has no hash: a change would roll nothing");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn selectors_are_stable_and_select_what_they_are_for() -> anyhow::Result<()> {
    of_each(|rendered, object| {
        let selector = &object.0["spec"]["selector"];
        match object.kind() {
            "Deployment" | "StatefulSet" => {
                let keys: Vec<_> = selector["matchLabels"].as_object().context("no labels")?.keys().map(String::as_str).collect();
                let stable = ["app.kubernetes.io/name", "app.kubernetes.io/part-of"];
                ensure!(keys.iter().all(|key| stable.contains(key)), "{keys:?} may change, and a selector must not");
                let selected = pods_with(rendered, &selector["matchLabels"]);
                ensure!(selected.len() == 1 && selected[0].name() == object.name(), "it selects others' pods");
            }
            "Service" => {
                let selected = pods_with(rendered, selector);
                let [workload] = selected[..] else { anyhow::bail!("it selects the pods of {} workloads", selected.len()) };
                let ports: Vec<_> =
                    workload.containers().flat_map(|container| items(&container["ports"])).map(|port| &port["name"]).collect();
                for port in items(&object.0["spec"]["ports"]) {
                    ensure!(ports.contains(&&port["targetPort"]), "{} has no port {}", workload.name(), port["targetPort"]);
                }
            }
            _ => {}
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_roll_out_or_a_drained_node_never_takes_a_service_away() -> anyhow::Result<()> {
    let rendered = Rendered::of("production").await?;
    for name in SERVICES {
        let (deployment, budget) = (rendered.find("Deployment", name)?, rendered.find("PodDisruptionBudget", name)?);
        let (spec, budget) = (&deployment.0["spec"], &budget.0["spec"]);
        let scaler = rendered.all("HorizontalPodAutoscaler").find(|scaler| scaler.0["spec"]["scaleTargetRef"]["name"] == name);
        let replicas = match scaler {
            Some(scaler) => {
                ensure!(spec.get("replicas").is_none(), "{name}: each apply would undo what the autoscaler did");
                let scale = &scaler.0["spec"];
                ensure!(scale["maxReplicas"].as_u64() > scale["minReplicas"].as_u64(), "{name} is not scaled: {scale}");
                scale["minReplicas"].as_u64()
            }
            None => spec["replicas"].as_u64(),
        };
        let away = budget["maxUnavailable"].as_u64();
        ensure!(away >= Some(1) && away < replicas, "{name}: {away:?} of {replicas:?} may be away");
        let selected = pods_with(&rendered, &budget["selector"]["matchLabels"]);
        ensure!(selected.len() == 1 && selected[0].name() == name, "{name}: the budget is for others");
        ensure!(spec["strategy"]["rollingUpdate"] == json!({"maxSurge": 1, "maxUnavailable": 0}), "{name}: {}", spec["strategy"]);
        let spread: Vec<_> = items(&spec["template"]["spec"]["topologySpreadConstraints"]).collect();
        ensure!(spread.len() == 2, "{name} is not spread over zones and nodes");
        for constraint in spread {
            ensure!(
                matches(&constraint["labelSelector"]["matchLabels"], &spec["template"]["metadata"]["labels"]),
                "{name}: {constraint}"
            );
        }
    }
    let scaled: Vec<_> = rendered.all("HorizontalPodAutoscaler").map(Object::name).collect();
    ensure!(scaled == ["downstream", "upstream"], "scaled are {scaled:?}");
    Ok(())
}

#[tokio::test]
async fn jobs_end_and_can_be_replaced() -> anyhow::Result<()> {
    for overlay in OVERLAYS {
        let rendered = Rendered::of(overlay).await?;
        let mut names: Vec<_> = rendered.all("Job").map(Object::name).collect();
        names.sort_unstable();
        ensure!(names == ["migrate-callback", "migrate-upstream", "topology"], "{overlay}: {names:?}");
        for job in rendered.all("Job") {
            let spec = &job.0["spec"];
            for key in ["backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
                ensure!(spec[key].as_u64() > Some(0), "{overlay}: {} has no {key}", job.name());
            }
            let annotations = &job.0["metadata"]["annotations"];
            ensure!(annotations["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation", "{overlay}: {annotations}");
            ensure!(annotations["kustomize.toolkit.fluxcd.io/force"] == "enabled", "{overlay}: {annotations}");
        }
    }
    Ok(())
}
