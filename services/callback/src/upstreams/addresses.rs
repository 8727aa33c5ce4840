//! Where an upstream is: from configuration only. A message gives a name, never an address.

use std::collections::BTreeMap;

use countersign_delivery::UpstreamName;

/// What stands for the upstream's name in a template.
pub const PLACEHOLDER: &str = "{upstream}";

/// Addresses by name, and a template for the names that have none of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    named: BTreeMap<String, String>,
    template: String,
}

impl Addresses {
    /// `named` wins over `template`; an empty template means that every upstream must be named.
    #[must_use]
    pub fn new(named: BTreeMap<String, String>, template: String) -> Self {
        Self { named, template }
    }

    /// The address of an upstream, such as `http://orders.shop.svc:50051`.
    ///
    /// None when it has none. A name goes into the template only as one DNS label (letters, digits, `-`): a dot in it would let a message choose the host.
    #[must_use]
    pub fn of(&self, upstream: &UpstreamName) -> Option<String> {
        let name = upstream.as_str();
        if let Some(address) = self.named.get(name) {
            return Some(address.clone());
        }
        let fits = !self.template.contains(PLACEHOLDER) || is_label(name);
        (fits && !self.template.is_empty()).then(|| self.template.replace(PLACEHOLDER, name))
    }

    /// The names that have an address of their own.
    pub fn names(&self) -> impl Iterator<Item = UpstreamName> {
        self.named.keys().filter_map(|name| UpstreamName::new(name).ok())
    }

    /// The one address of every upstream that has none of its own; none when the template has the placeholder, or is empty.
    #[must_use]
    pub fn of_all(&self) -> Option<&str> {
        (!self.template.is_empty() && !self.template.contains(PLACEHOLDER)).then_some(self.template.as_str())
    }

    /// What is wrong, each with its remedy.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, address) in &self.named {
            if UpstreamName::new(name).is_err() {
                problems.push(format!("callback.upstreams has the name {name:?}: use letters, digits, `.`, `-`, `_`"));
            }
            check(&format!("callback.upstreams.{name}"), address, &mut problems);
        }
        if self.template.is_empty() {
            if self.named.is_empty() {
                problems.push("callback.upstream_template is empty and callback.upstreams too: name at least one".into());
            }
        } else {
            check("callback.upstream_template", &self.template.replace(PLACEHOLDER, "orders"), &mut problems);
        }
        problems
    }
}

fn is_label(name: &str) -> bool {
    let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    inner && name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-')
}

fn check(key: &str, address: &str, problems: &mut Vec<String>) {
    let sound = address
        .parse::<tonic::transport::Uri>()
        .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty()));
    if !sound {
        problems.push(format!("{key} is {address:?}: give a URL such as http://orders.shop.svc:50051"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str) -> UpstreamName {
        UpstreamName::new(name).unwrap()
    }

    fn addresses(template: &str) -> Addresses {
        Addresses::new(BTreeMap::from([("a.b".to_owned(), "http://10.0.0.1:1".to_owned())]), template.to_owned())
    }

    #[test]
    fn a_named_upstream_has_its_own_address_and_the_others_the_template() {
        let addresses = addresses("http://{upstream}.svc:50051");
        assert_eq!(addresses.of(&upstream("a.b")).as_deref(), Some("http://10.0.0.1:1"));
        assert_eq!(addresses.of(&upstream("orders")).as_deref(), Some("http://orders.svc:50051"));
        assert!(addresses.problems().is_empty());
    }

    #[test]
    fn a_name_cannot_choose_the_host() {
        let addresses = addresses("http://{upstream}:50051");
        for name in ["evil.example", "-a", "a_b", "a-"] {
            assert_eq!(addresses.of(&upstream(name)), None, "{name}");
        }
    }

    #[test]
    fn a_template_without_the_placeholder_serves_every_name() {
        assert_eq!(addresses("http://127.0.0.1:7101").of(&upstream("x.y")).as_deref(), Some("http://127.0.0.1:7101"));
        assert_eq!(addresses("").of(&upstream("x")), None);
    }

    #[test]
    fn what_is_not_a_url_is_a_problem() {
        for template in ["127.0.0.1:7101", "ftp://x", "http://"] {
            assert_eq!(addresses(template).problems().len(), 1, "{template}");
        }
        assert_eq!(Addresses::default().problems().len(), 1);
    }
}
