//! The broker's management interface: the only one that shows policies and bindings.

use countersign_boot::Secret;
use countersign_broker::{Config, Login};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::doctor::ask::{Answer, Http};

/// Where the management interface usually listens.
const PORT: u16 = 15_672;

/// What the management interface says of one virtual host.
#[derive(Clone, Debug)]
pub struct Managed {
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
    /// For its clock.
    pub answer: Answer,
}

/// One queue.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Queue {
    pub name: String,
    #[serde(default)]
    pub arguments: Value,
    /// The name of the policy, if one matches.
    #[serde(default)]
    pub policy: Option<String>,
    #[serde(default)]
    pub operator_policy: Option<String>,
    /// An object; some versions write an empty list for none.
    #[serde(default)]
    pub effective_policy_definition: Value,
}

/// One binding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Binding {
    pub source: String,
    pub destination: String,
    pub destination_type: String,
    pub routing_key: String,
    #[serde(default)]
    pub arguments: Value,
}

impl Queue {
    /// What its policies set.
    pub fn policy_definition(&self) -> Map<String, Value> {
        self.effective_policy_definition.as_object().cloned().unwrap_or_default()
    }

    /// The names of its policies.
    pub fn policies(&self) -> String {
        let named = [("policy", &self.policy), ("operator policy", &self.operator_policy)];
        let named: Vec<String> = named
            .iter()
            .filter_map(|(kind, name)| name.as_deref().filter(|name| !name.is_empty()).map(|name| format!("{kind} {name}")))
            .collect();
        if named.is_empty() { "a policy".to_owned() } else { named.join(" and ") }
    }
}

/// Why it could not be asked, and how it can.
#[derive(Clone, Debug)]
pub struct Closed {
    pub found: String,
    pub remedy: String,
}

/// The address, and who asks: that of `--management-url` with its own user if it names one, else derived from the broker's.
#[derive(Clone, Debug)]
pub struct Address {
    url: String,
    login: Login,
    /// The address names a user itself.
    named: bool,
}

impl Address {
    pub fn new(given: Option<&str>, config: &Config) -> Option<Self> {
        let login = config.login()?;
        let host = if login.host.contains(':') { format!("[{}]", login.host) } else { login.host.clone() };
        let url = given.map_or_else(|| format!("http://{host}:{PORT}"), |url| url.trim_end_matches('/').to_owned());
        let named = url.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')));
        Some(Self { url, login, named })
    }

    /// Without the password.
    fn shown(&self) -> String {
        Secret::new(self.url.clone()).redacted()
    }
}

/// Asks for the queues and bindings of the virtual host.
pub async fn ask(http: &Http, address: &Address) -> Result<Managed, Closed> {
    let vhost = encode(&address.login.vhost);
    let columns = "columns=name,arguments,policy,operator_policy,effective_policy_definition";
    let queues = get(http, address, &format!("queues/{vhost}?{columns}")).await?;
    let bindings = get(http, address, &format!("bindings/{vhost}")).await?;
    Ok(Managed { queues: parse(address, &queues)?, bindings: parse(address, &bindings)?, answer: bindings })
}

async fn get(http: &Http, address: &Address, path: &str) -> Result<Answer, Closed> {
    let login = (!address.named).then_some((address.login.user.as_str(), &address.login.password));
    let answer = http.get(&format!("{}/api/{path}", address.url), login).await;
    let answer = answer.map_err(|words| Closed {
        found: format!("{} does not answer: {words}", address.shown()),
        remedy: "`rabbitmq-plugins enable rabbitmq_management`, or name its address with --management-url".into(),
    })?;
    let user = &address.login.user;
    match answer.status {
        200 => Ok(answer),
        401 | 403 => Err(Closed {
            found: format!("{} refuses the user", address.shown()),
            remedy: format!(
                "`rabbitmqctl set_user_tags {user} management`, or name another user: --management-url http://USER:PASSWORD@HOST:{PORT}"
            ),
        }),
        status => Err(strange(address, &format!("status {status}"))),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(address: &Address, answer: &Answer) -> Result<Vec<T>, Closed> {
    serde_json::from_str(&answer.body).map_err(|error| strange(address, &error.to_string()))
}

fn strange(address: &Address, words: &str) -> Closed {
    Closed {
        found: format!("{} does not answer as a management interface: {words}", address.shown()),
        remedy: "correct --management-url".into(),
    }
}

/// Percent-encodes one segment of a path.
fn encode(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    segment.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_derived_and_never_shows_a_password() {
        let config = Config { url: "amqp://app:hush@mq.example:5671/a%2fb".into(), ..Config::default() };
        let derived = Address::new(None, &config).unwrap();
        assert_eq!((derived.url.as_str(), derived.named), ("http://mq.example:15672", false));
        assert_eq!(encode(&derived.login.vhost), "a%2Fb");
        let given = Address::new(Some("https://ops:sesame@mq:443/"), &config).unwrap();
        assert!(given.named && given.url == "https://ops:sesame@mq:443");
        assert!(!given.shown().contains("sesame"), "{}", given.shown());
    }

    #[test]
    fn no_policy_is_written_in_two_ways() {
        let read = |text: &str| serde_json::from_str::<Queue>(text).unwrap();
        let none = read(r#"{"name": "a", "effective_policy_definition": [], "policy": ""}"#);
        assert!(none.policy_definition().is_empty());
        let some = read(r#"{"name": "a", "effective_policy_definition": {"overflow": "drop-head"}, "policy": "drop"}"#);
        assert_eq!(some.policy_definition()["overflow"], "drop-head");
        assert_eq!(some.policies(), "policy drop");
    }
}
