//! The broker's management interface: the only one that shows policies and bindings.

use countersign_boot::Secret;
use countersign_broker::{Config, Login};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::doctor::ask::{Answer, Http, Shown};

/// Where the management interface usually listens.
const PORT: u16 = 15_672;

/// What the management interface says of one virtual host.
#[derive(Clone, Debug)]
pub struct Managed {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
    /// None when the user may not see them.
    pub policies: Option<Vec<Policy>>,
    /// None when the user may not see them.
    pub operator_policies: Option<Vec<Policy>>,
    /// For its clock.
    pub answer: Answer,
}

/// One exchange.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Exchange {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    #[serde(default)]
    pub arguments: Value,
    /// The name of the policy, if one matches.
    #[serde(default)]
    pub policy: Option<String>,
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
    /// An object, or an empty list for none. Comes with the queue's statistics, so it may be missing or of some seconds ago.
    #[serde(default)]
    pub effective_policy_definition: Value,
}

/// One policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Policy {
    pub name: String,
    pub definition: Map<String, Value>,
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
    /// What its policies set; None when it has some and what they say cannot be seen.
    pub fn policy_definition(&self, managed: &Managed) -> Option<Map<String, Value>> {
        let by_name = |name: Option<&str>, listed: Option<&Vec<Policy>>| match name {
            None => Some(Map::new()),
            Some(name) => listed?.iter().find(|policy| policy.name == name).map(|policy| policy.definition.clone()),
        };
        let users = by_name(named(self.policy.as_ref()), managed.policies.as_ref());
        let operators = by_name(named(self.operator_policy.as_ref()), managed.operator_policies.as_ref());
        match (users, operators) {
            (Some(users), Some(operators)) => Some(merged(users, operators)),
            _ => self.effective_policy_definition.as_object().cloned(),
        }
    }

    /// The names of its policies.
    pub fn policies(&self) -> String {
        let kinds = [("policy", &self.policy), ("operator policy", &self.operator_policy)];
        let names = kinds.iter().filter_map(|(kind, name)| named(name.as_ref()).map(|name| format!("{kind} {name}")));
        names.collect::<Vec<_>>().join(" and ")
    }
}

/// Some versions write an empty name for none.
fn named(name: Option<&String>) -> Option<&str> {
    name.map(String::as_str).filter(|name| !name.is_empty())
}

/// As the broker merges them: of two numbers the lower one holds, else the operator's word.
fn merged(mut users: Map<String, Value>, operators: Map<String, Value>) -> Map<String, Value> {
    for (key, value) in operators {
        let lower = match (users.get(&key).and_then(Value::as_i64), value.as_i64()) {
            (Some(one), Some(other)) => Value::from(one.min(other)),
            _ => value,
        };
        users.insert(key, lower);
    }
    users
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

/// Asks for the exchanges, queues and bindings of the virtual host.
pub async fn ask(http: &Http, address: &Address) -> Result<Managed, Closed> {
    let vhost = encode(&address.login.vhost);
    let columns = "columns=name,arguments,policy,operator_policy,effective_policy_definition";
    let exchanges = get(http, address, &format!("exchanges/{vhost}")).await?;
    let queues = get(http, address, &format!("queues/{vhost}?{columns}")).await?;
    let bindings = get(http, address, &format!("bindings/{vhost}")).await?;
    let policies = get(http, address, &format!("policies/{vhost}")).await;
    let operator_policies = get(http, address, &format!("operator-policies/{vhost}")).await;
    Ok(Managed {
        exchanges: parse(address, &exchanges)?,
        queues: parse(address, &queues)?,
        bindings: parse(address, &bindings)?,
        // They take a tag of their own.
        policies: policies.ok().and_then(|answer| parse(address, &answer).ok()),
        operator_policies: operator_policies.ok().and_then(|answer| parse(address, &answer).ok()),
        answer: bindings,
    })
}

async fn get(http: &Http, address: &Address, path: &str) -> Result<Answer, Closed> {
    let Address { login, .. } = address;
    let login = if address.named { Shown::Nothing } else { Shown::Password(&login.user, &login.password) };
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
                "`rabbitmqctl set_user_tags {user} policymaker`, or name another user: --management-url http://USER:PASSWORD@HOST:{PORT}"
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
    use serde_json::json;

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
    fn what_policies_set_is_known_by_their_names_or_by_the_statistics() {
        let read = |text: &str| serde_json::from_str::<Queue>(text).unwrap();
        let policy =
            |name: &str, definition: Value| Policy { name: name.into(), definition: definition.as_object().unwrap().clone() };
        let answer = Answer { status: 200, body: String::new(), date: None, between_ms: (0, 0) };
        let mut managed = Managed {
            exchanges: Vec::new(),
            queues: Vec::new(),
            bindings: Vec::new(),
            policies: Some(vec![policy("p", json!({"max-length": 9, "overflow": "drop-head", "expires": 1}))]),
            operator_policies: Some(vec![policy("o", json!({"max-length": 5, "overflow": "reject-publish"}))]),
            answer,
        };
        let none = read(r#"{"name": "a", "effective_policy_definition": [], "policy": ""}"#);
        assert_eq!(none.policy_definition(&managed), Some(Map::new()));
        let both = read(r#"{"name": "a", "policy": "p", "operator_policy": "o"}"#);
        assert_eq!(
            both.policy_definition(&managed).map(Value::from),
            Some(json!({"max-length": 5, "overflow": "reject-publish", "expires": 1}))
        );
        assert_eq!(both.policies(), "policy p and operator policy o");
        (managed.policies, managed.operator_policies) = (None, None);
        assert_eq!(none.policy_definition(&managed), Some(Map::new()));
        assert_eq!(both.policy_definition(&managed), None, "it is there, but cannot be seen");
        let counted = read(r#"{"name": "a", "policy": "p", "effective_policy_definition": {"expires": 1}}"#);
        assert_eq!(counted.policy_definition(&managed).map(Value::from), Some(json!({"expires": 1})));
    }
}
