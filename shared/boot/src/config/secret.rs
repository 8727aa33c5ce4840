//! A value that is used and never shown.

use std::cell::Cell;
use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const HIDDEN: &str = "***";

/// A password, a token, or an address that may contain one.
///
/// In a file: `key = "text"`, or `key = { file = "path" }` to read it from a file (one line end at its end is dropped).
/// In the environment: `COUNTERSIGN_<SECTION>__<KEY>` or `COUNTERSIGN_<SECTION>__<KEY>__FILE`. Text in quotes or brackets
/// is taken for TOML there when the key has no default; put such a secret into a file.
///
/// `Debug` and `Serialize` hide it: an address keeps everything but its password (and parameters that sound like one),
/// all else becomes `***`.
#[derive(Clone, Default)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The secret in full; keep it out of logs and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What may be shown of it.
    #[must_use]
    pub fn redacted(&self) -> String {
        redact(self.expose())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

thread_local! {
    /// Whether secrets are being written in full on this thread. See [`in_full`].
    static IN_FULL: Cell<bool> = const { Cell::new(false) };
}

/// Serializes with secrets in full, which `write` must do on this thread: defaults have to survive being merged.
pub(super) fn in_full<T>(write: impl FnOnce() -> T) -> T {
    struct Hide;
    impl Drop for Hide {
        fn drop(&mut self) {
            IN_FULL.set(false);
        }
    }
    IN_FULL.set(true);
    let _hide = Hide;
    write()
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if IN_FULL.get() { serializer.serialize_str(self.expose()) } else { serializer.serialize_str(&self.redacted()) }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    file: String,
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or { file = \"path\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    // A variable holds text; what looks like a number or a truth was made one before it came here, with nothing lost.
    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<Secret, E> {
        Ok(Secret::new(truth.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Secret, E> {
        Ok(Secret::new(number.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Secret, E> {
        Ok(Secret::new(number.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Secret, E> {
        Ok(Secret::new(number.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
        let InFile { file } = InFile::deserialize(MapAccessDeserializer::new(map))?;
        let text = std::fs::read_to_string(&file)
            .map_err(|e| A::Error::custom(format!("the secret's file {file} cannot be read: {e}")))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(A::Error::custom(format!("the secret's file {file} is empty")));
        }
        Ok(Secret::new(text))
    }
}

/// An address without its password; anything else without everything.
fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return if text.is_empty() { String::new() } else { HIDDEN.to_owned() };
    };
    // The last `@`, wherever it is: a password may hold any sign if nobody escaped it.
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{}", redact_query(host)),
            None => format!("{user}@{}", redact_query(host)),
        },
        None => redact_query(rest),
    };
    format!("{scheme}://{rest}")
}

fn redact_query(rest: &str) -> String {
    let Some((path, query)) = rest.split_once('?') else {
        return rest.to_owned();
    };
    let shown: Vec<String> = query.split('&').map(redact_parameter).collect();
    format!("{path}?{}", shown.join("&"))
}

fn redact_parameter(parameter: &str) -> String {
    let name = parameter.split('=').next().unwrap_or_default();
    let lower = name.to_ascii_lowercase();
    let sounds_secret = ["pass", "secret", "token", "key"].iter().any(|w| lower.contains(w));
    if sounds_secret { format!("{name}={HIDDEN}") } else { parameter.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let cases = [
            ("amqp://guest:guest@127.0.0.1:5672/%2f", "amqp://guest:***@127.0.0.1:5672/%2f"),
            ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
            ("postgres://app:a@b/c?d@db/app", "postgres://app:***@db/app"),
            ("postgres://db/app?user=app&password=x&sslmode=require", "postgres://db/app?user=app&password=***&sslmode=require"),
            ("sqlite://upstream.db?mode=rwc", "sqlite://upstream.db?mode=rwc"),
            ("hunter2", "***"),
            ("", ""),
        ];
        for (secret, shown) in cases {
            assert_eq!(Secret::new(secret).redacted(), shown);
            assert_eq!(format!("{:?}", Secret::new(secret)), shown);
            assert_eq!(serde_json::to_value(Secret::new(secret)).unwrap(), shown);
        }
    }

    #[test]
    fn secrets_are_hidden_again_after_a_panic_while_they_were_written_in_full() {
        let panicked = std::panic::catch_unwind(|| in_full(|| panic!("while writing")));
        assert!(panicked.is_err());
        assert_eq!(serde_json::to_value(Secret::new("x")).unwrap(), "***");
    }
}
